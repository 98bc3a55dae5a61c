"""What a split file must hold: types of columns, and each column's values, checked and narrowed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import DataError

__all__ = ["ColumnChunk", "check_types", "context", "histories", "labels", "targets"]

LARGEST_ID = np.iinfo(np.int32).max


@dataclass(frozen=True)
class ColumnChunk:
    """One column of one record batch, and the words that say where a value of it stands."""

    path: Path
    name: str
    start: int
    values: pa.Array

    def error(self, row: int, sentence: str) -> DataError:
        return DataError(f"{self.path}: column {self.name!r}, row {self.start + row} (counted from 0): {sentence}")

    def without_null(self) -> pa.Array:
        if self.values.null_count:
            row = int(self.values.is_null().to_numpy(zero_copy_only=False).argmax())
            raise self.error(row, "null; a value is expected in every row, so fill it in or drop the row.")
        return self.values

    def to_numpy(self) -> np.ndarray:
        return self.without_null().to_numpy(zero_copy_only=False)

    def refuse(self, is_bad: np.ndarray, found: np.ndarray, expected: str) -> None:
        """Raise for the first row that ``is_bad`` (n,) marks."""
        if is_bad.any():
            row = int(is_bad.argmax())
            raise self.error(row, f"found {found[row]}; {expected}.")


def check_types(path: Path, arrow: pa.Schema, schema: DatasetSchema, names: Sequence[str]) -> None:
    integer, floating = pa.types.is_integer, pa.types.is_floating

    def is_list_of_ids(kind: pa.DataType) -> bool:
        types = pa.types
        is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return is_list and integer(kind.value_type)

    def is_number(kind: pa.DataType) -> bool:
        return integer(kind) or floating(kind)

    def is_group(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)

    expected: list[tuple[str, Callable[[pa.DataType], bool], str]] = [
        (schema.item_col, integer, "integer ids"),
        (schema.history_col, is_list_of_ids, "lists of integer ids"),
    ]
    for column in schema.context_columns:
        numeric = column.type == "numeric"
        what = "numbers" if numeric else "integer ids"
        expected.append((column.name, is_number if numeric else integer, f"{what} (type: {column.type})"))
    if schema.label_col in names:
        expected.append((schema.label_col, lambda kind: is_number(kind) or pa.types.is_boolean(kind), "labels 0 and 1"))
    if schema.group_id is not None and schema.group_id in names:
        expected.append((schema.group_id, is_group, "integer or text ids (group_id)"))
    for name, accepts, what in expected:
        kind = arrow.field(name).type
        if not accepts(kind):
            raise DataError(f"{path}: column {name!r} has type {kind}; {what} are expected, so convert it.")


def targets(chunk: ColumnChunk, index_of: Callable[[np.ndarray], np.ndarray], if_unknown: str) -> np.ndarray:
    ids = chunk.to_numpy()
    chunk.refuse(ids == 0, ids, "0 is the padding item and cannot be a target")
    index = index_of(ids)
    chunk.refuse(index < 0, ids, f"the item table has no such id; {if_unknown}")
    return index


def histories(
    chunk: ColumnChunk, index_of: Callable[[np.ndarray], np.ndarray], max_len: int, if_unknown: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return item indices (kept,) int32, oldest first, and how many belong to each row, (n,) int64."""
    lengths = pc.fill_null(pc.list_value_length(chunk.values), 0).to_numpy(zero_copy_only=False)
    flat = chunk.values.flatten()
    ids = (pc.fill_null(flat, 0) if flat.null_count else flat).to_numpy()
    ends = np.cumsum(lengths, dtype=np.int64)
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
    values = chunk.to_numpy()
    if column.type == "numeric":
        with np.errstate(over="ignore"):  # too large for float32: refused as inf below
            numbers = values.astype(np.float32)
        chunk.refuse(~np.isfinite(numbers), values, "a finite number within float32 is expected")
        return numbers
    limit = LARGEST_ID if column.vocab_size is None else column.vocab_size
    bound = "the largest id" if column.vocab_size is None else f"vocab_size={limit} in the YAML"
    outside = (values < 0) | (values >= limit)
    chunk.refuse(outside, values, f"an id in 0..{limit - 1} is expected ({bound})")
    return values.astype(np.int32)


def labels(chunk: ColumnChunk) -> np.ndarray:
    values = chunk.to_numpy()
    chunk.refuse((values != 0) & (values != 1), values, "a label must be 0 or 1")
    return values.astype(np.float32)
