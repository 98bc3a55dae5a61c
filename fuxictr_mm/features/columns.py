"""One item column: opened where it is stored already, read or derived and stored where it is not."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.arrays import digest, read_arrays, stored_name, write_arrays
from fuxictr_mm.features.derive.derivation import Derivation, ItemRows, WholeRows, derivations_of
from fuxictr_mm.features.derive.modalities import ModalityRows
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.sources import Sources, read_column
from fuxictr_mm.parquet import open_parquet, table_fingerprint

__all__ = ["ItemColumn", "Items", "column_file", "open_column", "read_ready_made"]

FORMAT = "fuxictr_mm item column 2"
LIBRARIES = ("numpy", "pyarrow", "safetensors", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Items:
    """The items whose columns are wanted.

    Attributes:
        sources: the files that describe them.
        ids: (n_items,) int64.
        index_of: raw ids -> position in ``ids`` + 1, or 0 or less.
        folder: for temporary files.
    """

    sources: Sources
    ids: np.ndarray
    index_of: Callable[[np.ndarray], np.ndarray]
    folder: Path

    @cached_property
    def digest(self) -> str:
        """Of the ids, in their order."""
        return digest(self.ids.tobytes())

    def rows_of(self, derivation: Derivation, widths: Sequence[int] | None = None) -> ModalityRows:
        """The raw vectors that a derivation reads; they must have ``widths`` where these are given."""
        paths = [self.sources.file_of_modality(name) for name in derivation.modalities]
        sources = derivation.modalities, paths, self.sources.key_col
        return ModalityRows(*sources, self.index_of, len(self.ids), self.folder, widths)


@dataclass(frozen=True)
class ItemColumn:
    """The values of one column, and how it came to them.

    Attributes:
        values: (n_items + 1, ...), row 0 zeros: int32 ids and id lists, float32 numbers and vectors.
        info: ``column``, its specification; ``reports``, one record per derivation; ``feature_spec``, what the feature
            map tells models; ``sources``, its files; ``libraries``.
        states: what the derivations learned, ``"<number>/<name>"`` -> array.
        path: its file, ``None`` for a column that only lives in memory.
    """

    values: np.ndarray
    info: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None

    @property
    def modalities(self) -> list[list[Any]]:
        """The blocks of a vector column in the order in which they stand side by side: ``[name, width]``."""
        reports = self.info.get("reports", ())
        if reports and all("raw_widths" in report for report in reports):
            return [[report["modality"], report["width"]] for report in reports]
        return [[self.info["column"]["name"], self.values.shape[1]]]

    @classmethod
    def load(cls, path: str | Path) -> "ItemColumn":
        """Open a stored column; its values are memory-mapped and shared by all processes that open it.

        Raises:
            DataError: the file is missing, truncated or no item column.
        """
        arrays, info = read_arrays(path, FORMAT)
        values = arrays.pop("values")
        return cls(values, info, arrays, Path(path))

    def save(self, path: str | Path) -> "ItemColumn":
        """Write it atomically, and return it as :meth:`load` opens it."""
        write_arrays(path, {"values": self.values, **self.states}, FORMAT, self.info)
        return type(self).load(path)

    def with_items(self, items: Items) -> "ItemColumn":
        """The column with the values of further items behind its own; nothing is fitted."""
        column = self._with_limits(Column(**self.info["column"]))
        derivations, reports = derivations_of(column), self.info.get("reports", ())

        def transform(number: int, rows: ItemRows) -> np.ndarray:
            prefix = f"{number}/"
            names = [name for name in self.states if name.startswith(prefix)]
            derivations[number].restore({name.removeprefix(prefix): self.states[name] for name in names})
            return derivations[number].transform(rows)

        if derivations:
            widths = {number: report["raw_widths"] for number, report in enumerate(reports) if "raw_widths" in report}
            added = _derive(derivations, items, transform, widths)
        else:
            added = read_column(items.sources, column, items.ids)
        return replace(self, values=np.concatenate([self.values, added[1:]]), path=None)

    def _with_limits(self, column: Column) -> Column:
        """Bind what the specification left open to what is there: models are as wide, and know as many ids."""
        if column.type in ("categorical", "sequence") and column.vocab_size is None:
            column = replace(column, vocab_size=int(self.values.max()) + 1)
        if column.type == "sequence":
            column = replace(column, max_len=self.values.shape[1])
        if column.type == "embedding":
            column = replace(column, width=self.values.shape[1])
        return column


def column_file(column: Column, items: Items, training: TrainingSplit, folder: Path) -> Path:
    """Where a column is stored: the name holds a digest of everything that decides its values.

    That is its own specification, the bytes of the files that it reads, the columns of the training split that it
    reads, and the ids of the items.

    Raises:
        DataError: a file or a column in it is missing.
        ConfigError: the dataset names no training split, and the column needs one.
    """
    derivations = derivations_of(column)
    settings = [(type(one).__name__, one.settings) for one in derivations]
    own = [column.name, column.type, column.vocab_size, column.max_len, column.width]
    read = _training_columns(derivations, training)
    files = {name: table_fingerprint(path) for name, path in _files(column, derivations, items, training).items()}
    return folder / stored_name(column.name, [FORMAT, own, settings, files, read, items.digest])


def open_column(
    column: Column, items: Items, training: TrainingSplit, path: Path, is_current: Callable[[], bool]
) -> ItemColumn:
    """Open the column that :func:`column_file` has named ``path``, or build and store it.

    Of two processes that want to build one column the second waits, and opens what the first has built.

    Args:
        column, items, training, path: those of :func:`column_file`.
        is_current: tells whether the files are still those that ``path`` was named after.

    Raises:
        DataError: a file breaks the contract, or was replaced while it was read.
        ConfigError: the specification asks for what the files cannot give.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():
                built = _fit(column, items, training)
                if not is_current():
                    raise DataError(f"{path}: not kept, because a file was replaced while it was read.")
                built = built.save(path)
                logging.info("Built item column: %s (%s items)", path, f"{len(items.ids):,}")
                return built
    logging.info("Reuse item column: %s", path)
    return ItemColumn.load(path)


