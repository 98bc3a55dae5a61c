"""Variants, their runs over seeds, and what these gave.

A variant is one experiment among several; a run is a variant with one seed. The first variant is the reference.
"""

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.errors import needs
from fuxictr_mm.files import only_one
from fuxictr_mm.run import Result, check_runs, finished_result
from fuxictr_mm.study.executor import end_with, execute

__all__ = ["Outcome", "Variant", "collect", "commits", "run_over_seeds", "this_command"]


@dataclass(frozen=True)
class Variant:
    """One experiment among several.

    Attributes:
        name: for people.
        experiment: changes applied.
        changes: key -> value, as it is written: what makes it differ.
    """

    name: str
    experiment: Experiment
    changes: dict[str, Any] = field(default_factory=dict)

    def run(self, seed: int) -> Experiment:
        """The run with this seed; its id is ``<expid>_seed<seed>``."""
        return self.experiment.but(seed=seed, model_id=f"{self.experiment.expid}_seed{seed}", verbose=0, resume=True)


@dataclass(frozen=True)
class Outcome:
    """A variant and the results of its runs, one per seed."""

    variant: Variant
    results: Sequence[Result]

    @property
    def name(self) -> str:
        return self.variant.name

    def values(self, metric: str, split: str = "test") -> list[float]:
        """One value per seed, NaN where the model does not report the metric."""
        found = [getattr(result, split).get(metric) for result in self.results]
        return [math.nan if value is None else value for value in found]


def collect(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Outcome]:
    """The variants whose runs with all of these seeds have ended, in their order."""
    outcomes = []
    for variant in variants:
        results = [result for seed in seeds if (result := finished_result(variant.run(seed)))]
        if len(results) == len(seeds):
            outcomes.append(Outcome(variant, results))
    return outcomes


def commits(outcomes: Sequence[Outcome]) -> str:
    """Those that the runs began with."""
    return ", ".join(sorted({result.commit for outcome in outcomes for result in outcome.results}))


def run_over_seeds(
    chosen: Sequence[Variant],
    seeds: Sequence[int],
    gpus: Sequence[int],
    file: Path,
    write: Callable[[Sequence[int]], str],
) -> None:
    """Run variants over seeds, and write the tables again whenever all of them have ended with one more seed.

    Args:
        chosen: variants to run.
        seeds: in the order in which they run.
        gpus: see :func:`execute`.
        file: what is written, without its suffix; two processes may not write it at once.
        write: gets the seeds that all variants have ended with, writes, and returns the table.

    Raises:
        ConfigError, DataError: matplotlib is not there, a run is not admitted, or another process writes the same.
        SystemExit: some runs failed.
    """
    needs("matplotlib", "plot")
    check_runs([variant.experiment for variant in chosen], compares_test=True)
    runs = {seed: [variant.run(seed) for variant in chosen] for seed in seeds}
    text, written = "", 0

    def after(ended: set[str]) -> None:
        nonlocal text, written
        done = list(takewhile(lambda seed: all(run.expid in ended for run in runs[seed]), seeds))
        if len(done) > written:
            text, written = write(done), len(done)

    with only_one(file.with_name(f".{file.name}.lock"), f"another run that writes {file}.md"):
        failures = execute([run for of_seed in runs.values() for run in of_seed], gpus, after)
    print("\n" + text)
    end_with(failures)


def this_command() -> str:
    """The command line of this process, as tables name it."""
    script, *arguments = sys.argv
    name = Path(script).name
    start = ["-m", "fuxictr_mm"] if name == "__main__.py" else [name]
    return f"python {shlex.join([*start, *arguments])}"
