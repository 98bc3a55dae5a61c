"""The JSON of a study, as it is written and read: ``experiments/results/<study>_<dataset>.json``."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write

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
    """A variant with one seed; see :class:`~fuxictr_mm.run.results.Result`."""

    seed: int
    valid: Metrics
    test: Metrics
    by_frequency: dict[str, dict[str, dict[str, int | float | None]]]
    curve: list[CurvePoint]
    warnings: list[str]
    seconds: float


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
    variants: list[VariantRecord]

    @classmethod
    def read(cls, file: Path) -> "StudyRecord":
        """Read a study's JSON.

        Raises:
            DataError: it is none; says where it differs.
        """
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as err:
            first = err.errors(include_url=False)[0]
            place = ", ".join(map(str, first["loc"])) or "the file"
            raise DataError(f"{file}: {place}: {first['msg']}; run the study again.") from err

    def to_json(self) -> str:
        """The content of the file."""
        without = {"variants": {"__all__": {"x"}}} if self.over is None else None
        return json.dumps(self.model_dump(exclude=without), indent=1, ensure_ascii=False) + "\n"

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_write(file) as path:
            path.write_text(self.to_json(), encoding="utf-8")
