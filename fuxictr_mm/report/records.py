"""What a file on the page holds: a study, what models look at, a benchmark, or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fuxictr_mm.files import read_json, write_json
from fuxictr_mm.study.records import StudyRecord

__all__ = ["About", "Benchmark", "Content", "Document", "Explanation", "Found", "Head", "Looked", "Row"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(_Record):
    """One layer and head over many rows; see :func:`~fuxictr_mm.models.history_attention.attention_summary`."""

    layer: int
    head: int
    entropy: float
    entropy_uniform: float
    share_on_padding: float
    moved_by_target: float | None
    rows: int


class Row(_Record):
    """One scored row; ``attention[layer][head]`` has one share per item of ``history`` (oldest first)."""

    row: int
    split: str
    label: int | None
    score: float
    target: str
    history: list[str]
    attention: list[list[list[float]]]

    @model_validator(mode="after")
    def _has_a_share_per_item(self) -> "Row":
        for shares in (shares for heads in self.attention for shares in heads):
            if len(shares) != len(self.history):
                raise ValueError(
                    f"attention over {len(shares)} positions, but the history has {len(self.history)} items"
                )
        return self


class Looked(_Record):
    """What one experiment looks at: over many rows, and in some."""

    expid: str
    dataset_id: str
    summary: list[Head]
    rows: list[Row]


class _Origin(_Record):
    kind: Literal["explanation"] = "explanation"
    command: str
    commit: str
    machine: str
    date: str


class Explanation(Looked, _Origin):
    """The JSON of explain.py: attention of an experiment, or of two on the same rows."""

    compared_with: Looked | None = None

    @property
    def experiments(self) -> list[Looked]:
        return [self, *([self.compared_with] if self.compared_with else [])]

    @classmethod
    def read(cls, file: Path) -> "Explanation":
        """Read what :meth:`write` wrote.

        Raises:
            DataError: it is none; says where it differs.
        """
        return read_json(cls, file, "write it again with explain.py")

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all; one experiment alone has no ``compared_with``."""
        write_json(file, self.model_dump(exclude=None if self.compared_with else {"compared_with"}))


class Benchmark(BaseModel):
    """The JSON of a benchmark: a table of timings, and where it was measured; an empty text is unknown."""

    benchmark: str = ""
    command: str = ""
    commit: str = ""
    machine: str = ""
    date: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Document:
    """A Markdown file of pipe tables (lists of cells, the first one is the head) and paragraphs, in its order."""

    name: str
    blocks: Sequence[str | list[list[str]]]


@dataclass(frozen=True)
class About:
    """Where a result comes from; an empty text is unknown.

    Attributes:
        date: the result's own if ``date_is_stated``, else the day when the file was written (ISO form).
        notes: sentences beside the result, for people.
    """

    file: str
    date: str
    date_is_stated: bool = False
    command: str = ""
    commit: str = ""
    machine: str = ""
    notes: Sequence[str] = ()


Content = StudyRecord | Explanation | Benchmark | Document


@dataclass(frozen=True)
class Found:
    """A result and where it comes from."""

    about: About
    content: Content
