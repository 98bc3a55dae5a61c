"""Does any wrong or odd value get through? Every key, on every way in, with a list of values that people mistype.

``python proofs/wrong_values.py`` tries a list of odd YAML texts on every key that is declared (``KEYS``,
``COLUMN_KEYS``, the constructors of models), and written cases where a list cannot know what is right: metrics, code,
names, files of strangers, tuners, studies and constructors. A value is right if it is refused in a sentence that names
its key before the first step, or if it is read as a person means it and the run ends with finite metrics. Writes
``results/wrong_values.md``; ends with status 1 if one is wrong.
"""

import argparse
import logging
import re
import signal
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odd_values import REFUSED, Trial, Workplace, of_every_key
from torch.optim.optimizer import register_optimizer_step_post_hook
from verdicts import conclude
from written_values import written

from fuxictr_mm.errors import ConfigError, DataError

HERE = Path(__file__).resolve().parents[1]
SECONDS = 60  # a value that takes longer hangs


@contextmanager
def watched(steps: list[int]) -> Iterator[None]:
    """Count optimizer steps, and end what hangs."""

    def hung(*_: Any) -> None:
        raise TimeoutError(f"hung for {SECONDS} s")

    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        hook.remove()


def judge(trial: Trial) -> tuple[str, str]:
    """``("refused" | "read right" | "wrong", why)``."""
    steps: list[int] = []
    try:
        with watched(steps):
            read = trial.do()
    except (ConfigError, DataError) as err:
        sentence = str(err)
        if steps:
            return "wrong", f"refused after {len(steps)} steps: {sentence}"
        if not trial.may_refuse:
            return "wrong", f"refused: {sentence}"
        key = trial.key.strip()
        # Of a column, its name is enough; what a 'pca' asks for is a column of an item file.
        column = rf"|'{trial.way[7:]}'|item column" if trial.way.startswith("column ") else ""
        if not re.search(rf"(?<![a-z_]){re.escape(key)}(?![a-z_]){column}", sentence):
            return "wrong", f"the sentence does not name {key}: {sentence}"
        if "\n" in sentence.strip() or "Traceback" in sentence:
            return "wrong", f"no sentence: {sentence}"
        return "refused", sentence
    except BaseException as err:
        if isinstance(err, KeyboardInterrupt | SystemExit):
            raise
        return "wrong", f"{type(err).__name__} after {len(steps)} steps: {' '.join(str(err).split())[:200]}"
    if trial.meant is REFUSED:
        return "wrong", f"taken in silence, as {read!r}"
    if read != trial.meant or (type(read) is bool) != (type(trial.meant) is bool):
        return "wrong", f"read as {read!r} where {trial.meant!r} is meant"
    return "read right", repr(read)


def try_all(trials: Iterator[Trial]) -> dict[Trial, tuple[str, str]]:
    """Judge every trial; the log of runs is of no interest here."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {trial: judge(trial) for trial in trials}
    finally:
        logging.disable(logging.NOTSET)


def table(found: Mapping[Trial, tuple[str, str]]) -> list[dict[str, Any]]:
    by_way: dict[str, Counter[str]] = defaultdict(Counter)
    for trial, (verdict, _) in found.items():
        by_way[trial.way][verdict] += 1
    total: Counter[str] = sum(by_way.values(), Counter())
    return [
        {"where": way, "tried": count.total(), **{name: count[name] for name in ("refused", "read right", "wrong")}}
        for way, count in [*by_way.items(), ("all", total)]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrong_values.") as name:
        place = Workplace(Path(name))
        found = try_all(trial for part in (written(place), of_every_key(place)) for trial in part)
    wrong = [
        f"{trial.way}: `{trial.key}: {trial.value}`: {why}"
        for trial, (verdict, why) in found.items()
        if verdict == "wrong"
    ]
    sentence = f"{len(wrong)} of {len(found)} values are handled wrongly."
    conclude(args.out / "wrong_values.md", table(found), sentence, wrong)


if __name__ == "__main__":
    main()
