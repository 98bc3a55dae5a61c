"""What run_seeds.py and run_ablation.py share: arms that run over the same seeds, and then stand side by side.

The first arm is the reference. Differences to it are paired, seed by seed: what a seed does to both falls out.
"""

import csv
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t
from tqdm import tqdm

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write
from fuxictr_mm.run.check import check_runs
from fuxictr_mm.run.evaluation import FREQUENCIES
from fuxictr_mm.run.provenance import machine
from fuxictr_mm.run.results import Result, finished_result
from fuxictr_mm.run.run import run_experiment

__all__ = [
    "Arm", "Comparison", "Row", "check_arms", "collect", "commits", "compare", "markdown", "plot_bars", "plot_curve",
    "run_arms", "table", "write_csv",
]  # fmt: skip

FIELDS = ("dataset_id", "seed", "split", "AUC", "gAUC", "logloss")
COSTS = ("parameters", "seconds")
BLUE, ORANGE = "#8fb3d9", "#c9772c"


@dataclass(frozen=True)
class Arm:
    """One experiment of a comparison.

    Attributes:
        name: for people.
        run_id: its runs have the model ids ``<run_id>_seed<seed>``.
        experiment: changes applied.
        overrides: what was changed, as it is written.
    """

    name: str
    run_id: str
    experiment: Experiment
    overrides: dict[str, Any] = field(default_factory=dict)

    def run(self, seed: int, gpu: int = -1) -> Experiment:
        """The experiment of one run."""
        return self.experiment.but(seed=seed, gpu=gpu, model_id=f"{self.run_id}_seed{seed}", verbose=0, resume=True)


@dataclass(frozen=True)
class Row:
    """An arm and its results, one per seed."""

    arm: Arm
    results: list[Result]

    def values(self, metric: str, split: str = "test") -> list[float]:
        """One value per seed, NaN where the model does not report the metric."""
        return [getattr(result, split).get(metric, math.nan) for result in self.results]


def check_arms(arms: Sequence[Arm]) -> None:
    """Refuse what could only fail after hours: data that a run does not admit, and no matplotlib for the plot.

    Raises:
        ConfigError, DataError: see there.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("the comparison's plot needs matplotlib; pip install 'fuxictr_mm[plot]'.")
    check_runs([arm.experiment for arm in arms], compares_test=True)


def run_arms(arms: Sequence[Arm], seeds: Sequence[int], gpu: int) -> Iterator[int]:
    """Run what has not ended yet, seed by seed; yields a seed when all arms have ended with it.

    Raises:
        TrainingInterrupted: a signal ended training; the same call goes on there.
    """
    with tqdm(total=len(seeds) * len(arms), desc="runs", file=sys.stderr) as bar:
        for seed in seeds:
            for arm in arms:
                bar.set_postfix_str(f"{arm.name}, seed {seed}")
                run_experiment(arm.run(seed, gpu))
                bar.update()
            yield seed


def collect(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Row]:
    """The arms that have ended with all of these seeds, in their order."""
    rows = []
    for arm in arms:
        results = [result for seed in seeds if (result := finished_result(arm.run(seed)))]
        if len(results) == len(seeds):
            rows.append(Row(arm, results))
    return rows


@dataclass(frozen=True)
class Comparison:
    """A metric over seeds, beside that of a reference.

    Attributes:
        mean, std: over seeds; one seed has no standard deviation.
        difference: mean of the paired differences to the reference.
        low, high: its 95 % interval by Student's t; ``None`` for one seed.
    """

    mean: float
    std: float | None
    difference: float
    low: float | None
    high: float | None


def compare(values: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Compare one value per seed with the reference's, the seeds in the same order."""
    differences = [value - other for value, other in zip(values, reference)]
    mean, difference, n = statistics.fmean(values), statistics.fmean(differences), len(values)
    if n == 1:
        return Comparison(mean, None, difference, None, None)
    half = float(student_t.ppf(0.975, n - 1)) * _std(differences) / math.sqrt(n)
    return Comparison(mean, _std(values), difference, difference - half, difference + half)


def _std(values: Sequence[float]) -> float:
    """NaN stays NaN, where ``statistics.stdev`` fails."""
    return math.nan if any(map(math.isnan, values)) else statistics.stdev(values)


def table(rows: Sequence[Row], label: str) -> list[dict[str, str]]:
    """One line of cells per row; ``label`` heads the names."""
    reference = rows[0].values("AUC")
    apart = frequencies(rows)
    lines = []
    for row in rows:
        auc = row.values("AUC")
        figures = compare(auc, reference)
        below = sum(one < other for one, other in zip(auc, reference))
        lines.append(
            {
                label: row.arm.name,
                "test AUC": _cell(figures.mean),
                "± std": _cell(figures.std),
                "minus first": _cell(figures.difference),
                "95 % interval": "-" if len(auc) == 1 else f"{_cell(figures.low)} to {_cell(figures.high)}",
                "seeds below first": f"{below} of {len(auc)}",
                "test gAUC": _cell(statistics.fmean(row.values("gAUC"))),
                "test logloss": _cell(statistics.fmean(row.values("logloss"))),
                **{
                    f"{name} AUC": _cell(statistics.fmean(_auc_of(result, name) for result in row.results))
                    for name in apart
                },
                "valid AUC": _cell(statistics.fmean(row.values("AUC", "valid"))),
                "parameters": f"{row.results[0].parameters:,}",
                "train s": f"{statistics.fmean(result.seconds for result in row.results):.0f}",
            }
        )
    return lines


