"""Raw vectors of one or several modalities as a stream, and the derivations that reduce them: the key ``pca``."""

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.derivation import Derivation, ItemRows, derives
from fuxictr_mm.features.derive.pca import ModalityPCA
from fuxictr_mm.features.derive.raw import RawVectors
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.vector_files import iter_vectors

__all__ = ["ModalityRows", "ReducedModalities", "entry_modalities"]

CHUNK_ROWS = 8192


def entry_modalities(entry: str) -> list[str]:
    """Split a key of ``pca`` into the modalities that it concatenates: ``"a+b"`` -> ``["a", "b"]``."""
    return [name.strip() for name in entry.split("+")]


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


class ReducedModalities(Derivation):
    """The vectors of an entry, ``"a"`` or ``"a+b"``, through one reducer: fitted in one pass, applied in a second.

    An item without any vector gets a row of zeros. Where one of several is missing, its mean stands in.

    Args:
        column: has the entry; its ``pca_fit_on`` says which items to fit on.
        entry: the modalities.
        settings: of the reducer.

    Attributes:
        fit_on: ``"all"`` or ``"train"``, the items that the training split shows.
        reducer: has ``partial_fit``, ``transform``, ``to_arrays``, ``mean_``, ``scale_``, ``n_components_`` and
            ``n_samples_seen_`` as :class:`ModalityPCA` has them.
    """

    reducer: Any

    def __init__(self, column: Column, entry: str, settings: Mapping[str, Any]) -> None:
        self.name = entry
        self.modalities = tuple(entry_modalities(entry))
        self.fit_on = column.derived.get("pca_fit_on", "all")
        self.zero_is_missing = column.derived.get("zero_vectors") == "missing"
        self.settings = {"entry": entry, "fit_on": self.fit_on, **settings}
        if self.zero_is_missing:
            self.settings["zero_vectors"] = "missing"
        self._where = f"column {column.name!r}, modality {entry!r}"
        self._missing = self._zero = 0

    @abstractmethod
    def new_reducer(self, arrays: Mapping[str, np.ndarray] | None = None) -> Any:
        """A reducer that is not fitted, or with ``arrays`` the one whose ``to_arrays`` gave them."""

    def training_columns(self, schema: DatasetSchema) -> tuple[str, ...]:
        return (schema.item_col, schema.history_col) if self.fit_on == "train" else ()

    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        in_fit = training.seen if self.fit_on == "train" else np.ones(rows.n_items + 1, bool)
        self.reducer, fitted, first, is_constant = self.new_reducer(), 0, None, True
        for index, vectors, is_present in self._read(rows, f"fit {self.name}"):
            use = is_present.all(axis=1) & in_fit[index]
            if use.any():
                self.reducer.partial_fit(vectors[use])
                fitted += int(use.sum())
                first = vectors[use][0] if first is None else first
                is_constant &= bool((vectors[use] == first).all())
        if not fitted:
            raise DataError(
                f"{self._where}: none of the {in_fit[1:].sum():,} items to fit on (pca_fit_on: {self.fit_on}) has a "
                "vector; check that the ids of the files agree."
            )
        if is_constant and fitted > 1:
            raise DataError(
                f"{self._where}: all {fitted:,} vectors to fit on are the same, so they tell no items apart; check how "
                "the file was made, or leave the modality out."
            )
        try:
            self.reducer.to_arrays()
        except ValueError as err:
            raise ConfigError(f"{self._where}: {err}") from err
        return self.transform(rows)

    def transform(self, rows: ItemRows) -> np.ndarray:
        block = np.zeros((rows.n_items + 1, self.reducer.n_components_), np.float32)
        found = 0
        for index, vectors, is_present in self._read(rows, f"transform {self.name}"):
            some = is_present.any(axis=1)
            if not some.any():
                continue
            if not is_present.all():
                is_known = np.repeat(is_present, rows.widths, axis=1)
                vectors = np.where(is_known, vectors, self.reducer.mean_.astype(np.float32))
            block[index[some]] = self.reducer.transform(vectors[some])
            found += int(some.sum())
        self._missing = rows.n_items - found
        return block

    def _read(self, rows: ItemRows, what: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The rows, in which a vector of zeros is missing where ``zero_vectors: missing`` says so."""
        self._zero = 0
        for index, vectors, is_present in _progress(rows, what):
            parts = np.split(vectors, np.cumsum(rows.widths)[:-1], axis=1)
            is_zero = is_present & ~np.stack([part.any(axis=1) for part in parts], axis=1)
            self._zero += int(is_zero.any(axis=1).sum())
            yield index, vectors, is_present & ~is_zero if self.zero_is_missing else is_present

    def to_arrays(self) -> dict[str, np.ndarray]:
        return self.reducer.to_arrays()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.reducer = self.new_reducer(arrays)

    def report(self) -> dict[str, Any]:
        ratio = getattr(self.reducer, "explained_variance_ratio_", None)
        return {
            "rows_fitted": self.reducer.n_samples_seen_,
            "rows_missing": self._missing,
            "rows_zero": 0 if self.zero_is_missing else self._zero,
            "variance_kept": 1.0 if ratio is None else float(ratio.sum()),
            "explained_variance_ratio": None if ratio is None else ratio.tolist(),
            "rms_norm": self.reducer.scale_,
        }


class _PCA(ReducedModalities):
    def new_reducer(self, arrays: Mapping[str, np.ndarray] | None = None) -> ModalityPCA | RawVectors:
        size, whiten, normalize = (self.settings[name] for name in ("n_components", "whiten", "normalize"))
        if size is None:
            if arrays is None:
                return RawVectors(normalize=normalize)
            return RawVectors.from_arrays(arrays, normalize=normalize)
        settings = {"n_components": size, "whiten": whiten, "normalize": normalize}
        return ModalityPCA(**settings) if arrays is None else ModalityPCA.from_arrays(dict(arrays), **settings)


@derives("pca")
def _pca(column: Column, _: Sequence[Derivation]) -> list[Derivation]:
    options = {
        "whiten": column.derived.get("pca_whiten") or False,
        "normalize": column.derived.get("pca_normalize", True),
    }
    return [_PCA(column, entry, {"n_components": n, **options}) for entry, n in column.derived["pca"].items()]


def _progress(rows: ItemRows, what: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    with tqdm(total=rows.n_items, desc=what, unit=" items", disable=None) as bar:
        for index, vectors, is_present in rows:
            yield index, vectors, is_present
            bar.update(len(index))
