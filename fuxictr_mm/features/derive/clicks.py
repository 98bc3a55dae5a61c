"""Click vectors: where an item stands by who clicks it, and where its content says that it should stand.

Whoever compares such vectors in training must not see the click that a training row asks for, and the histories of a
user's later rows hold it. Each form keeps it out: :class:`ExpectedClicks` leaves the target's clicks out,
:func:`own_clicks` those of the row's user.

Apart from the PCAs because these are fitted on the histories of the training split, not on files of items.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from tqdm import tqdm

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import open_parquet

__all__ = ["Clicks", "ExpectedClicks", "own_clicks", "own_clicks_width", "read_clicks"]

GAMMA = 1.0  # of the kernel exp(-gamma |a - b|^2) between contents of norm 1, whose squared distances are 0 to 4
# Above this many clicked items, so many of them stand for all (Williams and Seeger 2001): solving is cubic in them.
LANDMARKS = 2048
FOLDS = 5  # of users; training compares a user's rows by the clicks of the other four fifths
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
MERGE_AT = 1 << 24  # pairs of user and item that are held before repeated ones are dropped: 128 MiB


class Clicks(NamedTuple):
    """Who has clicked what: user ids (users,) as the file has them, and (users, n_items + 1), 1.0 for a click."""

    users: np.ndarray
    matrix: sparse.csr_array


def read_clicks(
    path: Path, schema: DatasetSchema, index_of: Callable[[np.ndarray], np.ndarray], n_items: int
) -> Clicks:
    """Read who has clicked what from the histories of a split.

    Only histories count, never labels: the click that a row asks for is not looked at.

    Args:
        path: the training split.
        schema: names the user (``group_id``) and the history.
        index_of: raw item ids -> rows of the item table, 1-based; 0 or less is left out.
        n_items: number of items in the table.

    Raises:
        ConfigError: the schema names no ``group_id``.
        DataError: a row has no user, or the histories are no lists of integers.
    """
    if schema.group_id is None:
        raise ConfigError("clicks: the rows of one user are told by 'group_id', which the dataset's YAML has to name.")
    file = open_parquet(path, (schema.group_id, schema.history_col))
    users = file.read([schema.group_id]).column(0).combine_chunks().dictionary_encode()
    if users.null_count:
        raise DataError(f"{path}: column {schema.group_id!r} has {users.null_count:,} nulls; every row needs its user.")
    user_of_row = users.indices.to_numpy().astype(np.int64)
    pairs, held, row = [np.zeros(0, np.int64)], 0, 0
    with tqdm(total=file.metadata.num_rows, desc="clicks in histories", unit=" rows", disable=None) as bar:
        for batch in file.iter_batches(1 << 16, columns=[schema.history_col]):
            history = batch.column(0)
            if not pa.types.is_integer(getattr(history.type, "value_type", pa.null())):
                raise DataError(
                    f"{path}: column {schema.history_col!r} has type {history.type}; lists of integer ids are expected."
                )
            lengths = pc.list_value_length(history).fill_null(0).to_numpy()
            index = index_of(history.flatten().fill_null(0).to_numpy()).astype(np.int64)
            user = np.repeat(user_of_row[row : row + len(batch)], lengths)
            pairs.append(np.unique(user[index > 0] * (n_items + 1) + index[index > 0]))
            held += len(pairs[-1])
            if held > MERGE_AT:
                pairs, held = [np.unique(np.concatenate(pairs))], 0
            row += len(batch)
            bar.update(len(batch))
    user, item = np.divmod(np.unique(np.concatenate(pairs)), n_items + 1)
    shape = len(users.dictionary), n_items + 1
    matrix = sparse.csr_array((np.ones(len(item), np.float32), (user, item)), shape)
    return Clicks(users.dictionary.to_numpy(zero_copy_only=False), matrix)


def own_clicks_width(width: int) -> int:
    """Width of a column of :func:`own_clicks`: one block of all users' clicks, and one without each fold."""
    return (1 + FOLDS) * width