def frequencies(rows: Sequence[Row]) -> list[str]:
    """The groups of targets that test AUC is told apart for; none where all targets are in one."""
    groups = [name for name in FREQUENCIES if all(name in r.by_frequency.get("test", {}) for r in rows[0].results)]
    return groups if len(groups) > 1 else []


def _auc_of(result: Result, frequency: str, split: str = "test") -> float:
    """AUC over the rows whose target is ``"cold"``, ``"rare"`` or ``"warm"``, NaN where there is none."""
    auc = result.by_frequency.get(split, {}).get(frequency, {}).get("AUC")
    return math.nan if auc is None else auc


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def markdown(lines: Sequence[dict[str, str]], rows: Sequence[Row], seeds: Sequence[int], command: str) -> str:
    """The table with what is needed to run it again."""
    header = list(lines[0])
    text = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    text += ["| " + " | ".join(line[name] for name in header) + " |" for line in lines]
    text += ["", f"Command: `{command}`", f"Seeds {list(seeds)}; commit {commits(rows)}; {machine()}."]
    return "\n".join(text) + "\n"


def commits(rows: Sequence[Row]) -> str:
    """Those that the runs began with."""
    return ", ".join(sorted({result.commit for row in rows for result in row.results}))


def write_csv(rows: Sequence[Row], seeds: Sequence[int], label: str, path: Path) -> None:
    """Every run and split on a line of its own."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        apart = frequencies(rows)
        fields = (label, *FIELDS, *(f"{name}_AUC" for name in apart), *COSTS)
        writer = csv.DictWriter(stream, fields, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            for seed, result in zip(seeds, row.results):
                line = {**vars(result), label: row.arm.name, "seed": seed, "seconds": round(result.seconds, 1)}
                for split in ("valid", "test"):
                    of_groups = {f"{name}_AUC": _auc_of(result, name, split) for name in apart}
                    writer.writerow({**line, "split": split, **getattr(result, split), **of_groups})


def plot_bars(rows: Sequence[Row], path: Path) -> None:
    """Left test AUC, a dot per seed; right the paired difference to the first row with its 95 % interval.

    Bars stand on the right alone: the axis on the left does not begin at zero, so their lengths would mislead.
    """
    figure, (left, right) = _axes(figsize=(12, 0.45 * len(rows) + 1.5), sharey=True)
    places, figures = range(len(rows)), _auc(rows)
    left.plot([one.mean for one in figures], places, "|", color=BLUE, markersize=18, markeredgewidth=4)
    for y, row in enumerate(rows):
        left.plot(row.values("AUC"), [y] * len(row.results), "k.", markersize=5)
    values = [value for row in rows for value in row.values("AUC")]
    margin = 0.15 * (max(values) - min(values)) + 0.002
    left.set_xlim(min(values) - margin, max(values) + margin)
    left.set_yticks(places, [row.arm.name for row in rows])
    left.grid(axis="y", color="lightgrey", linewidth=0.6)
    left.invert_yaxis()
    left.set_xlabel("test AUC (stroke: mean, dots: seeds)")
    right.barh(places, [one.difference for one in figures], xerr=_halves(figures), color=BLUE, capsize=3)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel(_difference_label(rows))
    _save(figure, path)


def plot_curve(rows: Sequence[Row], x: Sequence[float], label: str, path: Path) -> None:
    """The same over a number: left test AUC with its standard deviation, right the paired difference."""
    figure, (left, right) = _axes(figsize=(12, 4.5))
    figures = _auc(rows)
    style: dict[str, Any] = {"color": ORANGE, "capsize": 3, "marker": "o", "markersize": 4}
    left.errorbar(x, [one.mean for one in figures], yerr=[one.std or 0 for one in figures], **style)
    for place, row in zip(x, rows):
        left.plot([place] * len(row.results), row.values("AUC"), "k.", markersize=3)
    left.set_ylabel("test AUC (mean ± std, dots: seeds)")
    right.errorbar(x, [one.difference for one in figures], yerr=_halves(figures), **style)
    right.axhline(0, color="black", linewidth=0.8)
    right.set_ylabel(_difference_label(rows))
    for axes in (left, right):
        if min(x) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{place:g}" for place in x])
        axes.set_xlabel(label)
    _save(figure, path)


def _auc(rows: Sequence[Row]) -> list[Comparison]:
    return [compare(row.values("AUC"), rows[0].values("AUC")) for row in rows]


def _halves(figures: Sequence[Comparison]) -> list[float] | None:
    """Half the width of each interval; ``None`` for one seed."""
    halves = [one.high - one.difference for one in figures if one.high is not None]
    return halves or None


def _difference_label(rows: Sequence[Row]) -> str:
    interval = ", 95 % interval" if len(rows[0].results) > 1 else ""
    return f"test AUC minus that of {rows[0].arm.name!r}{interval}"


def _axes(**options: Any) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(1, 2, layout="constrained", **options)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
