"""What a page is made of, in words and numbers: sections of parts, tables and charts; the template knows no more."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup

from fuxictr_mm.report.records import About

__all__ = [
    "DASH", "Cell", "Figure", "Part", "Section", "Table", "count", "is_finite", "number", "number_cell", "origin",
    "pairs", "plain",
]  # fmt: skip

DASH = "—"


@dataclass(frozen=True)
class Cell:
    """``full``: the number with all its digits (tooltip, sorting); empty for words. ``share``: shade, 0 to 1."""

    text: str
    full: str = ""
    tone: str = ""
    best: bool = False
    below: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """The first column names the row. ``groups``: (words, columns) of a line above the head; ``caption``: unseen."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()

    @property
    def is_number(self) -> list[bool]:
        """By column, whether it is one of numbers, or of none that are known."""
        columns = list(zip(*self.rows))
        return [any(c.full for c in column) or all(c.text == DASH for c in column) for column in columns]


@dataclass(frozen=True)
class Figure:
    title: str
    chart: Markup


@dataclass(frozen=True)
class Part:
    """A titled piece of a section, in the order: note, figures with their legend, tables; ``large``: few figures."""

    title: str
    note: str = ""
    figures: Sequence[Figure] = ()
    legend: Sequence[tuple[Markup, str]] = ()
    tables: Sequence[Table] = ()
    paragraphs: Sequence[str] = ()
    folded: bool = False
    large: bool = False


@dataclass(frozen=True)
class Section:
    """One result. ``facts``: (what, value) of where it comes from; ``warnings``: (whose, sentence)."""

    kind: str
    title: str
    subtitle: str
    about: About
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Part]
    warnings: Sequence[tuple[str, str]] = ()


def is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def number(value: float | None, form: str = ".4f") -> str:
    """A number for people; what is not known (``None``, NaN) is a dash and never 0."""
    if value is None or math.isnan(value):
        return DASH
    text = format(value, form) if math.isfinite(value) else "∞" if value > 0 else "-∞"
    return text.replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")


def number_cell(value: float | None, form: str = ".4f", **more: Any) -> Cell:
    return Cell(number(value, form), "" if value is None or math.isnan(value) else repr(value), **more)


def origin(about: About, *more: tuple[str, str]) -> list[tuple[str, str]]:
    when = about.date if about.date_is_stated else f"{about.date} (the file's)"
    facts = [("command", about.command), ("commit", about.commit), ("machine", about.machine), *more]
    if about.notes:  # they say what is not known apart
        facts = [*((name, text) for name, text in facts if text), *(("notes", note) for note in about.notes)]
    return [*((name, text or DASH) for name, text in facts), ("date", when), ("file", about.file)]


def plain(value: object) -> str:
    """A value of YAML or JSON in one line, without the marks that only a machine needs."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str).replace('"', "")


def pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {plain(value)}" for key, value in values.items())


def count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
