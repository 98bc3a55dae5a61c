"""PCA of one modality's vectors, fitted in one pass over chunks.

Apart from the item table because it is a plain scikit-learn estimator: it knows rows, not items. scikit-learn's own
``PCA`` wants all rows in memory and its ``IncrementalPCA`` is an approximation; here the mean and the centred scatter
matrix are merged chunk by chunk in float64 (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
variance"), so any partition of the rows gives the PCA of all of them.
"""

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fuxictr_mm.compat import validate_data

__all__ = ["ModalityPCA"]

# Rows that are held in float64 at once; fixed, so that the same rows always give the same bits.
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class _Moments:
    """Mean and centred scatter of the rows seen so far, both after subtracting the first row.

    The shift keeps a large common offset out of the sums: without it a constant column gets a tiny false variance.
    """

    shift: np.ndarray  # (d,)
    n: int
    mean: np.ndarray  # (d,)
    scatter: np.ndarray  # (d, d)

    def merge(self, rows: np.ndarray) -> "_Moments":
        shifted = rows.astype(np.float64) - self.shift
        mean = shifted.mean(axis=0)
        shifted -= mean
        n = self.n + len(rows)
        delta = mean - self.mean
        scatter = self.scatter + shifted.T @ shifted
        if self.n:
            scatter += np.outer(delta, delta * (self.n * len(rows) / n))
        return _Moments(self.shift, n, self.mean + delta * (len(rows) / n), scatter)


@dataclass(frozen=True)
class _Solution:
    """What the eigendecomposition gives; all that ``transform`` needs."""

    mean: np.ndarray  # (d,)
    components: np.ndarray  # (k, d)
    explained_variance: np.ndarray  # (k,)
    total_variance: np.ndarray  # ()
    n_samples_seen: np.ndarray  # ()


class ModalityPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components of one modality, from all rows at once or from chunks.

    ``partial_fit`` only accumulates; the eigendecomposition happens once, when a fitted attribute is first needed.
    Signs are fixed as in scikit-learn (the largest loading of each component is positive), so equal rows give equal
    output.

    Args:
        n_components: number of components; a share of variance in (0, 1), which keeps as few as exceed it; or
            ``None`` for all ``min(n_samples, n_features)``.
        whiten: divide each component by its standard deviation; a component without variance becomes zero.
        normalize: divide the reduced rows by ``scale_``, so that their root-mean-square norm over the fitted rows
            is 1. Modalities whose raw scales differ then weigh the same.

    Attributes:
        components_: (n_components_, n_features_in_) float64, orthonormal rows, largest variance first.
        explained_variance_: (n_components_,) variance along each component, with n - 1 in the denominator.
        explained_variance_ratio_: (n_components_,) the same as shares of the total variance.
        singular_values_: (n_components_,) singular values of the centred rows.
        mean_: (n_features_in_,) mean of the fitted rows.
        n_components_: number of components kept.
        n_samples_seen_: number of rows fitted.
        scale_: root-mean-square norm of the reduced rows over the fitted rows; 1 for constant data.

    Example:
        >>> rows = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> pca = ModalityPCA(n_components=1).partial_fit(rows[:2]).partial_fit(rows[2:])
        >>> pca.transform(rows).ravel().tolist()
        [-2.0, 0.0, 2.0]
    """

    n_features_in_: int
    n_samples_seen_: int
    _moments: _Moments | None
    _solution: _Solution | None

    def __init__(
        self, n_components: int | float | None = None, *, whiten: bool = False, normalize: bool = False
    ) -> None:
        self.n_components = n_components
        self.whiten = whiten
        self.normalize = normalize

    def fit(self, X: np.ndarray, y: None = None) -> "ModalityPCA":
        """Fit on the rows of ``X`` alone, forgetting earlier ones.

        Args:
            X: (n_samples, n_features) float32 or float64 rows.
            y: ignored.

        Raises:
            ValueError: fewer than 2 rows, NaN or inf in ``X``, or ``n_components`` is larger than the rows allow.
        """
        self._check_n_components()
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=True)
        self._moments = None
        self._accumulate(X)
        self._solve()
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> "ModalityPCA":
        """Add the rows of ``X`` to those fitted so far; costs one matrix product, no eigendecomposition.

        Args:
            X: (n_samples, n_features) float32 or float64 rows.
            y: ignored.

        Raises:
            ValueError: NaN or inf in ``X``, another width than before, or the estimator came from ``from_arrays``.
        """
        self._check_n_components()
        first = not self.__sklearn_is_fitted__()
        if not first and self._moments is None:
            raise ValueError(
                f"this {type(self).__name__} was restored from arrays that hold components but no scatter matrix: "
                "it can transform, not go on fitting; fit a new one."
            )
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=first)
        if first:
            self._moments = None
        self._accumulate(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Project rows onto the components.

        Args:
            X: (n_samples, n_features_in_) rows.

        Returns:
            (n_samples, n_components_) rows in the dtype of ``X`` (float32 stays float32).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        matrix = self.components_.T * self._factors()
        return self._map_chunks(X, lambda rows: (rows - self.mean_) @ matrix, self.n_components_)

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Map reduced rows back to the space of the raw vectors.

        Args:
            X: (n_samples, n_components_) reduced rows.

        Returns:
            (n_samples, n_features_in_) rows in the dtype of ``X``.
        """
        check_is_fitted(self)
        X = np.asarray(X)
        X = X if X.dtype == np.float32 else X.astype(np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_components_:
            raise ValueError(f"X has shape {X.shape} but {self.n_components_} components per row are expected.")
        factors = self._factors()
        back = np.divide(1.0, factors, out=np.zeros_like(factors), where=factors > 0)
        matrix = self.components_ * back[:, None]
        return self._map_chunks(X, lambda rows: rows @ matrix + self.mean_, self.n_features_in_)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted state as plain arrays (see :meth:`from_arrays`); settings are not part of it."""
        solution = self._solve()
        return {field.name: getattr(solution, field.name) for field in fields(_Solution)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], **settings: Any) -> "ModalityPCA":
        """Restore a fitted estimator that transforms exactly as the one that gave ``arrays``.

        Args:
            arrays: what :meth:`to_arrays` returned.
            settings: the constructor's arguments.
        """
        pca = cls(**settings)
        pca.n_features_in_ = len(arrays["mean"])
        pca.n_samples_seen_ = int(arrays["n_samples_seen"])
        pca._moments = None
        pca._solution = _Solution(**arrays)
        return pca

    @property
    def components_(self) -> np.ndarray:
        return self._solve().components

    @property
    def explained_variance_(self) -> np.ndarray:
        return self._solve().explained_variance

    @property
    def explained_variance_ratio_(self) -> np.ndarray:
        solution = self._solve()
        total = float(solution.total_variance)
        return solution.explained_variance / total if total > 0 else np.zeros_like(solution.explained_variance)

    @property
    def singular_values_(self) -> np.ndarray:
        return np.sqrt(self.explained_variance_ * (self.n_samples_seen_ - 1))

    @property
    def mean_(self) -> np.ndarray:
        return self._solve().mean

    @property
    def n_components_(self) -> int:
        return len(self._solve().components)

    @property
    def scale_(self) -> float:
        variance = self.explained_variance_
        # The mean squared norm of centred rows is the sum of their variances (with n, not n - 1): no second pass.
        total = np.count_nonzero(variance) if self.whiten else variance.sum()
        return float(np.sqrt(total * (self.n_samples_seen_ - 1) / self.n_samples_seen_)) or 1.0

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_samples_seen_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_n_components(self) -> None:
        size = self.n_components
        whole = isinstance(size, Integral) and not isinstance(size, bool) and size >= 1
        share = isinstance(size, Real) and not isinstance(size, Integral) and 0 < size < 1
        if not (whole or share or size is None):
            raise ValueError(
                f"n_components={size!r} must be a whole number >= 1, a share of variance between 0 and 1, or None."
            )

    def _accumulate(self, X: np.ndarray) -> None:
        moments = self._moments
        if moments is None:
            width = X.shape[1]
            moments = _Moments(X[0].astype(np.float64), 0, np.zeros(width), np.zeros((width, width)))
        for start in range(0, len(X), CHUNK_ROWS):
            moments = moments.merge(X[start : start + CHUNK_ROWS])
        self._moments = moments
        self.n_samples_seen_ = moments.n
        self._solution = None

    def _solve(self) -> _Solution:
        check_is_fitted(self)
        if self._solution is None:
            assert self._moments is not None  # from_arrays, the only way without, sets the solution
            self._solution = self._decompose(self._moments)
        return self._solution

    def _decompose(self, moments: _Moments) -> _Solution:
        n, d = moments.n, len(moments.mean)
        if n < 2:
            raise ValueError(f"n_samples={n} but a variance needs at least 2 rows; fit more rows.")
        limit = min(n, d)
        whole = int(self.n_components) if isinstance(self.n_components, Integral) else None
        if whole is not None and whole > limit:
            raise ValueError(
                f"n_components={whole} must be between 1 and min(n_samples={n}, n_features={d})={limit}; "
                f"use n_components <= {limit}."
            )
        covariance = moments.scatter / (n - 1)
        total = np.trace(covariance)
        wanted = limit if whole is None else whole
        variance, vectors = linalg.eigh(covariance, subset_by_index=(d - wanted, d - 1))
        variance, components = variance[::-1], np.ascontiguousarray(vectors[:, ::-1].T)
        # Below this a covariance in float64 tells nothing; whitening would blow the noise up.
        variance = np.where(variance > d * np.finfo(np.float64).eps * variance[0], variance, 0.0)
        if whole is None and self.n_components is not None:
            share = np.cumsum(variance) / total if total > 0 else np.ones(limit)
            kept = min(int(np.searchsorted(share, self.n_components, side="right")) + 1, limit)
            variance, components = variance[:kept], components[:kept]
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(len(components)), largest])[:, None]
        mean = moments.shift + moments.mean
        return _Solution(mean, components, variance, np.asarray(total), np.asarray(n))

    def _factors(self) -> np.ndarray:
        """What each component is multiplied by after projecting: (n_components_,)."""
        variance = self.explained_variance_
        factors = np.ones_like(variance)
        if self.whiten:
            factors = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)
        return factors / self.scale_ if self.normalize else factors

    @staticmethod
    def _map_chunks(X: np.ndarray, function: Any, width: int) -> np.ndarray:
        out = np.empty((len(X), width), dtype=X.dtype)
        for start in range(0, len(X), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            # In float64, centred first: a large offset would eat float32's digits.
            out[rows] = function(X[rows].astype(np.float64))
        return out
