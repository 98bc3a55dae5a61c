"""Reads split files (train, valid, test) chunk by chunk, and refuses those that break the data contract.

Everything that reads a split reads it here, so findings about a dataset, predictions and training see the same rows.
Histories are ragged: memory holds the real history items, never the padding. :func:`read_split` keeps all chunks,
:func:`iter_split` and :func:`iter_whole_split` give one at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data import checks
from fuxictr_mm.errors import DataError
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.forms import group_numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["CHUNK_ROWS", "Split", "iter_split", "iter_whole_split", "read_split"]

# Rows decoded at once: 16 MiB of history where lists are 64 wide and int64.
CHUNK_ROWS = 32_768


@dataclass(frozen=True)
class Split:
    """All rows of one split file, or a chunk of them; N rows.

    Attributes:
        path: the file.
        item: (N,) int32 item index of the target, 1..n_items.
        history_values: (total,) int32 item indices of all histories, padding removed, oldest first within a row.
        history_offsets: (N + 1,) int64; the history of row i is ``history_values[offsets[i]:offsets[i + 1]]``.
        context: column name -> (N,), int32 for categorical and float32 for numeric columns.
        label: (N,) float32 of 0 and 1, ``None`` where the file has no label column or it was not asked for.
        group: (N,) int64, the column that gAUC groups by (text ids become their hashes), ``None``
            where the dataset names no such column, and in a chunk of :func:`iter_split`: who reads a part of a file
            cannot number its text.
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
    """Read and check one whole split file; arguments and errors are those of :func:`iter_whole_split`."""
    parts: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    start = 0
    for chunk in iter_whole_split(path, schema, item_ids, require_label=require_label, progress=progress):
        arrays = {"item": chunk.item, "values": chunk.history_values, "offsets": chunk.history_offsets[1:] + start}
        arrays |= {f"context/{name}": values for name, values in chunk.context.items()}
        start = int(arrays["offsets"][-1])
        for name, values in {**arrays, "label": chunk.label, "group": chunk.group}.items():
            if values is not None:
                parts[name].append(values)

    def whole(name: str) -> np.ndarray:
        return np.concatenate(parts.pop(name))

    context = {column.name: whole(f"context/{column.name}") for column in schema.context_columns}
    label, group = (whole(name) if name in parts else None for name in ("label", "group"))
    parts["offsets"].insert(0, np.zeros(1, np.int64))
    return Split(Path(path), whole("item"), whole("values"), whole("offsets"), context, label, group)


def iter_whole_split(
    path: str | Path, schema: DatasetSchema, item_ids: np.ndarray, *, require_label: bool, progress: bool = True
) -> Iterator[Split]:
    """Read and check one whole split file in chunks, groups included; who exhausts it has seen a good file.

    Args:
        path: parquet file.
        schema: roles of the columns; the last ``schema.max_len`` items of each history are kept.
        item_ids: (n_items,) int64 distinct raw ids; ``item_ids[i]`` has item index i + 1.
        require_label: whether a file without label column is refused.
        progress: show a progress bar, if this is a terminal.

    Raises:
        DataError: as :func:`iter_split`; or, at the end, no row has a history.
    """
    path = Path(path)
    file = open_parquet(path)
    n_rows = file.num_rows
    has_label = require_label or schema.label_col in file.schema_arrow.names
    group_columns = () if schema.group_id is None else (schema.group_id,)
    has_history = False
    with tqdm(total=n_rows, desc=path.name, unit=" rows", disable=None if progress else True) as bar:
        for chunk, kept in iter_split(path, schema, item_ids, label=has_label, keep=group_columns):
            has_history |= len(chunk.history_values) > 0
            yield replace(chunk, group=next((group_numbers(ids) for ids in kept.values()), None))
            bar.update(len(chunk))
    if not has_history:
        raise DataError(
            f"{path}: column {schema.history_col!r} holds padding (0 or null) only in all {n_rows:,} rows; at least "
            "one history must have an item, so check how the file was made."
        )


def iter_split(
    path: str | Path,
    schema: DatasetSchema,
    item_ids: np.ndarray,
    *,
    label: bool,
    keep: Sequence[str] = (),
    chunk_rows: int | None = None,
    if_unknown: str = "add the item there or drop the row",
) -> Iterator[tuple[Split, dict[str, pa.Array]]]:
    """Read and check a split file in chunks, in file order: memory does not grow with the number of rows.

    Histories may be lists of any length, padded or not: id 0 and null are padding wherever they stand, and a null list
    is an empty history.

    Args:
        path: parquet file.
        schema: roles of the columns; the last ``schema.max_len`` items of each history are kept.
        item_ids: (n_items,) int64 distinct raw ids in any order; ``item_ids[i]`` has item index i + 1.
        label: whether to read (and so to demand) the label column.
        keep: further columns to hand over as they are in the file; null is refused in them.
        chunk_rows: most rows of a chunk, 32,768 by default.
        if_unknown: what the user should do about an id that ``item_ids`` lacks.

    Yields:
        a chunk, its ``group`` being ``None``, and column name -> (N,) array of the columns ``keep``.

    Raises:
        DataError: the file is missing, truncated or empty; a column is missing or of the wrong type; or a value is
            null, not finite, no known item, outside its vocabulary, or a label other than 0 and 1.
    """
    path = Path(path)
    label_columns = (schema.label_col,) if label else ()
    context_columns = [column.name for column in schema.context_columns]
    names = list(dict.fromkeys((schema.item_col, schema.history_col, *context_columns, *keep, *label_columns)))
    table = open_parquet(path, names)
    checks.check_types(table, schema, names)
    if not table.num_rows:
        raise DataError(f"{path}: 0 rows; a split needs at least one, so make the file again or leave it out.")
    index_of = ItemTable(item_ids).index_of
    start = 0
    for batch in table.iter_batches(chunk_rows or CHUNK_ROWS, names):
        columns = {name: checks.ColumnChunk(table, name, start, batch.column(name)) for name in names}
        item = checks.targets(columns[schema.item_col], index_of, if_unknown)
        values, counts = checks.histories(columns[schema.history_col], index_of, schema.max_len, if_unknown)
        offsets = np.zeros(len(batch) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        chunk = Split(
            path,
            item,
            values,
            offsets,
            {column.name: checks.context(columns[column.name], column) for column in schema.context_columns},
            checks.labels(columns[schema.label_col]) if label else None,
            None,
        )
        if schema.group_id in keep:
            checks.group_ids(columns[schema.group_id])
        yield chunk, {name: columns[name].without_null() for name in keep}
        start += len(batch)
