"""The rows of a split as training holds them: few bytes each, and laid out so that batches are gathered quickly.

The contract has checked them; the only question left is whether memory suffices.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.data.contract import Split, iter_whole_split
from fuxictr_mm.data.order import EpochOrder
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.forms import lists
from fuxictr_mm.memory import available_memory
from fuxictr_mm.parquet import ParquetTable, open_parquet

__all__ = [
    "RowDigest", "Rows", "arrange", "arrange_split", "column_types", "length_type", "read_rows",
]  # fmt: skip

GROUP = np.dtype(np.int64)
LABEL = np.dtype(np.uint8)
NUMERIC = np.dtype(np.float32)


@dataclass(frozen=True)
class Rows:
    """N rows, arranged.

    Attributes:
        items: (total + N,) int32 item indices: the history of row 0, oldest first, and its target, then row 1.
        lengths: (N,) whole numbers on the CPU, as narrow as ``max_len`` allows: how long each history is.
        end: (N,) int32, or int64 beyond 2 G items: where in ``items`` each row ends, behind its target.
        columns: name -> (N,): context, group and label, as narrow as :func:`column_types` says.
        group: the column of ``columns`` that stays on the CPU, where the host's ``evaluate`` wants it.
    """

    items: torch.Tensor
    lengths: np.ndarray
    end: torch.Tensor
    columns: Mapping[str, torch.Tensor]
    group: str | None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.lengths.nbytes + sum(t.nbytes for t in (self.items, self.end, *self.columns.values()))

    @cached_property
    def lengths_on_device(self) -> torch.Tensor:
        return torch.from_numpy(self.lengths).to(self.items.device)

    def to(self, device: torch.device) -> "Rows":
        """Return the rows on ``device``; lengths and group stay on the CPU."""
        columns = {name: c if name == self.group else c.to(device) for name, c in self.columns.items()}
        return replace(self, items=self.items.to(device), end=self.end.to(device), columns=columns)

    def windows(self, order: EpochOrder, start: int) -> Iterator[tuple["Rows", np.ndarray]]:
        """Yield these rows, and the order in which they come from row number ``start`` of the epoch on."""
        yield self, order.of_rows(self.lengths)[start:]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of targets, histories, context and labels."""
        digest = RowDigest()
        digest.update(self)
        return digest.hexdigest()


class RowDigest:
    """Digest of rows that come in parts: the parts do not show in it."""

    def __init__(self) -> None:
        self._of: dict[str, hashlib.blake2b] = {}

    def update(self, rows: Rows) -> None:
        """Take the next rows in; their group is left out."""
        columns = {f"column/{name}": column for name, column in rows.columns.items() if name != rows.group}
        arrays = {name: column.cpu().numpy() for name, column in columns.items()}
        for name, values in {"items": rows.items.cpu().numpy(), "lengths": rows.lengths, **arrays}.items():
            digest = self._of.setdefault(f"{name} {values.dtype}", hashlib.blake2b(digest_size=16))
            digest.update(np.ascontiguousarray(values).data)

    def hexdigest(self) -> str:
        parts = [f"{name} {digest.hexdigest()}" for name, digest in self._of.items()]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def column_types(schema: DatasetSchema, *, label: bool) -> dict[str, np.dtype]:
    """Column name -> type in which it is stored, in the order of a batch: context, group, label.

    Ids are as narrow as their vocabulary, which the YAML declares, allows.
    """
    types = {column.name: _narrow_id(column) for column in schema.context_columns}
    if schema.group_id is not None:
        types[schema.group_id] = GROUP
    if label:
        types[schema.label_col] = LABEL
    return types


def _narrow_id(column: Column) -> np.dtype:
    if column.type == "numeric":
        return NUMERIC
    limits = ((256, np.uint8), (2**15, np.int16))
    return np.dtype(next((kind for limit, kind in limits if (column.vocab_size or 2**31) <= limit), np.int32))


def length_type(max_len: int) -> np.dtype:
    """The narrowest type for a history length."""
    return np.dtype(np.uint8 if max_len < 2**8 else np.int16 if max_len < 2**15 else np.int32)


def _interleave(chunk: Split) -> np.ndarray:
    """Histories and targets of a chunk, (total + N,) int32, in the order of :attr:`Rows.items`."""
    return np.insert(chunk.history_values, chunk.history_offsets[1:], chunk.item)


