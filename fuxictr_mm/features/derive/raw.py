"""How one entry of a column's ``pca`` becomes a block of vectors: fit in one pass, transform in a second.

Apart from the item table because here is all that must be the same for the items of today and those that arrive
later: missing vectors, scaling, and the state that is saved.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.pca import ModalityPCA
from fuxictr_mm.features.vector_files import iter_vectors

__all__ = ["ModalityRows", "RawVectors", "fit_entry", "restore_entry", "transform_entry"]

CHUNK_ROWS = 8192


class RawVectors:
    """Stands where a PCA would for ``pca: {modality: null}``: the raw vectors, scaled but not centred.

    Args:
        normalize: divide by ``scale_``, the root-mean-square row norm of the fitted rows (1 where all are zero).
    """

    def __init__(self, *, normalize: bool) -> None:
        self.normalize = normalize
        self._sums: Mapping[str, Any] = {"n_samples_seen": 0, "total": 0.0, "total_squares": 0.0}

    def partial_fit(self, X: np.ndarray) -> "RawVectors":
        X = X.astype(np.float64)
        self._sums = {
            "n_samples_seen": self._sums["n_samples_seen"] + len(X),
            "total": self._sums["total"] + X.sum(axis=0),
            "total_squares": self._sums["total_squares"] + np.square(X).sum(),
        }
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return (X / self.scale_).astype(X.dtype) if self.normalize else X

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self._sums.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], *, normalize: bool) -> "RawVectors":
        raw = cls(normalize=normalize)
        raw._sums = arrays
        return raw

    @property
    def n_samples_seen_(self) -> int:
        return int(self._sums["n_samples_seen"])

    @property
    def mean_(self) -> np.ndarray:
        return self._sums["total"] / self.n_samples_seen_

    @property
    def scale_(self) -> float:
        return float(np.sqrt(self._sums["total_squares"] / self.n_samples_seen_)) or 1.0

    @property
    def n_components_(self) -> int:
        return len(self._sums["total"])


class ModalityRows:
    """The raw vectors of one entry, aligned to the item table; may be gone through more than once.

    One modality is streamed from its file. Several (``a+b``) may lie in files with other row orders, so each is first
    written to a temporary file in the order of the table: disk, not memory, has to hold them.

    Args:
        modalities: the names between the plus signs.
        paths: file of each modality.
        key_col: id column of parquet files.
        index_of: raw ids -> rows of the item table, 1-based; 0 or less: not in the table, skipped.
        n_items: number of items in the table.
        spool_dir: folder for temporary files.
        widths: expected width per modality, ``None``: whatever the files hold.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        paths: Sequence[Path],
        key_col: str,
        index_of: Callable[[np.ndarray], np.ndarray],
        n_items: int,
        spool_dir: Path,
        widths: Sequence[int] | None = None,
    ) -> None:
        self.n_items = n_items
        self._index_of = index_of
        self._read = [
            (path, name, key_col, CHUNK_ROWS, None if widths is None else widths[i])
            for i, (name, path) in enumerate(zip(modalities, paths))
        ]
        self.widths = list(widths or ())
        self._spools = [self._spool(i, spool_dir) for i in range(len(paths))] if len(paths) > 1 else []

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield index (n,) into the table, vectors (n, sum of widths) float32, is_present (n, modalities) bool."""
        if not self._spools:
            for index, vectors, is_present in self._stream(0):
                yield index, vectors, is_present[:, None]
            return
        for start in range(1, self.n_items + 1, CHUNK_ROWS):
            index = np.arange(start, min(start + CHUNK_ROWS, self.n_items + 1))
            vectors = np.concatenate([spool[index] for spool, _ in self._spools], axis=1)
            yield index, vectors, np.stack([is_present[index] for _, is_present in self._spools], axis=1)

    def _stream(self, i: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for ids, vectors, is_present in iter_vectors(*self._read[i]):
            if len(self.widths) <= i:
                self.widths.append(vectors.shape[1])
            index = self._index_of(ids)
            known = index > 0
            if known.all():
                yield index, vectors, is_present
            else:
                yield index[known], vectors[known], is_present[known]

    def _spool(self, i: int, spool_dir: Path) -> tuple[np.ndarray, np.ndarray]:
        spool, has_vector = np.empty((0, 0)), np.zeros(self.n_items + 1, bool)
        for index, vectors, is_present in self._stream(i):
            if not spool.size:
                with tempfile.TemporaryFile(dir=spool_dir) as file:  # the mapping outlives the name and the handle
                    spool = np.memmap(file, np.float32, "w+", shape=(self.n_items + 1, vectors.shape[1]))
            spool[index] = vectors
            has_vector[index] = is_present
        return spool, has_vector


def fit_entry(rows: ModalityRows, column: Column, entry: str, in_fit: np.ndarray) -> ModalityPCA | RawVectors:
    """Fit the reducer of one entry on the items that have all its vectors and that ``in_fit`` (n_items + 1,) marks.

    Raises:
        ConfigError: more components are asked for than these items and vectors give.
        DataError: no item to fit on has the vectors.
    """
    reducer = _reducer(column, entry)
    fitted = 0
    for index, vectors, is_present in _progress(rows, f"fit {entry}"):
        usable = is_present.all(axis=1) & in_fit[index]
        if usable.any():
            reducer.partial_fit(vectors[usable])
            fitted += int(usable.sum())
    where = f"column {column.name!r}, modality {entry!r}"
    if not fitted:
        raise DataError(
            f"{where}: none of the {in_fit[1:].sum():,} items to fit on (pca_fit_on: {column.pca_fit_on}) has a "
            "vector; check that the ids of the files agree."
        )
    try:
        reducer.to_arrays()
    except ValueError as err:
        raise ConfigError(f"{where}: {err}") from err
    return reducer


def restore_entry(column: Column, entry: str, arrays: Mapping[str, np.ndarray]) -> ModalityPCA | RawVectors:
    """Return the reducer that :func:`fit_entry` gave, from the arrays that were saved of it."""
    reducer = _reducer(column, entry)
    if isinstance(reducer, RawVectors):
        return RawVectors.from_arrays(arrays, normalize=reducer.normalize)
    return ModalityPCA.from_arrays(dict(arrays), **reducer.get_params())


def transform_entry(rows: ModalityRows, reducer: ModalityPCA | RawVectors, entry: str) -> tuple[np.ndarray, int]:
    """Return the block (n_items + 1, n_components_) float32 and how many items have no vector at all (rows of zeros).

    A modality that is missing beside others of the same entry is replaced by its mean.
    """
    block = np.zeros((rows.n_items + 1, reducer.n_components_), np.float32)
    found = 0
    for index, vectors, is_present in _progress(rows, f"transform {entry}"):
        some = is_present.any(axis=1)
        if not some.any():
            continue
        if not is_present.all():
            is_known = np.repeat(is_present, rows.widths, axis=1)
            vectors = np.where(is_known, vectors, reducer.mean_.astype(np.float32))
        block[index[some]] = reducer.transform(vectors[some])
        found += int(some.sum())
    return block, rows.n_items - found


def _reducer(column: Column, entry: str) -> ModalityPCA | RawVectors:
    assert column.pca is not None
    size = column.pca[entry]
    if size is None:
        return RawVectors(normalize=column.pca_normalize)
    return ModalityPCA(size, whiten=column.pca_whiten, normalize=column.pca_normalize)


def _progress(rows: ModalityRows, what: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    with tqdm(total=rows.n_items, desc=what, unit=" items", disable=None) as bar:
        for index, vectors, is_present in rows:
            yield index, vectors, is_present
            bar.update(len(index))
