"""The item table: the ids of all items, and one array per column."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.arrays import read_arrays, stored_name, write_arrays
from fuxictr_mm.features.columns import ItemColumn, Items, column_file, open_column, read_ready_made
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.sources import Sources
from fuxictr_mm.features.vector_files import export_key_value
from fuxictr_mm.files import remove_leftovers
from fuxictr_mm.parquet import Unchanged

__all__ = ["ItemTable", "build_item_table", "read_item_info"]

FORMAT = "fuxictr_mm item ids 2"
# Ids below this are mapped by one array (at most 64 MiB), larger ones by binary search.
LOOKUP_IDS = 1 << 24
ATTEMPTS = 3  # to read files that somebody replaces meanwhile
_PathLike = str | Path


class ItemTable:
    """All items of a dataset, one array per column, indexed by item index; index 0 is padding.

    Args:
        item_ids: (n_items,) int64 raw ids; the item ``item_ids[i]`` has index ``i + 1``.
        stored: name -> column, without that of the item ids.
        item_col: name of the item id column.
        n_known: how many of the items, the first ones, models know by their id; ``None``: all.
        path: the file of the ids, ``None`` for a table that only lives in memory.

    Attributes:
        item_ids: sorted as built; items that :meth:`with_items` adds stand behind, so that the index of an item never
            changes.
        stored: name -> :class:`~fuxictr_mm.features.columns.ItemColumn`: values, files and reports.
        columns: name -> (n_items + 1, ...) array, row 0 zeros: int32 ids and id lists, float32 numbers and vectors.
            The item id column holds the item index itself, and 0 for items that :meth:`with_items` added.
    """

    def __init__(
        self,
        item_ids: np.ndarray,
        stored: Mapping[str, ItemColumn] | None = None,
        *,
        item_col: str = "item_id",
        n_known: int | None = None,
        path: Path | None = None,
    ) -> None:
        self.item_ids = item_ids
        self.item_col = item_col
        self.n_known = len(item_ids) if n_known is None else n_known
        self.path = path
        self.stored = dict(stored or {})
        index = np.arange(len(item_ids) + 1, dtype=np.int32)
        index[self.n_known + 1 :] = 0
        self.columns = {item_col: index, **{name: column.values for name, column in self.stored.items()}}
        largest = int(item_ids.max())
        self._is_identity = largest == len(item_ids) and bool(np.all(item_ids[1:] > item_ids[:-1]))
        self._lookup: np.ndarray | None = None
        self._order: np.ndarray | None = None
        if not self._is_identity and largest < LOOKUP_IDS:
            self._lookup = np.full(largest + 2, -1, np.int32)
            self._lookup[0] = 0
            self._lookup[item_ids] = np.arange(1, len(item_ids) + 1)
        elif not self._is_identity:
            self._order = np.argsort(item_ids, kind="stable")

    @property
    def n_items(self) -> int:
        """Number of items, padding not counted."""
        return len(self.item_ids)

    def index_of(self, raw_ids: Any) -> np.ndarray:
        """Map raw ids to item indices: same shape, int32; padding id 0 -> 0, an unknown id -> -1."""
        raw = np.asarray(raw_ids)
        if raw.dtype == np.uint64:  # 2**63 and more become negative: no such item
            raw = raw.astype(np.int64)
        if self._is_identity:
            index = np.atleast_1d(raw).astype(np.int32)
            index[np.atleast_1d((raw < 0) | (raw > self.n_items))] = -1
            return index.reshape(raw.shape)
        if self._lookup is not None:
            # Below and above the known range both land on the last place, which holds -1.
            return self._lookup[np.clip(raw.astype(np.int64), -1, len(self._lookup) - 1)]
        assert self._order is not None
        at = np.minimum(np.searchsorted(self.item_ids, raw, sorter=self._order), self.n_items - 1)
        rows = self._order[at]
        return np.where(raw == 0, 0, np.where(self.item_ids[rows] == raw, rows + 1, -1)).astype(np.int32)

    @classmethod
    def load(cls, path: _PathLike, columns: Mapping[str, _PathLike]) -> "ItemTable":
        """Open a table; its arrays are memory-mapped and shared by all processes that open them.

        Args:
            path: the file of the ids.
            columns: name -> file of the column.

        Raises:
            DataError: a file is missing, truncated or another one, or a column is not of these items.
        """
        arrays, info = read_arrays(path, FORMAT)
        stored = {name: ItemColumn.load(file) for name, file in columns.items()}
        for column in stored.values():
            if len(column.values) != len(arrays["item_ids"]) + 1:
                raise DataError(
                    f"{column.path}: {len(column.values) - 1:,} items, but {path} has {len(arrays['item_ids']):,}; "
                    "delete both, and the next run builds them anew."
                )
        return cls(arrays["item_ids"], stored, **info, path=Path(path))

    def save(self, folder: _PathLike) -> "ItemTable":
        """Store the ids and the columns of a table that lives in memory, and return it as :meth:`load` opens it."""
        folder = Path(folder)
        columns = {}
        for name, column in self.stored.items():
            columns[name] = folder / stored_name(name, column.values.tobytes())
            column.save(columns[name])
        return type(self).load(self._save_ids(folder), columns)

    def _save_ids(self, folder: Path) -> Path:
        info = {"item_col": self.item_col, "n_known": self.n_known}
        path = folder / stored_name("item_ids", self.item_ids.tobytes() + repr([FORMAT, info]).encode())
        if not path.exists():
            write_arrays(path, {"item_ids": self.item_ids}, FORMAT, info)
        return path

    def export(self, column: str, path: _PathLike) -> None:
        """Write a vector column under the raw item ids in FuxiCTR's key/value form (``.npz``, ``.h5``, ``.parquet``).

        Any FuxiCTR model takes the file as ``pretrained_emb`` of its item id column. Give that column ``dtype: str``:
        with ``int``, FuxiCTR 2.3.10 cannot save its vocabulary once the file has items that the training split lacks.

        Raises:
            ConfigError: there is no such vector column.
            DataError: unknown suffix.
        """
        vectors = {name: v for name, v in self.columns.items() if v.ndim == 2 and v.dtype == np.float32}
        if column not in vectors:
            raise ConfigError(f"column {column!r} is no vector column of the item table; it has {list(vectors)}.")
        export_key_value(path, self.item_ids, vectors[column][1:])

    def with_items(
        self,
        *,
        item_info: _PathLike | None = None,
        item_feature: _PathLike | None = None,
        modality_data: Mapping[str, _PathLike] | None = None,
    ) -> "ItemTable":
        """Return a table with the items of these files added, by what the derivations have learned: nothing is fitted.

        Items that are there keep their index and their columns, so the files may be today's whole catalogue; without a
        new item the table itself comes back. An added item is cold: its vectors and other columns are its own, its item
        id column is 0, so that a model sees the zero row of its id embedding, which knows only the items of the table
        it was trained with. What is padding follows from a batch's mask, never from this 0. The new table lives in
        memory until :meth:`save`.

        Args:
            item_info, item_feature, modality_data: files of items, laid out as those the table was built from.

        Raises:
            DataError: a new item has an id in another column (a tag, say) that is outside the declared vocabulary or,
                where none is declared, larger than any in the table; or the files break the contract.
        """
        sources = Sources.from_paths(self.item_col, item_info, item_feature, modality_data)
        new_ids = sources.item_ids()
        new_ids = new_ids[self.index_of(new_ids) < 0]
        if not len(new_ids):
            return self
        items = Items(sources, new_ids, ItemTable(new_ids).index_of, Path(tempfile.gettempdir()))
        stored = {name: column.with_items(items) for name, column in self.stored.items()}
        ids = np.concatenate([self.item_ids, new_ids])
        return ItemTable(ids, stored, item_col=self.item_col, n_known=self.n_known)


def read_item_info(path: _PathLike, schema: DatasetSchema) -> ItemTable:
    """Read the challenge's ready-made ``item_info.parquet``: every column is taken as it stands, nothing is derived.

    Args:
        path: one row per item in any order; the padding item's row (id 0), if there, is dropped.
        schema: names the item columns; how they are derived is not looked at, and columns that are compared only,
            which have to be derived, are left out.

    Raises:
        DataError: the file breaks the contract.
    """
    items = _items(Sources.from_paths(schema.item_col, path, None, None), schema, Path())
    ready = [replace(column, derived={}) for column in _columns(schema) if column.type != "meta"]
    return ItemTable(items.ids, {c.name: read_ready_made(c, items) for c in ready}, item_col=schema.item_col)


def build_item_table(
    schema: DatasetSchema,
    out_dir: _PathLike,
    *,
    item_info: _PathLike | None = None,
    item_feature: _PathLike | None = None,
    modality_data: Mapping[str, _PathLike] | None = None,
    train_data: _PathLike | None = None,
) -> ItemTable:
    """Open the item columns of a dataset, and build those that the same files and specification never gave before.

    The items are those of ``item_info``, or of ``item_feature`` without it. Columns that are not derived come from the
    first of the two that has them; others are derived from raw vectors in ``modality_data``, ``item_feature`` or
    ``item_info``. Raw vectors are streamed; only the reduced ones are held in memory.

    Args:
        schema: the item columns and how they are derived.
        out_dir: folder for ``item_ids-<digest>.safetensors`` and ``<column>-<digest>.safetensors``.
        item_info, item_feature: parquet files, one row per item, in any order.
        modality_data: modality -> ``.parquet``, ``.npz`` or ``.h5`` file with its vectors.
        train_data: the training split, needed by ``pca_fit_on: train`` and ``clicks``.

    Raises:
        DataError: a file breaks the contract, or is replaced again and again while it is read.
        ConfigError: the specification asks for what the files cannot give.
    """
    folder = Path(out_dir)
    remove_leftovers(folder)
    sources = Sources.from_paths(schema.item_col, item_info, item_feature, modality_data)
    train = None if train_data is None else Path(train_data)
    for _ in range(ATTEMPTS):
        is_current = Unchanged([*sources.files, train])
        try:
            table = _build(schema, folder, sources, train, is_current)
        except DataError:
            if is_current():
                raise
        else:
            if is_current():
                return table
        logging.warning("A file was replaced while the item columns were read from it: they are read again.")
    raise DataError(
        f"{', '.join(map(str, sources.files))}: replaced {ATTEMPTS} times while being read; wait until whoever writes "
        "them has ended."
    )


def _build(
    schema: DatasetSchema, folder: Path, sources: Sources, train: Path | None, is_current: Unchanged
) -> ItemTable:
    items = _items(sources, schema, folder)
    training = TrainingSplit(train, schema, items.index_of, len(items.ids))
    # All names first: a file that is missing is found before anything is built.
    files = [(column, column_file(column, items, training, folder)) for column in _columns(schema)]
    stored = {column.name: open_column(column, items, training, path, is_current) for column, path in files}
    ids = ItemTable(items.ids, item_col=schema.item_col)._save_ids(folder)
    return ItemTable(items.ids, stored, item_col=schema.item_col, path=ids)


def _columns(schema: DatasetSchema) -> list[Column]:
    return [column for column in schema.item_columns if column.name != schema.item_col]


def _items(sources: Sources, schema: DatasetSchema, folder: Path) -> Items:
    """The items of these files.

    Raises:
        DataError: there are more than the declared vocabulary of the item id column has room for.
    """
    ids = sources.item_ids()
    vocab_size = next((c.vocab_size for c in schema.item_columns if c.name == schema.item_col), None)
    if vocab_size is not None and len(ids) + 1 > vocab_size:
        raise DataError(
            f"column {schema.item_col!r}: vocab_size={vocab_size} but there are {len(ids)} items and a padding id; use "
            f"vocab_size >= {len(ids) + 1} or leave it out."
        )
    return Items(sources, ids, ItemTable(ids).index_of, folder)
