"""Results that no study has summarised, as studies: single runs side by side, and the csv of run_seeds.py."""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import misfit
from fuxictr_mm.run import Result
from fuxictr_mm.study.records import Estimate, RunRecord, StudyRecord, VariantRecord
from fuxictr_mm.study.tables import compare

__all__ = ["is_of_seeds", "single_runs", "study_of_seeds"]

NAN = float("nan")
SEED_COLUMNS = ["expid", "dataset_id", "seed", "split"]  # of run_seeds.py; its metrics follow
AGAIN = "write the file again"


def single_runs(name: str, dataset_id: str, results: Iterable[Result]) -> StudyRecord:
    """Runs on the same data side by side; those whose ids differ by their seed are one variant."""
    variants: dict[str, list[tuple[int, RunRecord]]] = {}
    for result in results:
        expid, _, seed = result.expid.rpartition("_seed")
        is_seed = bool(expid) and seed.isdecimal()
        run = RunRecord.of(int(seed) if is_seed else None, result)
        variants.setdefault(expid if is_seed else result.expid, []).append((result.parameters, run))
    return _study(name, dataset_id, variants)


def is_of_seeds(text: str) -> bool:
    """Whether a csv is one of run_seeds.py."""
    return text.split("\n", 1)[0].strip().split(",")[:4] == SEED_COLUMNS


def study_of_seeds(text: str, file: str, name: str) -> StudyRecord:
    """The csv of run_seeds.py.

    Raises:
        DataError: a line of ``file`` does not fit.
    """
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error as err:
        raise DataError(f"{file}: not a csv table ({err}); {AGAIN}.") from err
    if not is_of_seeds(text) or not rows:
        raise DataError(
            f"{file}: no table of run_seeds.py (columns {', '.join(SEED_COLUMNS)}, ... and at least one row), "
            "and no Markdown file of this name beside it; move it elsewhere."
        )
    lines = [_seed_line(row, f"{file}, line {number}") for number, row in enumerate(rows, start=2)]
    runs: dict[tuple[str, int], dict[str, _SeedLine]] = {}
    for line in lines:
        runs.setdefault((line.expid, line.seed), {})[line.split] = line
    variants: dict[str, list[tuple[int, RunRecord]]] = {}
    for (expid, seed), splits in runs.items():
        one = next(iter(splits.values()))
        valid, test = ((splits[s].model_extra or {}) if s in splits else {} for s in ("valid", "test"))
        run = RunRecord(
            seed=seed, valid=valid, test=test, by_frequency={}, curve=[], warnings=[], seconds=one.seconds
        )  # fmt: skip
        variants.setdefault(expid, []).append((one.parameters, run))
    return _study(name, ", ".join(dict.fromkeys(line.dataset_id for line in lines)), variants)


class _SeedLine(BaseModel):
    """A line of run_seeds.py's csv; its further columns are metrics."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    expid: str
    dataset_id: str
    seed: int
    split: str
    parameters: int
    seconds: float


def _seed_line(row: Mapping[str | None, str | None], place: str) -> _SeedLine:
    if None in row or None in row.values():
        columns = sum(name is not None for name in row)
        raise DataError(f"{place}: not one value for each of the {columns} columns; {AGAIN}.")
    try:
        return _SeedLine.model_validate({name: value or "nan" for name, value in row.items()})
    except ValidationError as err:
        raise misfit(place, err, AGAIN) from err


def _study(name: str, dataset_id: str, variants: Mapping[str, Sequence[tuple[int, RunRecord]]]) -> StudyRecord:
    """What run_ablation.py would have noted of these variants: of each the runs, with the parameters trained."""
    runs = {variant: [run for _, run in found] for variant, found in variants.items()}
    first = next(iter(runs.values()))
    seeds = dict.fromkeys(run.seed for alike in runs.values() for run in alike if run.seed is not None)
    records = [
        VariantRecord(
            name=variant,
            overrides={},
            parameters=variants[variant][0][0],
            train_seconds=statistics.fmean(run.seconds for run in alike),
            latency_p50_ms=None,
            explained_variance={},
            summary=_summary(alike, first),
            runs=alike,
        )
        for variant, alike in runs.items()
    ]
    return StudyRecord(
        study=name, dataset_id=dataset_id, base_expid="", over=None, seeds=list(seeds), command="", commit="",
        machine="", date="", variants=records,
    )  # fmt: skip


def _summary(runs: Sequence[RunRecord], first: Sequence[RunRecord]) -> dict[str, dict[str, Estimate]]:
    """Differences need the first variant's seeds."""
    has_pairs = [run.seed for run in runs] == [run.seed for run in first]
    summary: dict[str, dict[str, Estimate]] = {}
    for split in ("test", "valid"):
        for metric in dict.fromkeys(name for run in runs for name in getattr(run, split)):
            values, others = ([getattr(run, split).get(metric, NAN) for run in some] for some in (runs, first))
            summary.setdefault(split, {})[metric] = compare(values, others if has_pairs else [NAN] * len(values))
    return summary
