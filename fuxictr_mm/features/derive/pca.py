"""PCA of one modality's vectors as a scikit-learn estimator, fitted in one pass over chunks.

scikit-learn's own ``PCA`` wants all rows in memory and its ``IncrementalPCA`` is an approximation; here the mean and
the centred scatter matrix grow chunk by chunk in float64 (Chan, Golub & LeVeque 1983, "Algorithms for computing the
sample variance"), so any partition of the rows gives the PCA of all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import linalg
from scipy.linalg import blas
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fuxictr_mm.compat import validate_data

__all__ = ["ModalityPCA"]

# Rows that are held in float64 at once; fixed, so that the same rows always give the same bits.
CHUNK_ROWS = 4096


@dataclass
class _Moments:
    """Mean and centred scatter of the rows seen so far, both updated in place.

    Attributes:
        mean: (d,) float64; before any row is added, a guess. Rows are centred by what it is before their chunk.
        scatter: (d, d) float64, Fortran order as BLAS updates it in place; only the lower triangle is filled.
        n: number of rows.
    """

    mean: np.ndarray
    scatter: np.ndarray
    n: int = 0

    def add(self, centred: np.ndarray) -> None:
        """Add rows, (m, d) float64 in C order, from which ``mean`` has been subtracted."""
        m = len(centred)
        offset = centred.mean(axis=0)  # how far the rows' own mean is from the mean they were centred by
        # dsyrk computes one triangle, half the work of a product, and adds it without a matrix in between. No product
        # of numpy's beside it: the threads of two BLAS libraries that take turns keep the cores from each other.
        self.scatter = blas.dsyrk(1.0, centred.T, beta=1.0, c=self.scatter, lower=1, overwrite_c=1)
        self.n += m
        # Both scatters are about the old mean by now; about the new one, all rows together are closer by this much.
        self.scatter = blas.dsyr(-m * (m / self.n), offset, a=self.scatter, lower=1, overwrite_a=1)
        self.mean += offset * (m / self.n)


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
        whiten: divide each component by its standard deviation; a component without variance becomes zero. A number
            between 0 (False) and 1 (True) divides by that power of it: the few directions that all vectors share then
            weigh less and noise is not blown up, which is what cosines want (Caron 2001, "Experiments with LSA
            scoring", whose exponent of the singular values is 1 - ``whiten``).
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
        self, n_components: int | float | None = None, *, whiten: bool | float = False, normalize: bool = False
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
            ValueError: fewer than 2 rows, NaN or inf in ``X``, a setting is out of its bounds, or ``n_components`` is
                larger than the rows allow.
        """
        self._check_settings()
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
            ValueError: NaN or inf in ``X``, a setting is out of its bounds, another width than before, or the estimator
                came from ``from_arrays``.
        """
        self._check_settings()
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
        out = np.empty((len(X), self.n_components_), dtype=X.dtype)
        for rows, centred in self._centred(X, self.mean_):
            out[rows] = centred @ matrix
        return out

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
        out = np.empty((len(X), self.n_features_in_), dtype=X.dtype)
        for rows, values in self._centred(X, np.zeros(self.n_components_)):
            out[rows] = values @ matrix + self.mean_
        return out

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
        # The mean squared norm of centred rows is the sum of their variances (with n, not n - 1): no second pass.
        total = np.square(self._whitening() * np.sqrt(self.explained_variance_)).sum()
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

    def _check_settings(self) -> None:
        size = self.n_components
        whole = isinstance(size, Integral) and not isinstance(size, bool) and size >= 1
        share = isinstance(size, Real) and not isinstance(size, Integral) and 0 < size < 1
        if not (whole or share or size is None):
            raise ValueError(
                f"n_components={size!r} must be a whole number >= 1, a share of variance between 0 and 1, or None."
            )
        is_number = isinstance(self.whiten, Real) and not isinstance(self.whiten, bool | np.bool_)
        if not (isinstance(self.whiten, bool | np.bool_) or (is_number and 0 <= self.whiten <= 1)):
            raise ValueError(f"whiten={self.whiten!r} must be True, False, or a number between 0 and 1.")
        if not isinstance(self.normalize, bool | np.bool_):
            raise ValueError(f"normalize={self.normalize!r} must be True or False.")

    def _accumulate(self, X: np.ndarray) -> None:
        moments = self._moments
        if moments is None:
            # The guess: the mean of the first chunk, so that little cancels there even if its first row lies far off;
            # taken from that row on, so that it is exact in a constant column, which then gets no variance.
            first = X[0].astype(np.float64)
            _, shifted = next(self._centred(X, first))
            guess = first + shifted.mean(axis=0)
            del shifted  # before the buffer of the pass below
            moments = _Moments(guess, np.zeros((len(guess), len(guess)), order="F"))
        for _, centred in self._centred(X, moments.mean):
            moments.add(centred)
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
        variance, vectors = linalg.eigh(covariance, lower=True, overwrite_a=True, subset_by_index=(d - wanted, d - 1))
        variance, components = variance[::-1], np.ascontiguousarray(vectors[:, ::-1].T)
        # Below this a covariance in float64 tells nothing; whitening would blow the noise up.
        variance = np.where(variance > d * np.finfo(np.float64).eps * variance[0], variance, 0.0)
        if whole is None and self.n_components is not None:
            share = np.cumsum(variance) / total if total > 0 else np.ones(limit)
            kept = min(int(np.searchsorted(share, self.n_components, side="right")) + 1, limit)
            variance, components = variance[:kept], components[:kept]
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(len(components)), largest])[:, None]
        return _Solution(moments.mean.copy(), components, variance, np.asarray(total), np.asarray(n))

    def _factors(self) -> np.ndarray:
        """What each component is multiplied by after projecting: (n_components_,)."""
        return self._whitening() / self.scale_ if self.normalize else self._whitening()

    def _whitening(self) -> np.ndarray:
        variance = self.explained_variance_
        if not self.whiten:
            return np.ones_like(variance)
        return np.divide(1.0, variance ** (self.whiten / 2), out=np.zeros_like(variance), where=variance > 0)

    @staticmethod
    def _centred(X: np.ndarray, mean: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield which rows, and these rows minus ``mean`` as it is by then, in float64.

        In float64 before anything is subtracted: a large offset would eat float32's digits. One buffer serves all
        chunks: memory that is new to the process costs more than the subtraction.
        """
        buffer = np.empty((min(CHUNK_ROWS, len(X)), X.shape[1]))
        for start in range(0, len(X), CHUNK_ROWS):
            rows = X[start : start + CHUNK_ROWS]
            yield slice(start, start + len(rows)), np.subtract(rows, mean, out=buffer[: len(rows)])