def read_ready_made(column: Column, items: Items) -> ItemColumn:
    """Read a column as it stands in the files, without storing it."""
    return ItemColumn(read_column(items.sources, column, items.ids), {"column": _specification(column)})


def _fit(column: Column, items: Items, training: TrainingSplit) -> ItemColumn:
    derivations, states = derivations_of(column), {}
    files = _files(column, derivations, items, training)
    info: dict[str, Any] = {
        "column": _specification(column),
        "reports": [],
        "feature_spec": {},
        "sources": {name: {"file": path.name, "digest": table_fingerprint(path)} for name, path in files.items()},
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    if not derivations:
        return ItemColumn(read_column(items.sources, column, items.ids), info)

    def fit(number: int, rows: ItemRows) -> np.ndarray:
        one = derivations[number]
        block = one.fit(rows, training)
        raw = {"raw_widths": rows.widths} if one.modalities else {}
        info["reports"].append({"modality": one.name, **raw, "width": block.shape[1], **one.report()})
        info["feature_spec"] |= one.feature_spec()
        states.update({f"{number}/{name}": array for name, array in one.to_arrays().items()})
        return block

    values = _derive(derivations, items, fit)
    if column.width is not None and values.shape[1] != column.width:
        raise ConfigError(
            f"column {column.name!r}: pretrain_dim={column.width} but what is derived for it has the width "
            f"{values.shape[1]}; leave pretrain_dim out or make them agree."
        )
    return ItemColumn(values, info, states)


def _derive(
    derivations: Sequence[Derivation],
    items: Items,
    step: Callable[[int, ItemRows], np.ndarray],
    widths: Mapping[int, Sequence[int]] | None = None,
) -> np.ndarray:
    """Go through the derivations of a column: one adds a block from raw vectors, or replaces those before it."""
    blocks: list[np.ndarray] = [np.zeros((len(items.ids) + 1, 0), np.float32)]
    for number, one in enumerate(derivations):
        if one.modalities:
            blocks.append(step(number, items.rows_of(one, (widths or {}).get(number))))
        else:
            blocks = [step(number, WholeRows(np.concatenate(blocks, axis=1)))]
    return np.concatenate(blocks, axis=1)


def _specification(column: Column) -> dict[str, Any]:
    """What :class:`Column` can be made of again; what a model does with the vectors is not the column's business."""
    return {name: value for name, value in asdict(column).items() if name != "freeze_emb"}


def _training_columns(derivations: Sequence[Derivation], training: TrainingSplit) -> list[str]:
    return sorted({name for one in derivations for name in one.training_columns(training.schema)})


def _files(column: Column, derivations: Sequence[Derivation], items: Items, training: TrainingSplit) -> dict[str, Path]:
    """Everything that a column is made from: modality, own name, or ``train_data`` -> file."""
    sources = items.sources
    if not derivations:
        return {column.name: sources.file_of(column.name)}
    files = {name: sources.file_of_modality(name) for one in derivations for name in one.modalities}
    if read := _training_columns(derivations, training):
        open_parquet(training.path, tuple(read))
        files["train_data"] = training.path
    return files


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logging.info("Another process builds %s: waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
