"""Raw vectors, in the place of a PCA: scaled, but neither centred nor reduced."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["RawVectors"]


class RawVectors:
    """What ``pca: {modality: null}`` asks for; offers what :class:`ReducedModalities` needs of a reducer.

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
