"""Kill a run before each of its file operations, let each of them fail, and look at what is left.

``python proofs/kill_everywhere.py`` trains two tiny experiments (one in memory with PCA and click vectors, one
streamed) from nothing to the result. Then, for every operation on a file that Python carries out on the way (open,
rename, remove, make a folder, change rights, list), one run is killed before it, and another one gets a system error
from it. Further runs may write only files of so many bytes, which libraries in C++ and Rust find out themselves. A
killed run must end, when it is resumed, with the same bytes as one that was left alone; a failing operation must end in
one sentence with its path and status 2, or not matter. Writes ``results/kill_everywhere.md``; ends with status 1 if one
is wrong.
"""

import argparse
import errno
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from odd_values import COLUMNS, SMALL, Workplace
from tqdm import tqdm
from verdicts import conclude

from fuxictr_mm.cli import user_errors
from fuxictr_mm.run import resolve_experiment, run_experiment

HERE = Path(__file__).resolve().parents[1]
OPERATIONS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.listdir", "os.scandir",
}  # fmt: skip
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.ENAMETOOLONG, errno.EMFILE)
SIZES = (0, 100, 300, 600, 900, 1200, 1600, 2000, 2500, 3000, 4000, 5000, 6000, 8000, 10_000, 12_000, 16_000, 20_000)
SECONDS, KILLED, HUNG = 120, 137, 99
TRAINING = {"epochs": 3, "batch_size": 8, "checkpoint_steps": 1, "eval_steps": 4, "early_stop_patience": 99}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "in memory": {"model": "DIN_SE_MHTA", **SMALL["DIN_SE_MHTA"], "similarity": ["clicks"], "accumulation_steps": 2},
    "streamed": {"model": "Transformer_DCNv2", **SMALL["Transformer_DCNv2"], "num_heads": 1, "stream": True},
}


@dataclass(frozen=True)
class Fault:
    """What happens to a run.

    Attributes:
        at: number of the file operation, from 1; 0 is none.
        error: the system error that it ends in; 0: the process is killed before it.
        most: bytes that a file may have, ``None`` without a limit.
    """

    at: int = 0
    error: int = 0
    most: int | None = None

    @property
    def kind(self) -> str:
        if self.most is not None:
            return "a limit of file sizes"
        return "a system error" if self.error else "killed"


@dataclass(frozen=True)
class Ended:
    """A run's process after its end."""

    status: int
    said: str
    operations: int


class Runs:
    """Runs of one experiment, each in a folder and a process of its own."""

    def __init__(self, place: Workplace, model: dict[str, Any]) -> None:
        columns = [{**column, "freeze_emb": True} if column["name"] == "emb" else column for column in COLUMNS]
        self._place = place
        self._model = {**TRAINING, **model}
        self._dataset = {**place.dataset, "feature_cols": columns}
        self.context = multiprocessing.get_context("forkserver")
        # torch._dynamo: the first optimizer of a process imports it, which takes longer than the training here.
        self.context.set_forkserver_preload(["fuxictr_mm.run.run", "torch._dynamo"])

    def new(self) -> Path:
        """A config folder without outputs."""
        return self._place.config(self._model, self._dataset)

    def go(self, config: Path, fault: Fault) -> Ended:
        notes = config.parent / "notes"
        shutil.rmtree(notes, ignore_errors=True)
        status, said = self.process(partial(_run, config, self._place.folder, fault), notes)
        count = notes / "count"
        return Ended(status, said, int(count.read_text()) if count.is_file() else 0)

    def process(self, act: Callable[[Path], None], notes: Path) -> tuple[int, str]:
        """Act in a process of its own, with a folder for what it finds; returns its status and what it said.

        multiprocessing's own status gets lost when several threads wait for processes.
        """
        notes.mkdir()
        ear, mouth = self.context.Pipe(duplex=False)  # holds 64 KB; a file would count for a limit of file sizes
        process = self.context.Process(target=_act, args=(act, notes, mouth))
        process.start()
        mouth.close()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return HUNG, f"hung for {SECONDS} s"
        status = notes / "status"
        with open(ear.fileno(), "rb", closefd=False) as stream:
            said = stream.read().decode(errors="replace")
        return int(status.read_text()) if status.is_file() else KILLED, said


