"""Click vectors: where an item stands by who clicks it, and where its content says that it should stand.

A user's later histories contain the click that an earlier row must predict. Expected clicks leave out the item itself,
own clicks the row's user, so neither leaks it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from tqdm import tqdm

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.derivation import Derivation, ItemRows, derives
from fuxictr_mm.features.derive.training import TrainingSplit

__all__ = ["ExpectedClicks", "OwnClicks"]

GAMMA = 1.0  # of the kernel exp(-gamma |a - b|^2) between contents of norm 1, whose squared distances are 0 to 4
# Above this many clicked items, so many of them stand for all (Williams and Seeger 2001): solving is cubic in them.
LANDMARKS = 2048
FOLDS = 5  # of users; training compares a user's rows by the clicks of the other four fifths
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


@derives("clicks")
def _clicks(column: Column, content: Sequence[Derivation]) -> list[Derivation]:
    form = ExpectedClicks if content else OwnClicks
    return [form(column.derived["clicks"], float(column.derived.get("pca_whiten") or 0.0))]


class _ClickVectors(Derivation):
    """What both forms have in common.

    Args:
        width: components, W.
        whiten: 0 weighs components by their singular values, 1 all alike.
    """

    form: str

    def __init__(self, width: int, whiten: float) -> None:
        self.name = f"{self.form} clicks"
        self.width = width
        self.whiten = whiten
        self.settings = {"form": self.form, "width": width, "whiten": whiten}
        self._found: dict[str, Any] = {}

    def training_columns(self, schema: DatasetSchema) -> tuple[str, ...]:
        return (schema.history_col, *([] if schema.group_id is None else [schema.group_id]))

    def report(self) -> dict[str, Any]:
        return {"form": self.form, **self._found}

    def feature_spec(self) -> dict[str, Any]:
        return {"click_vectors": self.form, "click_folds": 0}


class OwnClicks(_ClickVectors):
    """Where each item stands by its own clicks: by those of all users, then by those of all but one fold of them.

    A row of user u is to be compared in training by block ``1 + u mod FOLDS``, which that user's clicks are no part
    of, and by block 0 where nothing is learned. The blocks are spaces of their own: compare within one. Each has norm
    1, or 0 where nobody has clicked: that is what a new item gets.
    """

    form = "own"

    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        """Return (n_items + 1, (1 + FOLDS) * W) float32; ``rows`` are not looked at.

        Raises:
            ConfigError: user ids are no integers, or there are fewer users or clicked items than components.
        """
        users, matrix = training.clicks
        if not np.issubdtype(users.dtype, np.integer):
            raise ConfigError(
                "clicks without 'pca' are told apart by users' folds, which needs a 'group_id' of integers; found "
                f"{users.dtype}. Number the users, or compare expected clicks alone (clicks with pca)."
            )
        fold = np.mod(users, FOLDS)
        kept = [np.ones(len(fold), bool), *(fold != f for f in range(FOLDS))]
        blocks = [
            _click_space(self.width, self.whiten, matrix[np.flatnonzero(k)])[0]
            for k in tqdm(kept, desc="click folds", disable=None)
        ]
        clicked = int((matrix.sum(axis=0) > 0).sum())
        self._found = {"folds": FOLDS, "users": len(fold), "clicked_items": clicked}
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def transform(self, rows: ItemRows) -> np.ndarray:
        return np.zeros((rows.n_items + 1, (1 + FOLDS) * self.width), np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        pass

    def feature_spec(self) -> dict[str, Any]:
        return {"click_vectors": self.form, "click_folds": FOLDS}


class ExpectedClicks(_ClickVectors):
    """Two vectors per item in one space: of the clicks that its content lets expect, and of its clicks.

    Content is mapped into the space of clicks by kernel ridge regression, the mapping of attributes to factors of
    Gantner et al. 2010 ("Learning Attribute-to-Feature Mappings for Cold-Start Recommendations").

    What is expected of an item comes from the clicks of *other* items, in closed form (leave one out): a target is
    then compared as one that nobody has clicked yet, in training as for a cold item, and the click that a training row
    asks for cannot show in it.

    Attributes:
        landmarks_: (m, C) contents of norm 1 that others are compared with.
        weights_: (m, W): the kernel between contents and landmarks, times this, gives the expected vectors.

    The report has the ridge that leave-one-out chose, and R^2, the share of the click vectors' variance that content
    explained of items left out (below 0 where the mean would have done better).
    """

    form = "expected"
    landmarks_: np.ndarray
    weights_: np.ndarray

    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        """Fit, and return both vectors of every item: (n_items + 1, 2 W) float32, expected then clicked.

        Each half of a row has norm 1, or is 0: an item without content has no expected half, one without clicks has
        its expected vector in both.

        Args:
            rows: contents, rows of zeros where there is none.
            training: who has clicked what.

        Raises:
            ConfigError: fewer users or clicked items than components.
        """
        content, clicks = _whole(rows), training.clicks.matrix
        content = normalize(content.astype(np.float64))
        own, clicked = _click_space(self.width, self.whiten, clicks)
        learn = clicked[content[clicked].any(axis=1)]
        left_out, explained, ridge = self._regress(content[learn], own[learn])
        expected = self.expect(content).astype(np.float64)
        expected[learn] = normalize(left_out)
        nobody = ~own.any(axis=1)
        own[nobody] = expected[nobody]
        self._found = {
            "users": clicks.shape[0],
            "clicked_items": len(clicked),
            "ridge": ridge,
            "r2_left_out": explained,
        }
        return np.concatenate([expected, own], axis=1).astype(np.float32)

    def transform(self, rows: ItemRows) -> np.ndarray:
        """Nobody has clicked a new item: as a target and in a history it stands where its content says."""
        return np.tile(self.expect(_whole(rows)), 2)

    def expect(self, content: np.ndarray) -> np.ndarray:
        """Return the expected vectors of items that were not there at :meth:`fit`: (n, C) -> (n, W), norm 1 or 0."""
        is_known = content.any(axis=1)
        expected = np.zeros((len(content), self.width), np.float32)
        for rows in np.array_split(np.flatnonzero(is_known), -(-len(content) // 8192)):
            if len(rows):
                kernel = rbf_kernel(normalize(content[rows].astype(np.float64)), self.landmarks_, gamma=GAMMA)
                expected[rows] = normalize(kernel @ self.weights_)
        return expected

    def _regress(self, content: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Fit the mapping; return the predictions of items left out, their R^2, and the ridge with the largest."""
        nystroem = Nystroem(gamma=GAMMA, n_components=min(len(content), LANDMARKS), random_state=0)
        features = nystroem.fit_transform(content)
        sizes, axes = np.linalg.eigh(features.T @ features)
        rotated, target = features @ axes, axes.T @ (features.T @ own)
        variation = np.square(own - own.mean(axis=0)).sum()
        best: tuple[float, float, np.ndarray] | None = None
        for ridge in RIDGES:
            shrunk = 1 / (np.maximum(sizes, 0) + ridge)
            # The prediction without row i follows from that with it and its leverage (Allen 1974, PRESS).
            leverage = (np.square(rotated) @ shrunk)[:, None]
            left_out = (rotated @ (shrunk[:, None] * target) - leverage * own) / np.maximum(1 - leverage, 1e-9)
            explained = 1 - float(np.square(own - left_out).sum() / variation)
            if best is None or explained > best[0]:
                best = explained, ridge, left_out
        assert best is not None
        explained, ridge, left_out = best
        self.landmarks_ = nystroem.components_
        self.weights_ = nystroem.normalization_.T @ (axes @ (target / (np.maximum(sizes, 0) + ridge)[:, None]))
        return left_out, explained, ridge

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"landmarks": self.landmarks_, "weights": self.weights_}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.landmarks_, self.weights_ = arrays["landmarks"], arrays["weights"]


