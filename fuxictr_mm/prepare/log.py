"""The log: users, items, times and clicks of its rows, and the numbers that ids of any kind get."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_mm.errors import DataError
from fuxictr_mm.prepare.reading import read_table

__all__ = ["Ids", "Log", "are_numbers_as_text", "as_ids"]


@dataclass(frozen=True)
class Ids:
    """Ids of any kind, numbered from 1 in their order: by value if all are whole numbers, else as text.

    Attributes:
        originals: (n,) the ids; ``originals[i]`` has the number i + 1.
    """

    originals: pl.Series

    @classmethod
    def of(cls, values: pl.Series) -> "Ids":
        distinct = values.unique().drop_nulls()
        if are_numbers_as_text(distinct):
            return cls(distinct.cast(pl.Int64).sort().cast(pl.String))
        return cls(distinct.sort())

    def numbers(self, values: pl.Series) -> np.ndarray:
        """(N,) int64; 0 for an id that has none."""
        table = pl.DataFrame({"id": self.originals, "number": np.arange(1, len(self.originals) + 1)})
        found = pl.DataFrame({"id": values}).join(table, on="id", how="left", maintain_order="left")
        return found["number"].fill_null(0).to_numpy()

    def write(self, path: Path, name: str) -> None:
        """A parquet file of numbers and ids, so that scores can be told in the user's own ids."""
        numbers = np.arange(1, len(self.originals) + 1)
        pl.DataFrame({name: numbers, "original": self.originals.cast(pl.String)}).write_parquet(path)


@dataclass(frozen=True)
class Log:
    """The rows of a log, as they came.

    Attributes:
        frame: all columns that were kept.
        user, item: (N,) ids, whole numbers or text.
        time: (N,) float64 or int64.
        label: (N,) uint8, 1 for a click.
        notes: what was dropped.
    """

    frame: pl.DataFrame
    user: pl.Series
    item: pl.Series
    time: np.ndarray
    label: np.ndarray
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        user: str,
        item: str,
        time: str | None,
        label: str | None,
        rating: str | None,
        positive: float,
        names: Sequence[str] | None,
        separator: str | None,
    ) -> "Log":
        """Read and check a log; the arguments are those of :func:`~fuxictr_mm.prepare.prepare.prepare`.

        Raises:
            DataError: a column is missing, or holds what it should not.
        """
        frame = read_table(source, names=names, separator=separator, as_text=(user, item))
        for column, what in ((user, "user"), (item, "item"), (time, "time"), (label, "label"), (rating, "rating")):
            if column is not None and column not in frame.columns:
                raise DataError(f"the log has no column {column!r} ({what}); found {frame.columns}.")
        notes = []
        if nulls := frame.select(pl.any_horizontal(pl.col(user, item).is_null()).sum()).item():
            notes.append(f"{nulls:,} of {frame.height:,} rows have no user or no item and are dropped")
            frame = frame.filter(pl.all_horizontal(pl.col(user, item).is_not_null()))
        if not frame.height:
            raise DataError(f"the log has no row with a user ({user!r}) and an item ({item!r}).")
        if time is None:
            notes.append("no time is given, so the order of the rows is taken for it")
        times = np.arange(frame.height) if time is None else _times(frame[time])
        labels = _labels(frame, label, rating, positive)
        return cls(frame, as_ids(frame[user]), as_ids(frame[item]), times, labels, notes)

    def __len__(self) -> int:
        return self.frame.height

    def only(self, keep: np.ndarray, note: str) -> "Log":
        """The rows where ``keep``, (N,) bool, is set."""
        mask = pl.Series(keep)
        return replace(
            self,
            frame=self.frame.filter(mask),
            user=self.user.filter(mask),
            item=self.item.filter(mask),
            time=self.time[keep],
            label=self.label[keep],
            notes=[*self.notes, note],
        )


def are_numbers_as_text(values: pl.Series) -> bool:
    """Whether all are whole numbers written as text, each in the one way that a number is written."""
    return values.dtype == pl.String and bool(values.str.contains(r"^-?(0|[1-9]\d{0,17})$").all())


def as_ids(values: pl.Series) -> pl.Series:
    """Whole numbers stay numbers, everything else is text; floats that stand for whole numbers lose their point."""
    kind = values.dtype
    if kind.is_integer():
        return values.cast(pl.Int64) if kind != pl.UInt64 else values.cast(pl.String)
    if kind.is_float():
        if not (values == values.floor()).all():
            found = values.filter(values != values.floor())[0]
            raise DataError(f"column {values.name!r}: found the id {found}; whole numbers or text are expected.")
        return values.cast(pl.Int64)
    if kind in (pl.String, pl.Categorical) or isinstance(kind, pl.Enum):
        return values.cast(pl.String)
    raise DataError(f"column {values.name!r} has the type {kind}; ids are whole numbers or text.")


def _times(values: pl.Series) -> np.ndarray:
    name, kind = values.name, values.dtype
    if kind == pl.String:
        found = values.cast(pl.Float64, strict=False)
        if found.null_count():
            found = _dates(values)
        found = found.cast(pl.Int64) if found.dtype != pl.Float64 else found
    elif kind.is_temporal() and kind != pl.Time:
        found = values.cast(pl.Datetime("us")).cast(pl.Int64)
    elif kind.is_numeric():
        found = values
    else:
        raise DataError(f"column {name!r} has the type {kind}; times are numbers, dates or text of these.")
    bad = found.is_null() | (~found.is_finite() if found.dtype.is_float() else pl.Series([False])).fill_null(True)
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise DataError(f"column {name!r}, row {at}: {values[at]!r} is no time ({int(bad.sum()):,} such rows).")
    return found.to_numpy()


def _dates(text: pl.Series) -> pl.Series:
    try:
        return text.str.to_datetime(strict=False, time_unit="us").dt.replace_time_zone(None)
    except pl.exceptions.ComputeError:  # it looks like no date at all
        return pl.Series(text.name, [None] * len(text), pl.Datetime("us"))


def _labels(frame: pl.DataFrame, label: str | None, rating: str | None, positive: float) -> np.ndarray:
    name = label or rating
    if name is None:
        return np.ones(frame.height, np.uint8)
    values = frame[name].cast(pl.Float64, strict=False)
    if values.null_count() or not values.is_finite().all():
        at = int((values.is_null() | ~values.is_finite().fill_null(False)).arg_max() or 0)
        raise DataError(f"column {name!r}, row {at}: {frame[name][at]!r} is no number.")
    if rating is not None:
        return (values >= positive).cast(pl.UInt8).to_numpy()
    if not values.is_in([0.0, 1.0]).all():
        found = values.unique().sort()[:5].to_list()
        raise DataError(f"column {name!r}: labels are 0 and 1, found {found}; give ratings as such, with 'positive'.")
    return values.cast(pl.UInt8).to_numpy()