def _act(act: Callable[[Path], None], notes: Path, mouth: Connection) -> None:
    for number in (1, 2):
        os.dup2(mouth.fileno(), number)
    status = 1
    try:
        with user_errors():
            act(notes)
        status = 0
    except SystemExit as err:
        status = int(err.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (notes / "status").write_text(str(status))


def _run(config: Path, watched: Path, fault: Fault, notes: Path) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in OPERATIONS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(str(watched)) or path.startswith(str(notes)):
            return
        count += 1
        if count == fault.at and fault.error:
            raise OSError(fault.error, os.strerror(fault.error), path)
        if count == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if fault.most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.most, resource.RLIM_INFINITY))
    run_experiment(resolve_experiment("run", config, resume=True), csv_file=config / "runs.csv")
    (notes / "count").write_text(str(count))


def outputs(config: Path) -> dict[str, bytes]:
    """File -> bytes of all that a run leaves, without what tells the time or the process."""
    found = {}
    for file in sorted(path for path in config.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".log")):
        content = file.read_bytes()
        if file.name.endswith((".result.json", ".params.json")):
            content = re.sub(rb'"(seconds|commit|checksum)": [^,\n]*', b"", content)
        if file.suffix == ".csv":
            content = b"\n".join(line.partition(b"[exp_id]")[2] for line in content.splitlines())
        if file.suffix != ".lock":  # made and kept for good, empty
            found[str(file.relative_to(config))] = content
    return found


def judge(runs: Runs, expected: dict[str, bytes], fault: Fault) -> tuple[Fault, str, str]:
    """The fault, how the run ended (killed, refused, did not matter) and what is wrong with it, if anything."""
    config = runs.new()
    ended = runs.go(config, fault)
    wrong = ""
    if ended.status == KILLED and fault.kind == "killed":
        how = "killed"
    elif ended.status == 2 and fault.kind != "killed":
        how = "refused"
        sentences = [line for line in ended.said.splitlines() if line.startswith("error: ")]
        if "Traceback" in ended.said or len(sentences) != 1 or str(config.parent.parent) not in sentences[0]:
            wrong = f"no sentence with its path: {ended.said[-300:]!r}"
    elif ended.status == 0:
        how = "did not matter"
    else:
        how, wrong = "wrong", f"status {ended.status}: {ended.said[-300:]!r}"
    again = runs.go(config, Fault())
    if again.status:
        wrong = wrong or f"the next run ends with status {again.status}: {again.said[-300:]!r}"
    else:
        found = outputs(config)
        differs = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
        wrong = wrong or (f"differs in {', '.join(differs[:3])}" if differs else "")
    shutil.rmtree(config.parent)
    return fault, how, wrong


def faults(operations: int, every: int) -> list[Fault]:
    """One of each kind before every file operation, or before one in ``every``."""
    found = [Fault(at) for at in range(1, operations + 1, every)]
    found += [Fault(at, ERRORS[at % len(ERRORS)]) for at in range(1, operations + 1, every)]
    return found + [Fault(most=size) for size in SIZES[::every]]


def prove(folder: Path, every: int, at_once: int = 2) -> list[tuple[str, Fault, str, str]]:
    """Returns experiment, fault, how it ended and what is wrong of every run."""
    place, rows = Workplace(folder, users=40), []
    for name, model in EXPERIMENTS.items():
        runs = Runs(place, model)
        alone = runs.new()
        ended = runs.go(alone, Fault())
        assert ended.status == 0, ended.said
        expected = outputs(alone)
        chosen = faults(ended.operations, every)
        with ThreadPoolExecutor(at_once) as pool:
            judged = pool.map(lambda fault: judge(runs, expected, fault), chosen)  # noqa: B023
            rows += [(name, *one) for one in tqdm(judged, total=len(chosen), desc=name)]
    return rows


def table(rows: list[tuple[str, Fault, str, str]]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for name in EXPERIMENTS:
        for kind in ("killed", "a system error", "a limit of file sizes"):
            of_kind = [row for row in rows if row[0] == name and row[1].kind == kind]
            count = Counter("wrong" if wrong else how for _, _, how, wrong in of_kind)
            endings = {how: count[how] for how in ("killed", "refused", "did not matter", "wrong")}
            lines.append({"run": name, "what happens": kind, "tried": len(of_kind), **endings})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--every", type=int, default=1, help="try one operation in so many")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill_everywhere.") as name:
        rows = prove(Path(name), args.every)
    wrong = [f"{name}, {fault}: {why}" for name, fault, _, why in rows if why]
    sentence = f"{len(wrong)} of {len(rows)} runs are wrong; all others end, resumed, with the bytes of one left alone."
    conclude(args.out / "kill_everywhere.md", table(rows), sentence, wrong)


if __name__ == "__main__":
    main()