def _whole(rows: ItemRows) -> np.ndarray:
    """All vectors at once, (n_items + 1, width), rows of zeros where there is none."""
    parts = [(index, vectors) for index, vectors, _ in rows]
    whole = np.zeros((rows.n_items + 1, parts[0][1].shape[1]), parts[0][1].dtype)
    for index, vectors in parts:
        whole[index] = vectors
    return whole


def _click_space(width: int, whiten: float, matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Truncated SVD of users times clicked items, each item's column scaled to norm 1.

    Scaled, so that popularity is no direction of its own; components are weighed by a power of their singular values
    (Levy, Goldberg and Dagan 2015, section 3.3).

    Returns:
        (n_items + 1, width) rows of norm 1, or 0 where nobody has clicked; and the indices of the clicked items.

    Raises:
        ConfigError: fewer users or clicked items than components.
    """
    counts = np.asarray(matrix.sum(axis=0)).ravel()
    clicked = np.flatnonzero(counts)
    if min(matrix.shape[0], len(clicked)) <= width:
        raise ConfigError(
            f"clicks: {width} needs more users and more clicked items than that; the training split's histories have "
            f"{matrix.shape[0]:,} users (of the folds that are compared) and {len(clicked):,} items."
        )
    scaled = matrix[:, clicked] @ sparse.diags_array(counts[clicked] ** -0.5)
    _, sizes, components = randomized_svd(scaled, width, random_state=0)
    vectors = np.zeros((matrix.shape[1], width))
    vectors[clicked] = normalize(components.T * sizes ** (1 - whiten))
    return vectors, clicked
