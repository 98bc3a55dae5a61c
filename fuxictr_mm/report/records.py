"""What a file of results holds, typed; numbers that a file has as null or NaN are NaN."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fuxictr_mm.study.tables import compare

__all__ = [
    "METRICS", "About", "Benchmark", "Block", "Document", "Estimate", "Explained", "Explanation", "Looked", "Metrics",
    "Run", "Study", "Variant", "summarize",
]  # fmt: skip

NAN = float("nan")
METRICS = ("AUC", "gAUC", "logloss")  # the usual ones
Metrics = dict[str, float]


@dataclass(frozen=True)
class About:
    """Where a block of the page comes from; an empty text is unknown.

    Attributes:
        date: the file's own ``date`` if ``date_is_stated``, else the day when the file was written (ISO form).
        notes: sentences beside the result, for people.
    """

    file: str
    date: str
    date_is_stated: bool = False
    command: str = ""
    commit: str = ""
    machine: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation over seeds; paired difference to the first variant with its 95 % interval."""

    mean: float
    std: float = NAN
    difference: float = NAN
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True)
class Run:
    """One seed. ``curve``: (step, train loss, valid metrics); ``by_frequency``: split -> group -> metrics."""

    seed: str
    valid: Metrics
    test: Metrics
    by_frequency: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    curve: Sequence[tuple[float, float, Metrics]] = ()
    warnings: Sequence[str] = ()

    def metrics(self, split: str) -> Metrics:
        return self.test if split == "test" else self.valid


@dataclass(frozen=True)
class Variant:
    """One arm of a study. ``summary``: split -> metric -> estimate; ``x``: its number in a study over a number."""

    name: str
    overrides: Mapping[str, Any]
    parameters: float
    train_seconds: float
    latency_ms: float
    summary: dict[str, dict[str, Estimate]]
    runs: Sequence[Run]
    explained_variance: dict[str, dict[str, list[float]]]
    x: float = NAN

    def estimate(self, split: str, metric: str) -> Estimate:
        return self.summary.get(split, {}).get(metric, Estimate(NAN))


@dataclass(frozen=True)
class Study:
    """Variants side by side, the first one is what the others are compared with; ``over``: what ``x`` is."""

    about: About
    name: str
    dataset_id: str
    base_expid: str
    seeds: Sequence[str]
    variants: Sequence[Variant]
    over: str = ""

    def metric_names(self, split: str) -> list[str]:
        """The usual ones first."""
        found = dict.fromkeys(name for variant in self.variants for name in variant.summary.get(split, {}))
        return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]


@dataclass(frozen=True)
class Explained:
    """One scored row; ``attention[layer][head]`` has one share per item of ``history`` (oldest first)."""

    title: str
    score: float
    history: Sequence[str]
    attention: Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Looked:
    """What one experiment looks at: a mapping per layer and head over many rows, and some rows."""

    expid: str
    dataset_id: str
    summary: Sequence[Metrics]
    rows: Sequence[Explained]


@dataclass(frozen=True)
class Explanation:
    """Attention of an experiment, or of two on the same rows."""

    about: About
    experiments: Sequence[Looked]


@dataclass(frozen=True)
class Benchmark:
    """A table of timings; ``settings`` and ``versions`` as the file has them."""

    about: About
    name: str
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Document:
    """A Markdown file of pipe tables (lists of cells, the first one is the head) and paragraphs, in its order."""

    about: About
    name: str
    blocks: Sequence[str | list[list[str]]]


Block = Study | Explanation | Benchmark | Document


def summarize(variants: Sequence[Variant]) -> list[Variant]:
    """Fill ``summary`` from the runs, as run_ablation.py does; differences need the first variant's seeds."""
    first = variants[0].runs
    filled = []
    for variant in variants:
        has_pairs = [run.seed for run in variant.runs] == [run.seed for run in first]
        summary: dict[str, dict[str, Estimate]] = {}
        for split in ("test", "valid"):
            names = dict.fromkeys(name for run in variant.runs for name in run.metrics(split))
            for name in names:
                values = [run.metrics(split).get(name, NAN) for run in variant.runs]
                reference = [run.metrics(split).get(name, NAN) for run in first] if has_pairs else [NAN] * len(values)
                figures = compare(values, reference).model_dump().items()
                found = Estimate(**{key: NAN if value is None else value for key, value in figures})
                summary.setdefault(split, {})[name] = found
        filled.append(replace(variant, summary=summary))
    return filled
