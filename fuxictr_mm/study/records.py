"""The JSON of a study, as it is written and read: ``experiments/results/<study>_<dataset>.json``."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fuxictr_mm.files import read_json, write_json
from fuxictr_mm.run.results import Result

__all__ = ["CurvePoint", "Estimate", "RunRecord", "StudyRecord", "VariantRecord"]

Metrics = dict[str, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A metric over seeds, compared with that of the first variant.

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


class CurvePoint(_Record):
    """One evaluation during a training; ``train_loss`` is the mean since the one before."""

    step: int
    epoch: float
    train_loss: float
    valid: Metrics


class RunRecord(_Record):
    """A variant with one seed (``None``: not known); see :class:`~fuxictr_mm.run.results.Result`."""

    seed: int | None
    valid: Metrics
    test: Metrics
    by_frequency: dict[str, dict[str, dict[str, int | float | None]]]
    curve: list[CurvePoint]
    warnings: list[str]
    seconds: float

    @classmethod
    def of(cls, seed: int | None, result: Result) -> "RunRecord":
        """What a study keeps of a result."""
        kept = {name: getattr(result, name) for name in cls.model_fields if name != "seed"}
        return cls.model_validate({"seed": seed, **kept})


class VariantRecord(_Record):
    """One variant.

    Attributes:
        x: what its name says, in a study over a number; the JSON of another study has no such key.
        overrides: what it changes: key -> value.
        latency_p50_ms: median time to score the candidates of one request, ``None`` for models that are not ours.
        explained_variance: item column -> entry of its ``pca`` -> share of variance per component.
        summary: split -> metric -> estimate.
    """

    name: str
    x: float | None = None
    overrides: dict[str, Any]
    parameters: int
    train_seconds: float
    latency_p50_ms: float | None
    explained_variance: dict[str, dict[str, list[float]]]
    summary: dict[str, dict[str, Estimate]]
    runs: list[RunRecord]


class StudyRecord(_Record):
    """A study on one data set; the first variant is the reference.

    Attributes:
        over: what ``x`` of the variants is; ``None``: they are words.
        date: ISO form.
    """

    kind: Literal["ablation"] = "ablation"
    study: str
    dataset_id: str
    base_expid: str
    over: str | None
    seeds: list[int]
    command: str
    commit: str
    machine: str
    date: str
    variants: Annotated[list[VariantRecord], Field(min_length=1)]

    @classmethod
    def read(cls, file: Path) -> "StudyRecord":
        """Read a study's JSON.

        Raises:
            DataError: it is none; says where it differs.
        """
        return read_json(cls, file, "run the study again")

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        without = {"variants": {"__all__": {"x"}}} if self.over is None else None
        write_json(file, self.model_dump(exclude=without))
