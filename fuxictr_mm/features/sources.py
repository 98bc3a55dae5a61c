"""Which file gives which item column, and the columns that are read as they stand: ids, lists, numbers, vectors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.vector_files import ARRAYS, iter_vectors, read_ids
from fuxictr_mm.forms import ID, IDS, NUMBER, Misfit, check_form, lists, numbers, whole_numbers
from fuxictr_mm.parquet import open_parquet, parts_of

__all__ = ["Sources", "read_column"]


@dataclass(frozen=True)
class Sources:
    """The files that describe items.

    Attributes:
        key_col: name of the item id column.
        item_info, item_feature: parquet files with one row per item; either may be absent.
        modality_data: vectors that live in a file of their own: modality -> path.
    """

    key_col: str
    item_info: Path | None = None
    item_feature: Path | None = None
    modality_data: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def from_paths(
        cls,
        key_col: str,
        item_info: str | Path | None,
        item_feature: str | Path | None,
        modality_data: Mapping[str, str | Path] | None,
    ) -> "Sources":
        if item_info is None and item_feature is None:
            raise ConfigError(
                "neither 'item_info' nor 'item_feature' is given; one of them must say which items exist."
            )
        return cls(
            key_col,
            None if item_info is None else Path(item_info),
            None if item_feature is None else Path(item_feature),
            {name: Path(path) for name, path in (modality_data or {}).items()},
        )

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.item_info, self.item_feature, *self.modality_data.values()) if path is not None]

    def item_ids(self) -> np.ndarray:
        """Return the ids of the items, without padding id 0: (n_items,) int64, sorted.

        Raises:
            DataError: the file is missing or damaged, has no id column or no item, repeats an id or has one < 0.
        """
        path = self._item_file()
        ids = np.sort(read_ids(path, self.key_col, self.key_col))
        ids = ids[ids > 0]
        if not len(ids):
            raise DataError(f"{path}: no item besides padding id 0; at least one is expected.")
        return ids

    def file_of(self, column: str) -> Path:
        """The first of modality_data, item_info and item_feature that has ``column`` ready-made."""
        return self._find(column, (self.item_info, self.item_feature))

    def file_of_modality(self, modality: str) -> Path:
        """The first of modality_data, item_feature and item_info that has the raw vectors of ``modality``."""
        return self._find(modality, (self.item_feature, self.item_info))

    def _item_file(self) -> Path:
        path = self.item_info or self.item_feature
        assert path is not None  # from_paths
        open_parquet(path, (self.key_col,))
        return path

    def _find(self, column: str, tables: Iterable[Path | None]) -> Path:
        if column in self.modality_data:
            path = self.modality_data[column]
            try:
                parts_of(path)
            except DataError as err:
                raise DataError(f"modality_data of {column!r}: {err}") from err
            return path
        seen = []
        for table in tables:
            if table is not None:
                names = open_parquet(table).schema_arrow.names
                if column in names:
                    return table
                seen.append(f"{table} has {names}")
        raise DataError(f"item column {column!r} is missing: {'; '.join(seen)}; check its name in the YAML.")


def read_column(sources: Sources, column: Column, item_ids: np.ndarray) -> np.ndarray:
    """Read a column that needs no derivation, in the order of ``item_ids``.

    Returns:
        (n_items + 1,) or (n_items + 1, width), row 0 zeros: int32 for ids, float32 for numbers and vectors.

    Raises:
        DataError: an item has no row, or a value is of the wrong type, length or range.
    """
    if column.type == "meta":
        raise ConfigError(
            f"column {column.name!r}: a 'source: item' column of 'type: meta' holds vectors and needs 'pca' or "
            "'clicks'; add one, e.g. pca: {txt_emb_BERT: null}, or leave 'source' out."
        )
    path = sources.file_of(column.name)
    if column.type == "embedding":
        return _read_vectors(path, column, sources.key_col, item_ids)
    if path.suffix in ARRAYS:
        raise DataError(f"{path}: column {column.name!r} of type {column.type!r} is read from parquet files only.")
    form = {"numeric": NUMBER, "categorical": ID}.get(column.type, IDS)
    check_form(path, column.name, open_parquet(path, (column.name,)).schema_arrow.field(column.name).type, form)
    values = _in_table_order(path, column.name, sources.key_col, item_ids)
    where = f"{path}: column {column.name!r}"
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where}, item {item_ids[row]}: null ({values.null_count} such items); a value is expected.")
    if column.type == "numeric":
        return _with_padding(_numbers(values, where, item_ids))
    if column.type == "categorical":
        return _with_padding(_check_ids(values, where, column.vocab_size, item_ids))
    return _with_padding(_lists(values, where, column, item_ids))


def _read_vectors(path: Path, column: Column, key_col: str, item_ids: np.ndarray) -> np.ndarray:
    out = np.zeros((0, 0), np.float32)
    for ids, vectors, _ in iter_vectors(path, column.name, key_col, width=column.width):
        if not out.size:
            out = np.zeros((len(item_ids) + 1, vectors.shape[1]), np.float32)
        at = np.minimum(np.searchsorted(item_ids, ids), len(item_ids) - 1)
        known = item_ids[at] == ids
        out[at[known] + 1] = vectors[known]
    return out


def _in_table_order(path: Path, name: str, key_col: str, item_ids: np.ndarray) -> pa.Array:
    file = open_parquet(path, (key_col, name))
    ids = read_ids(path, name, key_col)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, item_ids, sorter=order), len(ids) - 1)
    rows = order[at]
    missing = ids[rows] != item_ids
    if missing.any():
        raise DataError(
            f"{path}: column {name!r} has no row for item {item_ids[missing][0]} ({missing.sum():,} of "
            f"{len(item_ids):,} items are missing); every item needs one."
        )
    return file.read([name]).column(0).combine_chunks().take(pa.array(rows))


def _numbers(values: pa.Array, where: str, item_ids: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # refused as inf below
        found = numbers(values).astype(np.float32)
    bad = ~np.isfinite(found)
    if bad.any():
        raise DataError(f"{where}, item {item_ids[bad][0]}: NaN or inf ({bad.sum()} such items); a number is expected.")
    return found


def _lists(values: pa.Array, where: str, column: Column, item_ids: np.ndarray) -> np.ndarray:
    lengths, flat = lists(values)
    width = column.max_len or int(lengths[0])
    wrong = lengths != width
    if wrong.any():
        source = "'max_len' in the YAML" if column.max_len else f"item {item_ids[0]}"
        raise DataError(
            f"{where}, item {item_ids[wrong][0]}: list of length {lengths[wrong][0]}, expected {width} as in {source}; "
            "pad shorter lists with 0."
        )
    return _check_ids(flat, where, column.vocab_size, np.repeat(item_ids, width)).reshape(-1, width)


def _check_ids(flat: pa.Array, where: str, vocab_size: int | None, owners: np.ndarray) -> np.ndarray:
    """Check ids (n,) of the items ``owners`` (n,): whole, >= 0 and below ``vocab_size``."""
    try:
        flat = whole_numbers(flat)
    except Misfit as err:
        raise DataError(f"{where}, item {owners[err.at]}: {err.reason}.") from err
    if flat.null_count:
        first = owners[flat.is_null().to_numpy(zero_copy_only=False).argmax()]
        raise DataError(f"{where}, item {first}: a null id ({flat.null_count:,} such ids); pad with 0 instead.")
    ids = flat.to_numpy()
    limit = np.iinfo(np.int32).max if vocab_size is None else vocab_size
    bad = (ids < 0) | (ids >= limit)
    if bad.any():
        what = f"vocab_size={vocab_size}" if vocab_size is not None else f"the largest id, {limit - 1}"
        raise DataError(
            f"{where}, item {owners[bad][0]}: id {ids[bad][0]} is outside 0..{limit - 1} ({what}; {bad.sum():,} such "
            f"ids, largest {ids.max()})."
        )
    return ids.astype(np.int32)


def _with_padding(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(values[:1]), values])
