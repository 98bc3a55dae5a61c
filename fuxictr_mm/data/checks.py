"""What a split file must hold: types of columns, and each column's values, checked and narrowed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import DataError
from fuxictr_mm.forms import (
    GROUP,
    ID,
    IDS,
    LABEL,
    NUMBER,
    Misfit,
    check_form,
    groups,
    lists,
    numbers,
    whole_numbers,
)  # fmt: skip
from fuxictr_mm.parquet import ParquetTable

__all__ = ["ColumnChunk", "check_types", "context", "group_ids", "histories", "labels", "targets"]

LARGEST_ID = np.iinfo(np.int32).max
T = TypeVar("T")


@dataclass(frozen=True)
class ColumnChunk:
    """One column of one record batch, and the words that say where a value of it stands."""

    table: ParquetTable
    name: str
    start: int
    values: pa.Array

    def error(self, row: int, sentence: str) -> DataError:
        path, number = self.table.place(self.start + row)
        return DataError(f"{path}: column {self.name!r}, row {number} (counted from 0): {sentence}")

    def without_null(self) -> pa.Array:
        return self._without_null(self.values)

    def ids(self) -> np.ndarray:
        """(n,) integers."""
        return self._without_null(self.read(whole_numbers)).to_numpy(zero_copy_only=False)

    def read(self, how: Callable[[pa.Array], T]) -> T:
        try:
            return how(self.values)
        except Misfit as err:
            raise self.error(err.at, f"{err.reason}.") from err

    def refuse(self, is_bad: np.ndarray, found: np.ndarray, expected: str) -> None:
        """Raise for the first row that ``is_bad`` (n,) marks."""
        if is_bad.any():
            row = int(is_bad.argmax())
            raise self.error(row, f"found {found[row]}; {expected}.")

    def _without_null(self, values: pa.Array) -> pa.Array:
        if values.null_count:
            row = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
            raise self.error(row, "null; a value is expected in every row, so fill it in or drop the row.")
        return values


def check_types(table: ParquetTable, schema: DatasetSchema, names: Sequence[str]) -> None:
    expected = [(schema.item_col, ID, ""), (schema.history_col, IDS, "")]
    for column in schema.context_columns:
        form = NUMBER if column.type == "numeric" else ID
        expected.append((column.name, form, f" (type: {column.type})"))
    if schema.label_col in names:
        expected.append((schema.label_col, LABEL, ""))
    if schema.group_id is not None and schema.group_id in names:
        expected.append((schema.group_id, GROUP, " (group_id)"))
    for name, form, note in expected:
        check_form(table.path, name, table.schema_arrow.field(name).type, form, note)


def targets(chunk: ColumnChunk, index_of: Callable[[np.ndarray], np.ndarray], if_unknown: str) -> np.ndarray:
    ids = chunk.ids()
    chunk.refuse(ids == 0, ids, "0 is the padding item and cannot be a target")
    index = index_of(ids)
    chunk.refuse(index < 0, ids, f"the item table has no such id; {if_unknown}")
    return index


def histories(
    chunk: ColumnChunk, index_of: Callable[[np.ndarray], np.ndarray], max_len: int, if_unknown: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return item indices (kept,) int32, oldest first, and how many belong to each row, (n,) int64."""
    lengths, flat = lists(chunk.values)
    ends = np.cumsum(lengths)
    try:
        flat = whole_numbers(flat)
    except Misfit as err:
        raise chunk.error(int(np.searchsorted(ends, err.at, side="right")), f"{err.reason}.") from err
    ids = (pc.fill_null(flat, 0) if flat.null_count else flat).to_numpy()
    real = np.flatnonzero(ids != 0)  # several times as fast as of the numbers themselves
    ids = ids[real]
    bounds = np.searchsorted(real, ends)  # real items before the end of each row
    index = index_of(ids)
    if len(index) and index.min() < 0:
        at = int((index < 0).argmax())
        row = int(np.searchsorted(bounds, at, side="right"))
        raise chunk.error(row, f"found id {ids[at]}, which the item table lacks; {if_unknown}.")
    counts = np.diff(bounds, prepend=0)
    if len(counts) and counts.max() > max_len:
        from_end = np.repeat(bounds, counts) - np.arange(len(index))  # 1 for the latest item of a row
        index = index[from_end <= max_len]
        counts = np.minimum(counts, max_len)
    return index, counts


def context(chunk: ColumnChunk, column: Column) -> np.ndarray:
    if column.type == "numeric":
        chunk.without_null()
        found = chunk.read(numbers)
        narrow = column.scaled(found)
        chunk.refuse(~np.isfinite(narrow), found, "a finite number within float32 is expected")
        return narrow
    values = chunk.ids()
    limit = LARGEST_ID if column.vocab_size is None else column.vocab_size
    bound = "the largest id" if column.vocab_size is None else f"vocab_size={limit} in the YAML"
    outside = (values < 0) | (values >= limit)
    chunk.refuse(outside, values, f"an id in 0..{limit - 1} is expected ({bound})")
    return values.astype(np.int32)


def labels(chunk: ColumnChunk) -> np.ndarray:
    chunk.without_null()
    values = chunk.read(numbers)
    chunk.refuse((values != 0) & (values != 1), values, "a label must be 0 or 1")
    return values.astype(np.float32)


def group_ids(chunk: ColumnChunk) -> pa.Array:
    """(n,) int64 or text, see :func:`~fuxictr_mm.forms.groups`."""
    chunk.without_null()
    found = chunk.read(groups)
    return chunk._without_null(found)