def _columns_of(chunk: Split, schema: DatasetSchema) -> dict[str, np.ndarray]:
    """The columns of :func:`column_types`; a chunk without groups has none."""
    found = dict(chunk.context)
    if chunk.group is not None and schema.group_id is not None:
        found[schema.group_id] = chunk.group
    if chunk.label is not None:
        found[schema.label_col] = chunk.label
    types = column_types(schema, label=chunk.label is not None)
    return {name: values.astype(types[name]) for name, values in found.items()}


def arrange(items: np.ndarray, lengths: np.ndarray, columns: Mapping[str, np.ndarray], group: str | None) -> Rows:
    """Rows on the CPU; the arguments are those of :class:`Rows`, and not copied."""
    end = np.cumsum(lengths, dtype=np.int32 if len(items) < 2**31 else np.int64)
    np.add(end, np.arange(1, len(lengths) + 1, dtype=end.dtype), out=end)
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    return Rows(torch.from_numpy(items), lengths, torch.from_numpy(end), tensors, group)


def arrange_split(chunk: Split, schema: DatasetSchema) -> Rows:
    """The rows of one chunk."""
    lengths = np.diff(chunk.history_offsets).astype(length_type(schema.max_len))
    return arrange(_interleave(chunk), lengths, _columns_of(chunk, schema), schema.group_id)


def read_rows(
    path: str | Path, schema: DatasetSchema, item_ids: np.ndarray, *, require_label: bool, progress: bool = True
) -> Rows:
    """Read, check and arrange one whole split file; the arguments are those of ``iter_whole_split``.

    Raises:
        DataError: the file breaks the contract.
        ConfigError: the rows would not fit into memory.
    """
    path = Path(path)
    n_rows, places = _room(path, schema)
    lengths = np.empty(n_rows, length_type(schema.max_len))
    columns: dict[str, np.ndarray] = {}
    # Memory that is never written to is never given: the room may be too large, and shrinks where it lies.
    items = np.empty(places, np.int32)
    row = place = 0
    for chunk in iter_whole_split(path, schema, item_ids, require_label=require_label, progress=progress):
        part = _interleave(chunk)
        if place + len(part) > len(items):
            items = np.concatenate([items[:place], np.empty(len(items) // 2 + len(part), np.int32)])
        items[place : place + len(part)] = part
        place += len(part)
        rows = slice(row, row + len(chunk))
        lengths[rows] = np.diff(chunk.history_offsets)
        for name, values in _columns_of(chunk, schema).items():
            columns.setdefault(name, np.empty(n_rows, values.dtype))[rows] = values
        row = rows.stop
    items.resize(place, refcheck=False)
    if schema.group_id is not None:
        columns[schema.group_id] = _narrow(columns[schema.group_id])
    return arrange(items, lengths, columns, schema.group_id)


def _narrow(ids: np.ndarray) -> np.ndarray:
    info = np.iinfo(np.int32)
    return ids.astype(np.int32) if info.min <= ids.min() and ids.max() <= info.max else ids


def _room(path: Path, schema: DatasetSchema) -> tuple[int, int]:
    """Number of rows, and of item places that surely or probably suffice.

    Raises:
        ConfigError: there is not so much memory.
    """
    file = open_parquet(path, (schema.history_col,))
    n_rows = file.num_rows
    if not n_rows or not file.schema_arrow.field(schema.history_col).type.num_fields:
        return n_rows, n_rows  # refused as soon as it is read
    types = column_types(schema, label=schema.label_col in file.schema_arrow.names)
    per_row = sum(kind.itemsize for kind in types.values()) + length_type(schema.max_len).itemsize + 8
    available = available_memory()
    places = n_rows + _stored_values(file, schema.history_col)
    if n_rows * per_row + 4 * places > available:  # what the file says about lists counts padding
        places = int(n_rows * (1 + 1.05 * min(_mean_length(file, schema.history_col), schema.max_len)))
    needed = n_rows * per_row + 4 * places
    if needed > available:
        raise ConfigError(
            f"{path}: {n_rows:,} rows need about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available; set stream: True, which trains from a file beside the feature map, whatever the rows."
        )
    return n_rows, places


def _stored_values(table: ParquetTable, column: str) -> int:
    """Entries of a list column over the whole table, padding included."""
    total = 0
    for part in table.metadata:
        for group in map(part.row_group, range(part.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            total += next(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
    return total


def _mean_length(table: ParquetTable, column: str) -> float:
    """Mean number of ids other than 0 and null in the first lists of the first, the middle and the last row group."""
    found = []
    for batch in table.samples(4096, column):
        found.append(np.count_nonzero(lists(batch)[1].drop_null().to_numpy(zero_copy_only=False)) / len(batch))
    return float(np.mean(found))
