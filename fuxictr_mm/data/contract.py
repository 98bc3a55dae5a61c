"""The one place that reads split files (train, valid, test), and refuses those that break the data contract.

Apart from the loader so that a run refuses all its splits before training, and so that the findings about a dataset
read exactly what a model would. A file is read batch by batch and kept as contiguous arrays, histories ragged: memory
holds the real history items, never the padding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from fuxictr_mm.errors import DataError
from fuxictr_mm.features.item_table import ItemTable
from fuxictr_mm.files import open_parquet
from fuxictr_mm.schema import Column, DatasetSchema

__all__ = ["Split", "read_split"]

# Rows decoded at once: 16 MiB of history where lists are 64 wide and int64.
BATCH_ROWS = 32_768
LARGEST_ID = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Split:
    """All rows of one split file; N rows.

    Attributes:
        path: the file.
        item: (N,) int32 item index of the target, 1..n_items.
        history_values: (total,) int32 item indices of all histories, padding removed, oldest first within a row.
        history_offsets: (N + 1,) int64; the history of row i is ``history_values[offsets[i]:offsets[i + 1]]``.
        context: column name -> (N,), int32 for categorical and float32 for numeric columns.
        label: (N,) float32 of 0 and 1, ``None`` where the file has no label column.
        group: (N,) int64, the column that gAUC groups by (text ids are numbered in order of appearance), ``None``
            where the dataset names no such column.
    """

    path: Path
    item: np.ndarray
    history_values: np.ndarray
    history_offsets: np.ndarray
    context: dict[str, np.ndarray]
    label: np.ndarray | None
    group: np.ndarray | None

    def __len__(self) -> int:
        return len(self.item)


def read_split(
    path: str | Path, schema: DatasetSchema, item_ids: np.ndarray, *, require_label: bool, progress: bool = True
) -> Split:
    """Read and check one split file.

    Histories may be lists of any length, padded or not: id 0 and null are padding wherever they stand, and a null list
    is an empty history.

    Args:
        path: parquet file.
        schema: roles of the columns; the last ``schema.max_len`` items of each history are kept.
        item_ids: (n_items,) int64 distinct raw ids; ``item_ids[i]`` has item index i + 1.
        require_label: whether a file without label column is refused.
        progress: show a progress bar, if this is a terminal.

    Raises:
        DataError: the file is missing, truncated, empty or has no history at all; a column is missing or of the wrong
            type; or a value is null, not finite, no known item, outside its vocabulary, or a label other than 0 and 1.
    """
    path = Path(path)
    group_columns = () if schema.group_id is None else (schema.group_id,)
    label_columns = (schema.label_col,) if require_label else ()
    context_columns = {column.name: column for column in schema.context_columns}
    needed = (schema.item_col, schema.history_col, *context_columns, *group_columns, *label_columns)
    file = open_parquet(path, needed)
    has_label = schema.label_col in file.schema_arrow.names
    _check_types(path, file.schema_arrow, schema, has_label)
    n_rows = file.metadata.num_rows
    if not n_rows:
        raise DataError(f"{path}: 0 rows; a split needs at least one, so make the file again or leave it out.")

    index_of = ItemTable(item_ids, {}).index_of
    item = np.empty(n_rows, np.int32)
    context = {
        name: np.empty(n_rows, np.float32 if column.type == "numeric" else np.int32)
        for name, column in context_columns.items()
    }
    label = np.empty(n_rows, np.float32) if has_label else None
    groups: list[pa.Array] = []
    histories: list[np.ndarray] = []
    counts = np.empty(n_rows, np.int64)
    names = list(dict.fromkeys((*needed, schema.label_col) if has_label else needed))
    start = 0
    with tqdm(total=n_rows, desc=path.name, unit=" rows", disable=None if progress else True) as bar:
        for batch in _batches(path, file, names):
            rows = slice(start, start + batch.num_rows)
            chunks = {name: _Chunk(path, name, start, batch.column(name)) for name in names}
            item[rows] = _targets(chunks[schema.item_col], index_of)
            values, counts[rows] = _histories(chunks[schema.history_col], index_of, schema.max_len)
            histories.append(values)
            for name, column in context_columns.items():
                context[name][rows] = _context(chunks[name], column)
            if label is not None:
                label[rows] = _labels(chunks[schema.label_col])
            groups += [chunks[name].without_null() for name in group_columns]
            start = rows.stop
            bar.update(batch.num_rows)
    if not counts.any():
        raise DataError(
            f"{path}: column {schema.history_col!r} holds padding (0 or null) only in all {n_rows:,} rows; at least "
            "one history must have an item, so check how the file was made."
        )
    offsets = np.zeros(n_rows + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return Split(
        path, item, np.concatenate(histories), offsets, context, label, _number_groups(groups) if groups else None
    )


@dataclass(frozen=True)
class _Chunk:
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


def _check_types(path: Path, arrow: pa.Schema, schema: DatasetSchema, has_label: bool) -> None:
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
    if has_label:
        expected.append((schema.label_col, lambda kind: is_number(kind) or pa.types.is_boolean(kind), "labels 0 and 1"))
    if schema.group_id is not None:
        expected.append((schema.group_id, is_group, "integer or text ids (group_id)"))
    for name, accepts, what in expected:
        kind = arrow.field(name).type
        if not accepts(kind):
            raise DataError(f"{path}: column {name!r} has type {kind}; {what} are expected, so convert it.")


def _batches(path: Path, file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Damage within a file shows only when its rows are decoded."""
    try:
        yield from file.iter_batches(BATCH_ROWS, columns=names)
    except (pa.ArrowException, OSError) as err:
        raise DataError(
            f"{path}: damaged inside, cannot be decoded ({str(err).splitlines()[0]}); copy or download it again."
        ) from err


