"""The item table: everything about items as contiguous arrays, built once per (source files, specification).

Apart from the processor because it needs nothing of FuxiCTR: the loader, the data checks and users with items of
their own read it directly. On disk it is one safetensors file (memory-mapped, no code inside) and a JSON beside it.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.columns import ColumnBuilder, check_vocab, read_specification, write_specification
from fuxictr_mm.features.derive.clicks import read_clicks
from fuxictr_mm.features.sources import Sources
from fuxictr_mm.features.vector_files import export_key_value
from fuxictr_mm.files import atomic_write, file_fingerprint, open_parquet

__all__ = ["ItemTable", "build_item_table", "read_item_info"]

FORMAT = "fuxictr_mm item table 1"
LIBRARIES = ("fuxictr", "numpy", "pyarrow", "safetensors", "scikit-learn", "scipy")
# Ids below this are mapped by one array (at most 64 MiB), larger ones by binary search.
LOOKUP_IDS = 1 << 24
_PathLike = str | Path


class ItemTable:
    """All items of a dataset, one array per column, indexed by item index; index 0 is padding.

    Attributes:
        item_ids: (n_items,) int64 raw ids, sorted as built; the item ``item_ids[i]`` has index ``i + 1``. Items that
            :meth:`with_items` adds stand behind, so that the index of an item never changes.
        columns: name -> (n_items + 1, ...) array, row 0 zeros: int32 ids and id lists, float32 numbers and vectors.
            The item id column holds the item index itself, and 0 for items that :meth:`with_items` added.
        states: fitted PCAs as arrays, ``"<column>/<entry number>/<field>"`` -> array, and ``"<column>/clicks/<field>"``
            of click vectors.
        info: what the JSON beside the table says.
        path: the safetensors file, ``None`` for a table that only lives in memory.
    """

    def __init__(
        self,
        item_ids: np.ndarray,
        columns: Mapping[str, np.ndarray],
        *,
        states: Mapping[str, np.ndarray] | None = None,
        info: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        self.item_ids = item_ids
        self.columns = dict(columns)
        self.states = dict(states or {})
        self.info = dict(info or {})
        self.path = path
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
    def load(cls, path: _PathLike) -> "ItemTable":
        """Open a saved table; columns are memory-mapped and shared by all processes that open it.

        Raises:
            DataError: the file or the JSON beside it is missing, truncated or no item table.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
            info = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (SafetensorError, OSError, ValueError) as err:
            raise DataError(
                f"{path}: not a whole item table ({err}); delete it, and the next run builds it anew."
            ) from err
        if metadata.get("format") != FORMAT:
            raise DataError(
                f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; delete it to build it anew."
            )
        tensors = _map_tensors(path)
        groups: dict[str, dict[str, np.ndarray]] = {"column": {}, "state": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in groups:
                groups[kind][rest] = tensor
        # The order of columns is that of the specification; the file sorts them.
        columns = {name: groups["column"][name] for name in info["columns"]}
        return cls(tensors["item_ids"], columns, states=groups["state"], info=info, path=path)

    def save(self, path: _PathLike) -> "ItemTable":
        """Write the table and its JSON, each atomically, and return it as :meth:`load` opens it."""
        path = Path(path)
        tensors = {f"column/{name}": values for name, values in self.columns.items()}
        tensors |= {f"state/{name}": values for name, values in self.states.items()}
        tensors["item_ids"] = self.item_ids
        # The JSON first: whoever finds the table finds both.
        with atomic_write(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(self.info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with atomic_write(path) as temporary:
            save_file({name: np.asarray(v, order="C") for name, v in tensors.items()}, temporary, {"format": FORMAT})
        return type(self).load(path)

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
        """Return a table with the items of these files added, transformed by the saved PCAs: nothing is fitted.

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
        item_col, columns = read_specification(self.info["specification"])
        sources = Sources.from_paths(item_col, item_info, item_feature, modality_data)
        new_ids = sources.item_ids()
        new_ids = new_ids[self.index_of(new_ids) < 0]
        if not len(new_ids):
            return self
        columns = [self._with_limits(column) for column in columns]
        builder = ColumnBuilder(sources, new_ids, ItemTable(new_ids, {}).index_of, Path(tempfile.gettempdir()))
        added = {c.name: builder.transform(c, self.states, self.info["pca"].get(c.name, ())) for c in columns}
        added[item_col] = np.zeros(len(new_ids) + 1, np.int32)
        merged = {name: np.concatenate([values, added[name][1:]]) for name, values in self.columns.items()}
        item_ids = np.concatenate([self.item_ids, new_ids])
        info = {**self.info, "n_items": len(item_ids), "columns": _shapes(merged)}
        return ItemTable(item_ids, merged, states=self.states, info=info)

    def _with_limits(self, column: Column) -> Column:
        """Bind what the specification left open to what the table holds: models are as wide, and know as many ids."""
        values = self.columns[column.name]
        if column.type in ("categorical", "sequence") and column.vocab_size is None:
            column = replace(column, vocab_size=int(values.max()) + 1)
        if column.type == "sequence":
            column = replace(column, max_len=values.shape[1])
        if column.type == "embedding" and column.pca is None:
            column = replace(column, width=values.shape[1])
        return column


def read_item_info(path: _PathLike, schema: DatasetSchema) -> ItemTable:
    """Read the challenge's ready-made ``item_info.parquet``: every column is taken as it stands, nothing is derived.

    Args:
        path: one row per item in any order; the padding item's row (id 0), if there, is dropped.
        schema: names the item columns; a ``pca`` of theirs is not looked at, and columns that are compared only, which
            need one, are left out.

    Raises:
        DataError: the file breaks the contract.
    """
    columns = [replace(column, pca=None) for column in schema.item_columns if column.type != "meta"]
    return _build(columns, schema.item_col, Sources.from_paths(schema.item_col, path, None, None), Path(), None)


def build_item_table(
    schema: DatasetSchema,
    out_dir: _PathLike,
    *,
    item_info: _PathLike | None = None,
    item_feature: _PathLike | None = None,
    modality_data: Mapping[str, _PathLike] | None = None,
    train_data: _PathLike | None = None,
) -> ItemTable:
    """Build the item table of a dataset, or open the one that the same files and specification gave before.

    The items are those of ``item_info``, or of ``item_feature`` without it. Columns without ``pca`` come from the
    first of the two that has them; columns with ``pca`` are derived from raw vectors in ``modality_data``,
    ``item_feature`` or ``item_info``. Raw vectors are streamed; only the reduced ones are held in memory.

    Args:
        schema: the item columns and how they are derived.
        out_dir: folder for ``item_table-<fingerprint>.safetensors`` and ``.json``.
        item_info, item_feature: parquet files, one row per item, in any order.
        modality_data: modality -> ``.parquet``, ``.npz`` or ``.h5`` file with its vectors.
        train_data: the training split, needed for ``pca_fit_on: train`` and ``clicks``.

    Raises:
        DataError: a file breaks the contract.
        ConfigError: the specification asks for what the files cannot give.
    """
    sources = Sources.from_paths(schema.item_col, item_info, item_feature, modality_data)
    columns = list(schema.item_columns)
    on_train, of_clicks = _fits_on_train(columns), _holds_clicks(columns)
    files = sources.files_of(columns)
    train = None
    if on_train or of_clicks:
        if train_data is None:
            raise ConfigError("pca_fit_on: train, and clicks, need 'train_data' in the dataset's YAML.")
        open_parquet(train_data, (schema.item_col, schema.history_col))
        files["train_data"] = Path(train_data)
        train = (Path(train_data), schema)
    digests = {name: file_fingerprint(file) for name, file in files.items()}
    specification = write_specification(columns, schema.item_col)
    key = json.dumps([FORMAT, specification, digests, _read_from_train(schema, on_train, of_clicks)], sort_keys=True)
    fingerprint = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    path = Path(out_dir) / f"item_table-{fingerprint}.safetensors"
    if path.exists():
        logging.info("Reuse item table: %s", path)
        return ItemTable.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _build(columns, schema.item_col, sources, path.parent, train)
    table.info["sources"] = {name: {"file": file.name, "digest": digests[name]} for name, file in files.items()}
    table.info["fingerprint"] = fingerprint
    table = table.save(path)
    logging.info("Built item table: %s (%s items)", path, f"{table.n_items:,}")
    return table


def _build(
    columns: list[Column], item_col: str, sources: Sources, spool_dir: Path, train: tuple[Path, DatasetSchema] | None
) -> ItemTable:
    item_ids = sources.item_ids()
    check_vocab(columns, item_col, len(item_ids))
    table = ItemTable(item_ids, {})
    in_fit = {"all": np.ones(len(item_ids) + 1, bool)}
    clicks = None
    if train is not None and _fits_on_train(columns):
        in_fit["train"] = _seen_in_train(table, *train)
    if train is not None and _holds_clicks(columns):
        clicks = read_clicks(*train, table.index_of, len(item_ids))
    builder = ColumnBuilder(sources, item_ids, table.index_of, spool_dir)
    table.columns = {column.name: builder.fit(column, in_fit, clicks) for column in columns}
    table.columns[item_col] = np.arange(len(item_ids) + 1, dtype=np.int32)
    table.states = builder.states
    table.info = {
        "n_items": len(item_ids),
        "n_items_built": len(item_ids),
        "columns": _shapes(table.columns),
        "pca": builder.reports,
        "clicks": builder.click_reports,
        "specification": write_specification(columns, item_col),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return table


def _fits_on_train(columns: Sequence[Column]) -> bool:
    return any(column.pca is not None and column.pca_fit_on == "train" for column in columns)


def _holds_clicks(columns: Sequence[Column]) -> bool:
    return any(column.clicks is not None for column in columns)


def _read_from_train(schema: DatasetSchema, on_train: bool, of_clicks: bool) -> list[str | None]:
    """The columns of the training split that the table depends on."""
    return [schema.history_col] * on_train + [schema.history_col, schema.group_id] * of_clicks


def _seen_in_train(table: ItemTable, path: Path, schema: DatasetSchema) -> np.ndarray:
    """Mark the items that occur in the training split as target or in a history: (n_items + 1,) bool."""
    seen = np.zeros(table.n_items + 2, bool)  # the last place takes unknown ids (index -1), which the data checks name
    file = open_parquet(path, (schema.item_col, schema.history_col))
    with tqdm(total=file.metadata.num_rows, desc="items seen in train", unit=" rows", disable=None) as bar:
        for batch in file.iter_batches(1 << 16, columns=[schema.item_col, schema.history_col]):
            history = batch.column(schema.history_col)
            kinds = batch.column(schema.item_col).type, getattr(history.type, "value_type", pa.null())
            if not all(pa.types.is_integer(kind) for kind in kinds):
                raise DataError(
                    f"{path}: columns {schema.item_col!r} and {schema.history_col!r} have the types {kinds[0]} and "
                    f"{history.type}; integer ids and lists of them are expected."
                )
            for ids in (batch.column(schema.item_col), history.flatten()):
                seen[table.index_of(ids.drop_null().to_numpy())] = True
            bar.update(len(batch))
    return seen[:-1]


def _shapes(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: {"dtype": str(values.dtype), "shape": list(values.shape)} for name, values in columns.items()}


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Map a safetensors file that is known to be whole; the library's own numpy reader would copy it."""
    # Copy-on-write: nobody can change the file, and torch takes the arrays without a warning about read-only memory.
    raw = np.memmap(path, np.uint8, "c")
    size = int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    kinds = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
    tensors = {}
    for name, entry in header.items():
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = raw[start:stop].view(np.ndarray).view(kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors
