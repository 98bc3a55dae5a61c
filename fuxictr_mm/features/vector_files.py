"""Vectors of one modality, read chunk by chunk from any of the files that FuxiCTR users keep them in.

Two layouts are read: a parquet list column that is named like the modality, with the ids in another column; and
FuxiCTR's key/value form (``.parquet``, ``.npz``, ``.h5``), which :func:`export_key_value` also writes. An ``.npz`` is
read at once; keep vectors that memory does not hold in one of the other forms.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, system_error
from fuxictr_mm.forms import ID, VECTOR, Misfit, check_form, lists, numbers, whole_numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["export_key_value", "iter_vectors", "read_ids"]

ARRAYS = (".npz", ".h5")
SUFFIXES = (".parquet", *ARRAYS)
_Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]


def iter_vectors(
    path: str | Path, modality: str, key_col: str, chunk_rows: int = 8192, width: int | None = None
) -> Iterator[_Chunk]:
    """Yield the vectors of ``modality``, ``chunk_rows`` rows at a time, in the order of the file.

    Args:
        path: ``.parquet`` with a list column named ``modality`` and ids in ``key_col``, or a key/value file.
        modality: name of the vectors.
        key_col: id column of a parquet file that has a column named ``modality``.
        chunk_rows: rows per chunk.
        width: expected vector length; ``None`` takes that of the first vector.

    Yields:
        ids (n,) int64, vectors (n, d) float32 and is_present (n,) bool; a missing (null) vector is a row of zeros
        whose is_present is False.

    Raises:
        DataError: the file is missing, truncated, of an unknown form, lacks a column, repeats an id, or holds a
            vector of another length or with NaN or inf in it.
    """
    path = Path(path)
    ids = read_ids(path, modality, key_col)
    start, empty = 0, []
    for values in _read_values(path, modality, chunk_rows, len(ids)):
        chunk_ids = ids[start : start + len(values)]
        start += len(values)
        vectors, is_present = _matrix(values, chunk_ids, width, f"{path}: column {modality!r}")
        if vectors is None:
            empty.append(chunk_ids)  # nothing but nulls so far: the width is not known yet
            continue
        width = vectors.shape[1]
        for early_ids in empty:
            yield early_ids, np.zeros((len(early_ids), width), np.float32), np.zeros(len(early_ids), bool)
        empty = []
        yield chunk_ids, vectors, is_present
    if empty:
        raise DataError(f"{path}: column {modality!r} holds no vector, only nulls; check how the file was made.")


def read_ids(path: str | Path, modality: str, key_col: str) -> np.ndarray:
    """Return the ids of the file's rows: (n,) int64, checked to be whole numbers >= 0 without repeats.

    Args:
        path, modality, key_col: as in :func:`iter_vectors`.

    Raises:
        DataError: as in :func:`iter_vectors`.
    """
    path = Path(path)
    if path.suffix not in ARRAYS:
        key, _ = _parquet_names(path, modality, key_col)
        table = open_parquet(path, (key,))
        check_form(path, key, table.schema_arrow.field(key).type, ID)
        column = table.read([key]).column(0).combine_chunks()
    else:
        key = "key"
        column = pa.array(_read_keys(path))
    try:
        column = whole_numbers(column)
    except Misfit as err:
        raise DataError(f"{path}: id column {key!r}, row {err.at}: {err.reason}.") from err
    if column.null_count:
        raise DataError(f"{path}: id column {key!r} has {column.null_count:,} nulls; every row needs its id.")
    ids = column.to_numpy().astype(np.int64)
    if not len(ids):
        raise DataError(f"{path}: no rows; at least one item is expected.")
    if ids.min() < 0:
        raise DataError(f"{path}: id column {key!r}, row {ids.argmin()}: negative id {ids.min()}; ids must be >= 0.")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        double = int(values[counts.argmax()])
        rows = np.flatnonzero(ids == double)[:2].tolist()
        raise DataError(
            f"{path}: id {double} occurs {counts.max()} times in column {key!r} (rows {rows[0]} and {rows[1]}); "
            "keep one row per item."
        )
    return ids


def export_key_value(path: str | Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Write vectors in the form that ``fuxictr.preprocess.tokenizer.load_pretrain_emb`` reads, atomically.

    Args:
        path: ends in ``.npz``, ``.h5`` or ``.parquet``.
        keys: (n,) raw integer ids.
        vectors: (n, d) vectors; written as float32.

    Raises:
        DataError: another suffix, or keys and vectors do not fit each other.
    """
    path = Path(path)
    keys, vectors = np.asarray(keys), np.asarray(vectors, dtype=np.float32)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown file form {path.suffix!r}; vectors are written to {', '.join(SUFFIXES)}.")
    if vectors.ndim != 2 or keys.shape != vectors.shape[:1]:
        raise DataError(f"{path}: keys {keys.shape} and vectors {vectors.shape} must have the shapes (n,) and (n, d).")
    with atomic_write(path) as temporary:
        if path.suffix == ".npz":
            with open(temporary, "wb") as stream:
                np.savez(stream, key=keys, value=vectors)
        elif path.suffix == ".h5":
            with h5py.File(temporary, "w") as file:
                file["key"], file["value"] = keys, vectors
        else:
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            pq.write_table(pa.table({"key": keys, "value": values}), temporary)


def _parquet_names(path: Path, modality: str, key_col: str) -> tuple[str, str]:
    """Names of the id and the vector column: the modality's own column goes before key/value."""
    names = open_parquet(path).schema_arrow.names
    key, value = (key_col, modality) if modality in names else ("key", "value")
    missing = [name for name in (key, value) if name not in names]
    if missing:
        raise DataError(
            f"{path}: no vectors of {modality!r} here: neither columns {key_col!r} and {modality!r} nor 'key' and "
            f"'value'; found {names}."
        )
    return key, value


def _read_values(path: Path, modality: str, chunk_rows: int, n_keys: int) -> Iterator[pa.Array | np.ndarray]:
    try:
        if path.suffix not in ARRAYS:
            yield from _parquet_values(path, modality, chunk_rows)
        else:
            yield from _array_values(path, chunk_rows, n_keys)
    except (pa.ArrowInvalid, OSError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise DataError(f"{path}: the vectors of {modality!r} cannot be read ({err}); copy or make it again.") from err


def _parquet_values(path: Path, modality: str, chunk_rows: int) -> Iterator[pa.Array]:
    _, name = _parquet_names(path, modality, modality)
    file = open_parquet(path, (name,))
    check_form(path, name, file.schema_arrow.field(name).type, VECTOR)
    for batch in file.iter_batches(chunk_rows, [name]):
        yield batch.column(0)


def _matrix(
    values: pa.Array | np.ndarray, ids: np.ndarray, width: int | None, where: str
) -> tuple[np.ndarray | None, np.ndarray]:
    """Check one chunk and turn it into (n, d) float32 and is_present (n,); vectors ``None``: only nulls."""
    if isinstance(values, np.ndarray):
        is_present, found, flat = np.ones(len(values), bool), values.shape[1], values
        lengths = np.full(len(values), found)
    else:
        is_present = values.is_valid().to_numpy(zero_copy_only=False)
        lengths, flat = lists(values)
        lengths, flat = lengths[is_present], numbers(flat)  # null between the numbers is NaN, which is refused below
    if not len(lengths) and width is None:
        return None, is_present
    if not lengths.all():
        empty = ids[is_present][int((lengths == 0).argmax())]
        raise DataError(f"{where}, id {empty}: empty vector; write null where a vector is missing.")
    width = int(lengths[0]) if width is None else width
    wrong = np.flatnonzero(lengths != width)
    if len(wrong):
        raise DataError(
            f"{where}, id {ids[is_present][wrong[0]]}: vector of length {lengths[wrong[0]]}, expected {width} as in "
            "the rows before it or in 'pretrain_dim'."
        )
    with np.errstate(over="ignore"):  # too large for float32: refused as inf below
        present = flat.astype(np.float32).reshape(-1, width)
    finite = np.isfinite(present).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{where}, id {ids[is_present][~finite][0]}: NaN, null or inf inside the vector ({(~finite).sum()} such "
            f"rows in this chunk of {len(ids)}); write null for the whole vector where it is missing."
        )
    if is_present.all():
        return present, is_present
    vectors = np.zeros((len(ids), width), np.float32)
    vectors[is_present] = present
    return vectors, is_present


def _read_keys(path: Path) -> np.ndarray:
    """Ids of an .npz or .h5 file."""
    if not path.is_file():
        raise DataError(f"{path}: file not found; check the path in the dataset's YAML.")
    try:
        with _open_arrays(path) as file:
            names = list(file)
            keys = _array(file, "key")[:] if {"key", "value"} <= set(names) else None
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as err:
        if told := system_error(err, path):
            raise told from err
        raise DataError(
            f"{path}: cannot be read as {path.suffix} ({path.stat().st_size:,} bytes; {err}); copy or make it again."
        ) from err
    if keys is None:
        raise DataError(f"{path}: 'key' (ids) and 'value' (vectors) are expected; found {names}.")
    if keys.ndim != 1 or keys.dtype.kind not in "iuf":
        raise DataError(f"{path}: 'key' must be a list of integers; found {keys.dtype} of shape {keys.shape}.")
    return keys


def _array_values(path: Path, chunk_rows: int, n_keys: int) -> Iterator[np.ndarray]:
    expected = f"{path}: 'value' must hold numbers of shape ({n_keys}, width), one row per key; found"
    with _open_arrays(path) as file:
        try:
            values = _array(file, "value")
        except ValueError as err:
            raise DataError(f"{expected} what cannot be read: {err}.") from err
        if values.dtype.kind not in "fiu" or values.ndim != 2 or len(values) != n_keys:
            raise DataError(f"{expected} {values.dtype} of shape {values.shape}.")
        for start in range(0, n_keys, chunk_rows):
            yield values[start : start + chunk_rows]


def _array(file: Any, name: str) -> Any:
    """An array that lies in the file itself.

    Raises:
        DataError: an .h5 file says that it lies elsewhere: whoever made the file would choose what is read here.
    """
    if isinstance(file, h5py.File):
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{name!r} is a {type(link).__name__}, which is not followed; write the array itself.")
        if not isinstance(file[name], h5py.Dataset):
            raise DataError(f"{name!r} is a {type(file[name]).__name__.lower()}; an array is expected.")
        if file[name].external or file[name].is_virtual:
            raise DataError(
                f"{name!r} keeps its numbers in other files, which are not followed; write the array itself."
            )
    return file[name]


def _open_arrays(path: Path) -> Any:
    return np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path, "r")