def own_clicks(width: int, whiten: float, clicks: Clicks) -> tuple[np.ndarray, dict[str, Any]]:
    """Where each item stands by its own clicks: by those of all users, then by those of all but one fold of them.

    A row of user u is to be compared in training by block ``1 + u mod FOLDS``, which that user's clicks are no part
    of, and by block 0 where nothing is learned. The blocks are spaces of their own: compare within one.

    Returns:
        (n_items + 1, (1 + FOLDS) * width) float32, each block of norm 1, or 0 where nobody has clicked; and a report.

    Raises:
        ConfigError: user ids are no integers, or there are fewer users or clicked items than components.
    """
    if not np.issubdtype(clicks.users.dtype, np.integer):
        raise ConfigError(
            "clicks without 'pca' are told apart by users' folds, which needs a 'group_id' of integers; found "
            f"{clicks.users.dtype}. Number the users, or compare expected clicks alone (clicks with pca)."
        )
    fold = np.mod(clicks.users, FOLDS)
    kept = [np.ones(len(fold), bool), *(fold != f for f in range(FOLDS))]
    blocks = [_click_space(width, whiten, clicks.matrix[np.flatnonzero(k)])[0] for k in tqdm(kept, desc="click folds")]
    counts = clicks.matrix.sum(axis=0)
    report = {"form": "own", "folds": FOLDS, "users": len(fold), "clicked_items": int((counts > 0).sum())}
    report["width"] = width
    return np.concatenate(blocks, axis=1).astype(np.float32), report


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


class ExpectedClicks:
    """Two vectors per item in one space: of the clicks that its content lets expect, and of its clicks.

    Content is mapped into the space of clicks by kernel ridge regression, the mapping of attributes to factors of
    Gantner et al. 2010 ("Learning Attribute-to-Feature Mappings for Cold-Start Recommendations").

    What is expected of an item comes from the clicks of *other* items, in closed form (leave one out): a target is
    then compared as one that nobody has clicked yet, in training as for a cold item, and the click that a training row
    asks for cannot show in it.

    Args:
        width: components, W.
        whiten: 0 weighs components by their singular values, 1 all alike.

    Attributes:
        landmarks_: (m, C) contents of norm 1 that others are compared with.
        weights_: (m, W): the kernel between contents and landmarks, times this, gives the expected vectors.
        report_: users, clicked items, the ridge that leave-one-out chose, and R^2, the share of the click vectors'
            variance that content explained of items left out (below 0 where the mean would have done better).
    """

    landmarks_: np.ndarray
    weights_: np.ndarray
    report_: dict[str, Any]

    def __init__(self, width: int, whiten: float) -> None:
        self.width = width
        self.whiten = whiten

    def fit(self, content: np.ndarray, clicks: sparse.csr_array) -> np.ndarray:
        """Fit, and return both vectors of every item: (n_items + 1, 2 W) float32, expected then clicked.

        Each half of a row has norm 1, or is 0: an item without content has no expected half, one without clicks has
        its expected vector in both.

        Args:
            content: (n_items + 1, C), rows of zeros where there is none.
            clicks: (users, n_items + 1), ``matrix`` of :func:`read_clicks`.

        Raises:
            ConfigError: fewer users or clicked items than components.
        """
        content = normalize(content.astype(np.float64))
        own, clicked = _click_space(self.width, self.whiten, clicks)
        learn = clicked[content[clicked].any(axis=1)]
        left_out, explained, ridge = self._regress(content[learn], own[learn])
        expected = self.transform(content).astype(np.float64)
        expected[learn] = normalize(left_out)
        nobody = ~own.any(axis=1)
        own[nobody] = expected[nobody]
        self.report_ = {
            "form": "expected",
            "users": clicks.shape[0],
            "clicked_items": len(clicked),
            "width": self.width,
            "ridge": ridge,
            "r2_left_out": explained,
        }
        return np.concatenate([expected, own], axis=1).astype(np.float32)

    def transform(self, content: np.ndarray) -> np.ndarray:
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
        """What :meth:`from_arrays` needs to predict for other items."""
        return {"landmarks": self.landmarks_, "weights": self.weights_}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ExpectedClicks":
        """Return what maps content as the one that :meth:`to_arrays` was taken from."""
        vectors = cls(arrays["weights"].shape[1], 0.0)
        vectors.landmarks_, vectors.weights_ = arrays["landmarks"], arrays["weights"]
        return vectors
