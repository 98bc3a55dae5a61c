"""What every derivation offers, and the registry that finds those of a column."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.features import derive
from fuxictr_mm.features.derive.training import TrainingSplit

__all__ = ["Derivation", "ItemRows", "WholeRows", "derivations_of", "derives"]


class ItemRows(Protocol):
    """Vectors of items, chunk by chunk; may be gone through more than once.

    Attributes:
        n_items: number of items, padding not counted.
        widths: widths of the vectors that stand side by side, known once the first chunk is there.
    """

    n_items: int
    widths: list[int]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield index (n,) into the column, vectors (n, sum of widths) float32, is_present (n, len(widths)) bool."""


class WholeRows:
    """What earlier derivations made of a column, (n_items + 1, width) with row 0 for padding, as one chunk."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.n_items = len(values) - 1
        self.widths = [values.shape[1]]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        vectors = self.values[1:]
        is_present = np.asarray(vectors.any(axis=1)).reshape(-1, 1)
        yield np.arange(1, len(self.values)), vectors, is_present


class Derivation(ABC):
    """One way in which vectors become a block of an item column.

    A column is a list of derivations. One that names ``modalities`` reads their raw vectors and adds a block to the
    column; one that names none is given the column as those before it left it (width 0 at first) and replaces it.
    For items that come later it is told the same of them, and nothing else.

    Attributes:
        name: of the block, as reports and modality dropout call it.
        settings: everything that decides what it gives, apart from its input; JSON keeps it as it is.
        modalities: whose raw vectors it reads, side by side.
    """

    name: str
    settings: Mapping[str, Any]
    modalities: tuple[str, ...] = ()

    def training_columns(self, schema: DatasetSchema) -> tuple[str, ...]:
        """The columns of the training split that :meth:`fit` depends on."""
        return ()

    @abstractmethod
    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        """Learn from the items of the table and return their block, (n_items + 1, width) float32, row 0 zeros.

        Raises:
            ConfigError: more is asked for than the items give.
            DataError: there is nothing to learn from.
        """

    @abstractmethod
    def transform(self, rows: ItemRows) -> np.ndarray:
        """The block of items that came later, (n_items + 1, width) float32, by what :meth:`fit` learned."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """What :meth:`fit` learned, as arrays."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what :meth:`to_arrays` gave; then :meth:`transform` gives the same."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """What a person may want to know of the fit, for JSON; ``name`` and ``width`` are added."""

    def feature_spec(self) -> dict[str, Any]:
        """What the feature map tells models of the column."""
        return {}


_Make = Callable[[Column, Sequence[Derivation]], list[Derivation]]
_MAKERS: dict[str, _Make] = {}


def derives(key: str) -> Callable[[_Make], _Make]:
    """Register a function for a key of a column: given the column and the derivations that other keys have asked for
    before, it returns those that this key asks for.
    """

    def register(make: _Make) -> _Make:
        _MAKERS[key] = make
        return make

    return register


def derivations_of(column: Column) -> list[Derivation]:
    """The derivations of a column, not fitted, in the order of ``COLUMN_KEYS``; none: it is read as it stands."""
    if any(key not in _MAKERS for key in column.derived):
        _import_all()
    found: list[Derivation] = []
    for key in column.derived:
        if key in _MAKERS:  # others are options of these
            found += _MAKERS[key](column, found)
    return found


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(derive.__path__):
        import_module(f"{derive.__name__}.{module.name}")
