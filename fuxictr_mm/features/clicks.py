"""Click vectors: where an item stands by who clicks it, and where its content says that it should stand.

Apart from the PCAs because these are fitted on the histories of the training split, not on files of items.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from tqdm import tqdm

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import open_parquet
from fuxictr_mm.schema import DatasetSchema

__all__ = ["ClickVectors", "read_clicks"]

GAMMA = 1.0  # of the kernel exp(-gamma |a - b|^2) between contents of norm 1, whose squared distances are 0 to 4
# Above this many clicked items, so many of them stand for all (Williams and Seeger 2001): solving is cubic in them.
LANDMARKS = 2048
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
MERGE_AT = 1 << 24  # pairs of user and item that are held before repeated ones are dropped: 128 MiB


def read_clicks(
    path: Path, schema: DatasetSchema, index_of: Callable[[np.ndarray], np.ndarray], n_items: int
) -> sparse.csr_array:
    """Read who has clicked what from the histories of a split: (users, n_items + 1), 1.0 where a user has clicked.

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
            lengths = history.value_lengths().fill_null(0).to_numpy()
            index = index_of(history.flatten().fill_null(0).to_numpy()).astype(np.int64)
            user = np.repeat(user_of_row[row : row + len(batch)], lengths)
            pairs.append(np.unique(user[index > 0] * (n_items + 1) + index[index > 0]))
            held += len(pairs[-1])
            if held > MERGE_AT:
                pairs, held = [np.unique(np.concatenate(pairs))], 0
            row += len(batch)
            bar.update(len(batch))
    user, item = np.divmod(np.unique(np.concatenate(pairs)), n_items + 1)
    return sparse.csr_array((np.ones(len(item), np.float32), (user, item)), (len(users.dictionary), n_items + 1))


class ClickVectors:
    """Two vectors per item in one space: of its clicks, and of the clicks that its content lets expect.

    The space is a truncated SVD of users times clicked items, each item's column scaled to norm 1 (so that popularity
    is no direction of its own), each component weighed by a power of its singular value (Levy, Goldberg and Dagan
    2015, section 3.3). Content is mapped into it by kernel ridge regression, the mapping of attributes to factors of
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
            clicks: (users, n_items + 1), see :func:`read_clicks`.

        Raises:
            ConfigError: fewer users or clicked items than components.
        """
        content = normalize(content.astype(np.float64))
        counts = np.asarray(clicks.sum(axis=0)).ravel()
        clicked = np.flatnonzero(counts)
        if min(clicks.shape[0], len(clicked)) <= self.width:
            raise ConfigError(
                f"clicks: {self.width} needs more users and more clicked items than that; the training split's "
                f"histories have {clicks.shape[0]:,} users and {len(clicked):,} items."
            )
        scaled = clicks[:, clicked] @ sparse.diags_array(counts[clicked] ** -0.5)
        _, sizes, components = randomized_svd(scaled, self.width, random_state=0)
        own = np.zeros((len(content), self.width))
        own[clicked] = normalize(components.T * sizes ** (1 - self.whiten))
        learn = clicked[content[clicked].any(axis=1)]
        left_out, explained, ridge = self._regress(content[learn], own[learn])
        expected = self.transform(content).astype(np.float64)
        expected[learn] = normalize(left_out)
        own[counts == 0] = expected[counts == 0]
        self.report_ = {
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
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ClickVectors":
        """Return what maps content as the one that :meth:`to_arrays` was taken from."""
        vectors = cls(arrays["weights"].shape[1], 0.0)
        vectors.landmarks_, vectors.weights_ = arrays["landmarks"], arrays["weights"]
        return vectors