def _targets(chunk: _Chunk, index_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    ids = chunk.to_numpy()
    chunk.refuse(ids == 0, ids, "0 is the padding item and cannot be a target")
    index = index_of(ids)
    chunk.refuse(index < 0, ids, "the item table has no such id, so add the item there or drop the row")
    return index


def _histories(
    chunk: _Chunk, index_of: Callable[[np.ndarray], np.ndarray], max_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return item indices (kept,) int32, oldest first, and how many belong to each row, (n,) int64."""
    lengths = pc.fill_null(pc.list_value_length(chunk.values), 0).to_numpy(zero_copy_only=False)
    flat = chunk.values.flatten()
    ids = (pc.fill_null(flat, 0) if flat.null_count else flat).to_numpy()
    ends = np.cumsum(lengths, dtype=np.int64)
    real = np.flatnonzero(ids)
    ids = ids[real]
    bounds = np.searchsorted(real, ends)  # real items before the end of each row
    index = index_of(ids)
    if len(index) and index.min() < 0:
        at = int((index < 0).argmax())
        row = int(np.searchsorted(bounds, at, side="right"))
        raise chunk.error(row, f"found id {ids[at]}, which the item table lacks; add the item there or drop the id.")
    counts = np.diff(bounds, prepend=0)
    if len(counts) and counts.max() > max_len:
        from_end = np.repeat(bounds, counts) - np.arange(len(index))  # 1 for the latest item of a row
        index = index[from_end <= max_len]
        counts = np.minimum(counts, max_len)
    return index, counts


def _context(chunk: _Chunk, column: Column) -> np.ndarray:
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


def _labels(chunk: _Chunk) -> np.ndarray:
    values = chunk.to_numpy()
    chunk.refuse((values != 0) & (values != 1), values, "a label must be 0 or 1")
    return values.astype(np.float32)


def _number_groups(chunks: list[pa.Array]) -> np.ndarray:
    """Return (N,) int64: whole numbers as they are, text numbered in order of appearance."""
    column = pa.chunked_array(chunks)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_integer(column.type):
        column = pa.chunked_array([chunk.indices for chunk in column.dictionary_encode().chunks])
    return column.to_numpy().astype(np.int64)
