"""Click vectors: where an item stands by who clicks it, and where its content says that it should stand.

A training row with label 1 is itself one of the clicks that such vectors are made of, and a user's later histories
contain it once more: training compares a row without the clicks of its user's fold, and by own clicks without those of
one more (:mod:`~fuxictr_mm.features.derive.folds`).
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
from fuxictr_mm.features.derive.folds import FOLDS, PAIRS, fold_of
from fuxictr_mm.features.derive.training import Clicks, TrainingSplit

__all__ = ["ExpectedClicks", "OwnClicks"]

GAMMA = 1.0  # of the kernel exp(-gamma |a - b|^2) between contents of norm 1, whose squared distances are 0 to 4
# Above this many clicked items, so many of them stand for all (Williams and Seeger 2001): solving is cubic in them.
LANDMARKS = 2048
LARGEST_FOLD = 0.4  # of the users: a hash spreads them evenly, unless there are few
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
        self.settings = {"form": self.form, "width": width, "whiten": whiten, "folds": FOLDS}
        self._found: dict[str, Any] = {}

    def training_columns(self, schema: DatasetSchema) -> tuple[str, ...]:
        users = [] if schema.group_id is None else [schema.group_id]
        return (schema.item_col, schema.history_col, schema.label_col, *users)

    def report(self) -> dict[str, Any]:
        return {"form": self.form, **self._found}

    def feature_spec(self) -> dict[str, Any]:
        return {"click_vectors": self.form, "click_width": self.width}


class OwnClicks(_ClickVectors):
    """Where each item stands by its own clicks: in the view of all users, then without those of each pair of folds.

    Training compares a row in one of the later views, scoring in the first. The views are spaces of their own: compare
    within one. Each has norm 1, or 0 where nobody has clicked: that is what a new item gets.
    """

    form = "own"

    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        """Return (n_items + 1, (1 + number of ``PAIRS``) * W) float32; ``rows`` are not looked at.

        Raises:
            ConfigError: there are fewer users or clicked items than components, or one fold has most of the users.
        """
        clicks = training.clicks
        fold = _folds(clicks)
        views = [_click_space(self.width, self.whiten, clicks.matrix)[0]]
        for pair in tqdm(PAIRS, desc="own clicks", unit=" views", disable=None):
            views.append(_click_space(self.width, self.whiten, clicks.matrix[~np.isin(fold, pair)])[0])
        clicked = int(views[0].any(axis=1).sum())
        self._found = {"folds": FOLDS, "users": len(fold), "clicked_items": clicked}
        return np.concatenate(views, axis=1).astype(np.float32)

    def transform(self, rows: ItemRows) -> np.ndarray:
        return np.zeros((rows.n_items + 1, (1 + len(PAIRS)) * self.width), np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        pass


class ExpectedClicks(_ClickVectors):
    """Two vectors per item in one space: of the clicks that its content lets expect, and of its clicks.

    Content is mapped into the space of clicks by kernel ridge regression, the mapping of attributes to factors of
    Gantner et al. 2010 ("Learning Attribute-to-Feature Mappings for Cold-Start Recommendations").

    What is expected of an item comes from the clicks of *other* items, in closed form (leave one out): a target is
    then compared as one that nobody has clicked yet, in training as for a cold item, and the click that a training row
    asks for cannot show in it.

    There is a view of all users, which scoring compares in, and one without each fold of them, which training does:
    what is expected does not depend on the label then, and the history is not closer for its own user's clicks.

    Attributes:
        landmarks_: (m, C) contents of norm 1 that others are compared with.
        weights_: (m, (1 + FOLDS) * W): the kernel between contents and landmarks, times this, gives what is expected.

    The report has the ridge that leave-one-out chose, and R^2, the share of the click vectors' variance that content
    explained of items left out (below 0 where the mean would have done better), both in the view of all users.
    """

    form = "expected"
    landmarks_: np.ndarray
    weights_: np.ndarray

    def fit(self, rows: ItemRows, training: TrainingSplit) -> np.ndarray:
        """Fit, and return both vectors of every item and view: (n_items + 1, (1 + FOLDS) * 2 W) float32.

        In a view, what is expected comes first. Each of the two has norm 1, or is 0: an item without content has
        nothing that is expected, one without clicks has what is expected in both places.

        Args:
            rows: contents, rows of zeros where there is none.
            training: who has clicked what.

        Raises:
            ConfigError: see :class:`OwnClicks`.
        """
        clicks = training.clicks
        fold = _folds(clicks)
        content = normalize(_whole(rows).astype(np.float64))
        has_content = content.any(axis=1)
        clicked = np.asarray(clicks.matrix.sum(axis=0)).ravel() > 0
        learnt = content[clicked & has_content]
        nystroem = Nystroem(gamma=GAMMA, n_components=min(LANDMARKS, len(learnt)), random_state=0).fit(learnt)
        features = nystroem.transform(content)
        self.landmarks_ = nystroem.components_
        ridges: Sequence[float] = RIDGES
        views, weights = [], []
        for left_out_fold in tqdm((None, *range(FOLDS)), desc="expected clicks", unit=" views", disable=None):
            own, learn = _click_space(self.width, self.whiten, clicks.matrix[fold != left_out_fold])
            learn = learn[has_content[learn]]
            left_out, found, weight = regress(features[learn], own[learn], ridges)
            if left_out_fold is None:
                ridges = (found["ridge"],)
                self._found = {"users": len(fold), "clicked_items": int(clicked.sum()), **found}
            expected = normalize(features @ weight) * has_content[:, None]
            expected[learn] = normalize(left_out)
            nobody = ~own.any(axis=1)
            own[nobody] = expected[nobody]
            views += [expected, own]
            weights.append(nystroem.normalization_.T @ weight)
        self.weights_ = np.concatenate(weights, axis=1)
        return np.concatenate(views, axis=1).astype(np.float32)

    def transform(self, rows: ItemRows) -> np.ndarray:
        """Nobody has clicked a new item: as a target and in a history it stands where its content says."""
        expected = self.expect(_whole(rows))
        return np.concatenate([expected, expected], axis=2).reshape(len(expected), -1)

    def expect(self, content: np.ndarray) -> np.ndarray:
        """What is expected of items that :meth:`fit` did not know: (n, C) -> (n, 1 + FOLDS, W), norm 1 or 0."""
        expected = np.zeros((len(content), 1 + FOLDS, self.width), np.float32)
        is_known = content.any(axis=1)
        for rows in np.array_split(np.flatnonzero(is_known), -(-len(content) // 8192)):
            if len(rows):
                kernel = rbf_kernel(normalize(content[rows].astype(np.float64)), self.landmarks_, gamma=GAMMA)
                found = (kernel @ self.weights_).reshape(-1, self.width)
                expected[rows] = normalize(found).reshape(len(rows), -1, self.width)
        return expected

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"landmarks": self.landmarks_, "weights": self.weights_}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.landmarks_, self.weights_ = arrays["landmarks"], arrays["weights"]


def regress(
    features: np.ndarray, own: np.ndarray, ridges: Sequence[float]
) -> tuple[np.ndarray, dict[str, float], np.ndarray]:
    """Ridge regression of click vectors, (n, W), on features, (n, m).

    Returns:
        (n, W) predictions of items left out; the ``ridge`` that makes them best, and their R^2, ``r2_left_out``; and
        (m, W) coefficients.
    """
    sizes, axes = np.linalg.eigh(features.T @ features)
    rotated, target = features @ axes, axes.T @ (features.T @ own)
    variation = np.square(own - own.mean(axis=0)).sum()
    best: tuple[float, float, np.ndarray] | None = None
    for ridge in ridges:
        shrunk = 1 / (np.maximum(sizes, 0) + ridge)
        # The prediction without row i follows from that with it and its leverage (Allen 1974, PRESS).
        leverage = (np.square(rotated) @ shrunk)[:, None]
        left_out = (rotated @ (shrunk[:, None] * target) - leverage * own) / np.maximum(1 - leverage, 1e-9)
        explained = 1 - float(np.square(own - left_out).sum() / variation)
        if best is None or explained > best[0]:
            best = explained, ridge, left_out
    assert best is not None
    explained, ridge, left_out = best
    weights = axes @ (target / (np.maximum(sizes, 0) + ridge)[:, None])
    return left_out, {"ridge": ridge, "r2_left_out": explained}, weights


def _folds(clicks: Clicks) -> np.ndarray:
    """The fold of each user.

    Raises:
        ConfigError: one fold has most of the users.
    """
    fold = np.asarray(fold_of(clicks.users))
    share = np.bincount(fold, minlength=FOLDS).max() / max(len(fold), 1)
    if share > LARGEST_FOLD:
        raise ConfigError(
            f"clicks: one of {FOLDS} folds has {100 * share:.0f} % of the {len(fold):,} users of train; at "
            f"most {100 * LARGEST_FOLD:.0f} % are expected, and there are too few users for that: leave 'clicks' out."
        )
    return fold


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
            f"clicks: {width} needs more users and more clicked items than that; the training split has "
            f"{matrix.shape[0]:,} users (of the folds that are compared) and {len(clicked):,} items that they clicked."
        )
    scaled = matrix[:, clicked] @ sparse.diags_array(counts[clicked] ** -0.5)
    _, sizes, components = randomized_svd(scaled, width, random_state=0)
    vectors = np.zeros((matrix.shape[1], width))
    vectors[clicked] = normalize(components.T * sizes ** (1 - whiten))
    return vectors, clicked
