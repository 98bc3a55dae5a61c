"""Tables: means over seeds with paired differences, as Markdown for people and as csv."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from fuxictr_mm.files import atomic_write
from fuxictr_mm.run import Result
from fuxictr_mm.run.evaluation import FREQUENCIES
from fuxictr_mm.study.records import Estimate
from fuxictr_mm.study.runs import Outcome

__all__ = ["compare", "comparison", "markdown_table", "write_csv", "write_runs", "write_text"]

FIELDS = ("dataset_id", "seed", "split", "AUC", "gAUC", "logloss")
COSTS = ("parameters", "seconds")


def markdown_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """One line per mapping below a head of their keys; numbers are shortened, ``None`` is a dash."""
    head = list(lines[0])
    rows = [head, ["---"] * len(head), *([_cell(line[name]) for name in head] for line in lines)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a csv file, whole or not at all; keys of a line that are no columns are left out."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def compare(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Compare one value per seed with the reference's, the seeds in the same order.

    Differences are paired, seed by seed: what a seed does to both falls out.
    """
    differences = [value - other for value, other in zip(values, reference)]
    mean, difference, n = statistics.fmean(values), statistics.fmean(differences), len(values)
    if n == 1:
        return Estimate(mean=mean, std=None, difference=difference, low=None, high=None)
    half = float(student_t.ppf(0.975, n - 1)) * _std(differences) / math.sqrt(n)
    return Estimate(mean=mean, std=_std(values), difference=difference, low=difference - half, high=difference + half)


def _std(values: Sequence[float]) -> float:
    """NaN stays NaN, where ``statistics.stdev`` fails."""
    return math.nan if any(map(math.isnan, values)) else statistics.stdev(values)


def comparison(outcomes: Sequence[Outcome], label: str) -> list[dict[str, Any]]:
    """One line of cells per variant; ``label`` heads the names."""
    reference = outcomes[0].values("AUC")
    groups = _groups(outcomes)
    lines = []
    for outcome in outcomes:
        auc = outcome.values("AUC")
        figures = compare(auc, reference)
        below = sum(one < other for one, other in zip(auc, reference))
        lines.append(
            {
                label: outcome.name,
                "test AUC": figures.mean,
                "± std": figures.std,
                "minus first": figures.difference,
                "95 % interval": None if len(auc) == 1 else f"{_cell(figures.low)} to {_cell(figures.high)}",
                "seeds below first": f"{below} of {len(auc)}",
                "test gAUC": statistics.fmean(outcome.values("gAUC")),
                "test logloss": statistics.fmean(outcome.values("logloss")),
                **{f"{name} AUC": statistics.fmean(_auc_of(r, name) for r in outcome.results) for name in groups},
                "valid AUC": statistics.fmean(outcome.values("AUC", "valid")),
                "parameters": f"{outcome.results[0].parameters:,}",
                "train s": f"{statistics.fmean(result.seconds for result in outcome.results):.0f}",
            }
        )
    return lines


def _groups(outcomes: Sequence[Outcome]) -> list[str]:
    """The groups of targets that test AUC is told apart for; none where all targets are in one."""
    results = outcomes[0].results
    groups = [name for name in FREQUENCIES if all(name in r.by_frequency.get("test", {}) for r in results)]
    return groups if len(groups) > 1 else []


def _auc_of(result: Result, frequency: str, split: str = "test") -> float:
    """AUC over the rows whose target is ``"cold"``, ``"rare"`` or ``"warm"``, NaN where there is none."""
    auc = result.by_frequency.get(split, {}).get(frequency, {}).get("AUC")
    return math.nan if auc is None else auc


def write_runs(outcomes: Sequence[Outcome], seeds: Sequence[int], label: str, path: Path) -> None:
    """Write a csv with a line per run and split."""
    groups = _groups(outcomes)
    lines = [
        {
            **vars(result),
            label: outcome.name,
            "seed": seed,
            "seconds": round(result.seconds, 1),
            "split": split,
            **getattr(result, split),
            **{f"{name}_AUC": _auc_of(result, name, split) for name in groups},
        }
        for outcome in outcomes
        for seed, result in zip(seeds, outcome.results)
        for split in ("valid", "test")
    ]
    write_csv(path, (label, *FIELDS, *(f"{name}_AUC" for name in groups), *COSTS), lines)
