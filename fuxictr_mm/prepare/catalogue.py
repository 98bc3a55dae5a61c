"""The items: their numbers, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_mm.errors import DataError
from fuxictr_mm.prepare.columns import Encoded, item_column, popularity_levels
from fuxictr_mm.prepare.log import Ids, Log, as_ids
from fuxictr_mm.prepare.reading import read_table

__all__ = ["Catalogue", "one_row_per_item"]


@dataclass(frozen=True)
class Catalogue:
    """All items, in the order of their numbers.

    Attributes:
        ids: of the items.
        frame: their columns, without that of the ids.
        notes: what was dropped.
    """

    ids: Ids
    frame: pl.DataFrame
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, log: Log, source: Any, key: str, vectors: Mapping[str, str] | None) -> "Catalogue":
        """Of an item table, or without one of the items that the log names.

        Args:
            source: see :func:`~fuxictr_mm.prepare.reading.read_table`; ``None``: no table.
            key: its column of ids.
            vectors: name -> ``.npy`` file with a row per item, in the order of the table.

        Raises:
            DataError: the table lacks the column, repeats an item with other content, or vectors do not fit it.
        """
        if source is None:
            if vectors:
                raise DataError("vectors have a row per item of the item table; give it with items.")
            return cls(Ids.of(log.item), pl.DataFrame())
        frame = read_table(source, as_text=(key,) if log.item.dtype == pl.String else ())
        if key not in frame.columns:
            raise DataError(
                f"the item table has no column {key!r}; found {frame.columns}; ids are called as in the log."
            )
        for name, path in (vectors or {}).items():
            frame = frame.with_columns(_from_npy(name, Path(path), frame.height))
        notes = []
        if nulls := frame[key].null_count():
            notes.append(f"{nulls:,} items have no id and are dropped")
            frame = frame.filter(pl.col(key).is_not_null())
        ids = as_ids(frame[key])
        if log.item.dtype == pl.Int64 and ids.dtype == pl.String:
            raise DataError(f"items are text in the item table ({ids[0]!r}) and numbers in the log; make them alike.")
        frame = frame.with_columns(ids.cast(log.item.dtype).alias(key))
        whole, frame = frame.height, one_row_per_item(frame, key)
        if frame.height < whole:
            notes.append(f"{whole - frame.height:,} rows of the item table repeat others and are dropped")
        numbered = Ids.of(frame[key])
        order = np.argsort(numbered.numbers(frame[key]), kind="stable")
        return cls(numbered, frame.drop(key)[order], notes)

    def restrict(self, log: Log) -> Log:
        """The log without rows of items that are not in the catalogue."""
        known = self.ids.numbers(log.item) > 0
        if known.all():
            return log
        unknown = log.item.filter(pl.Series(~known))
        if not known.any():
            examples = f"the log has {unknown[0]!r}, the table {self.ids.originals[0]!r}"
            raise DataError(f"no item of the log is in the item table: {examples}; check that they mean the same ids.")
        note = f"{(~known).sum():,} of {len(log):,} rows name {unknown.n_unique():,} items that the item table lacks "
        return log.only(known, note + f"({unknown[0]!r}, ...) and are dropped")

    def features(self, clicks: np.ndarray | None) -> list[Encoded]:
        """Its columns as they are written.

        Args:
            clicks: (n_items + 1,) clicks in training, whose deciles become a column; ``None``: no such column.
        """
        found = [item_column(self.frame[name]) for name in self.frame.columns]
        if clicks is not None:
            spec = {"name": "popularity", "active": True, "dtype": "int", "type": "categorical", "source": "item"}
            found.append(Encoded(pl.Series("popularity", popularity_levels(clicks)), {**spec, "vocab_size": 11}))
        return found

    def write(self, path: Path, features: Sequence[Encoded]) -> None:
        """The item table of the contract."""
        numbers = pl.Series("item_id", np.arange(1, len(self.ids.originals) + 1))
        pl.DataFrame([numbers, *(one.values for one in features)]).write_parquet(path)


def one_row_per_item(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """The table without rows that repeat others.

    Args:
        key: its column of ids.

    Raises:
        DataError: an item has rows of different content.
    """
    if frame[key].n_unique() == frame.height:
        return frame
    frame = frame.unique(maintain_order=True)
    if frame[key].n_unique() < frame.height:
        double = frame.filter(pl.col(key).is_duplicated())[key][0]
        raise DataError(f"item {double!r} has several rows of different content in the item table; keep one.")
    return frame


def _from_npy(name: str, path: Path, rows: int) -> pl.Series:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read as .npy ({err}).") from err
    if values.ndim != 2 or len(values) != rows or values.dtype.kind not in "fiu":
        raise DataError(f"{path}: {values.dtype} of shape {values.shape}; ({rows}, width) is expected, a row per item.")
    return pl.Series(name, values.astype(np.float32)).cast(pl.List(pl.Float32))
