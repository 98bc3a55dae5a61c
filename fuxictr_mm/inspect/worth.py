"""Whether vectors will help, told before training: untrained cosines of target and history, beside popularity.

A logistic regression is fitted on rows of train and read on valid, with popularity alone and with the cosines of each
modality. The same with every vector dealt out to another item shows what is due to the vectors' being there, not to
what they say; what remains is the gain of their content.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from fuxictr_mm.data.contract import Split
from fuxictr_mm.features.derive.folds import FOLDS, fold_of
from fuxictr_mm.features.derive.pca import ModalityPCA
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.features.vector_files import iter_vectors
from fuxictr_mm.training.metrics import group_auc

__all__ = ["ItemVectors", "Score", "Worth", "worth_of"]

WIDTH = 64  # components that cosines are taken of, as in the compared columns of the shipped experiments
WHITEN = 0.5
HISTORY = 100  # latest items of a history that are looked at
TRAIN_ROWS, VALID_ROWS = 60_000, 100_000
DECAY = 0.8  # weight of a history item against that of the next later one
RESAMPLES = 500
NEAR = 0.1  # of the root-mean-square distance from the mean vector: closer says next to nothing
HELPS = 0.01  # AUC
COSINES = ("mean", "top-3", "recency")


@dataclass(frozen=True)
class Score:
    """AUC and gAUC on valid; gAUC is ``None`` without users who have both labels."""

    auc: float
    gauc: float | None


@dataclass(frozen=True)
class Worth:
    """What one modality, or all together, may add.

    Attributes:
        name: of the modality, or ``"all"``.
        cosines: each of ``COSINES`` -> its score alone; empty for all together.
        popularity: score of a regression on popularity alone.
        with_popularity: on popularity and the cosines.
        permuted: the same with vectors dealt out to the wrong items.
        gain: AUC of ``with_popularity`` less that of ``permuted``.
        interval: 95 % of the gain when users are drawn anew (percentile bootstrap).
        beside: the same two of what it adds where all other modalities are there; ``None`` without others.
        rows: of valid that were read.
    """

    name: str
    cosines: Mapping[str, Score]
    popularity: Score
    with_popularity: Score
    permuted: Score
    gain: float
    interval: tuple[float, float]
    beside: tuple[float, tuple[float, float]] | None
    rows: int

    @property
    def verdict(self) -> str:
        """``"yes"``, ``"perhaps"`` or ``"hardly"``."""
        if self.interval[0] >= HELPS:
            return "yes"
        return "perhaps" if self.interval[1] >= HELPS else "hardly"

    @property
    def advice(self) -> str:
        """One sentence; a gain is of AUC on valid, with its interval."""
        found = f"{_gain(self.gain, self.interval)} over popularity with shuffled vectors"
        if self.verdict != "hardly" and self.beside is not None:
            little = "only " if self.beside[1][0] < HELPS else ""
            found += f", {little}{_gain(*self.beside)} beside the others"
        what = {
            "yes": "will help",
            "perhaps": "may help; train with and without them on several seeds before you pay for them",
            "hardly": "will hardly help as they are; they may still serve items without clicks",
        }
        return f"{self.name} {what[self.verdict]}: {found}."

    def to_dict(self) -> dict[str, Any]:
        def of(score: Score) -> dict[str, float | None]:
            return {"auc": score.auc, "gauc": score.gauc}

        return {
            "cosines": {name: of(score) for name, score in self.cosines.items()},
            "popularity": of(self.popularity),
            "with_popularity": of(self.with_popularity),
            "permuted": of(self.permuted),
            "gain": self.gain,
            "interval": list(self.interval),
            "beside": None if self.beside is None else {"gain": self.beside[0], "interval": list(self.beside[1])},
            "rows": self.rows,
            "verdict": self.verdict,
            "advice": self.advice,
        }


def _gain(gain: float, interval: tuple[float, float]) -> str:
    return f"{gain:+.4f} [{interval[0]:+.4f}, {interval[1]:+.4f}]"


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of a modality in terms of the item table.

    Attributes:
        units: (n_items + 1, k) float32 rows of norm 1, k at most ``WIDTH``; zeros: no vector, or the mean itself.
        effective_rank: exp of the entropy of the shares of variance (Roy and Vetterli 2007, "The effective rank").
        duplicated: share of the vectors that another item has, too.
        near_mean: share that lies within ``NEAR`` of the usual distance from the mean vector.
    """

    units: np.ndarray
    effective_rank: float
    duplicated: float
    near_mean: float

    @classmethod
    def read(cls, path: Path, name: str, key_col: str, table: ItemTable) -> "ItemVectors | None":
        """Read the vectors of a file, twice; ``None``: fewer than two items have one."""

        def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for ids, vectors, is_present in iter_vectors(path, name, key_col):
                index = table.index_of(ids)
                keep = (index > 0) & is_present
                if keep.any():
                    yield index[keep], vectors[keep]

        pca = ModalityPCA(whiten=WHITEN)
        digests: list[int] = []
        for _, vectors in chunks():
            pca.partial_fit(vectors)
            digests += [hash(row.tobytes()) for row in vectors]
        if len(digests) < 2:
            return None
        shares = pca.explained_variance_ratio_
        shares = shares[shares > 0]
        _, place, counts = np.unique(digests, return_inverse=True, return_counts=True)
        usual = np.sqrt(pca.explained_variance_.sum())
        units = np.zeros((table.n_items + 1, min(WIDTH, pca.n_components_)), np.float32)
        near = 0
        for index, vectors in chunks():
            near += int((np.linalg.norm(vectors - pca.mean_, axis=1) <= NEAR * usual).sum())
            units[index] = pca.transform(vectors)[:, : units.shape[1]]
        norms = np.linalg.norm(units, axis=1, keepdims=True)
        units = np.divide(units, norms, out=np.zeros_like(units), where=norms > 0)
        rank = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
        return cls(units, rank, float((counts[place] > 1).mean()), near / len(digests))

    def permuted(self, rng: np.random.Generator) -> np.ndarray:
        """Units dealt out anew among the items that have one."""
        present = np.flatnonzero(self.units.any(axis=1))
        units = self.units.copy()
        units[present] = self.units[rng.permutation(present)]
        return units

    def neighbours(self, item: int, n: int = 3) -> np.ndarray:
        """Indices of the ``n`` items closest to one by cosine, the closest first; fewer if there are no more."""
        cosines = self.units @ self.units[item]
        cosines[~self.units.any(axis=1)] = -np.inf
        cosines[item] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[:n]
        return nearest[np.isfinite(cosines[nearest])]


class _Rows:
    """Some rows of a split: labels, users, popularity and histories of the same length."""

    def __init__(self, split: Split, most: int, rng: np.random.Generator) -> None:
        assert split.label is not None
        n = len(split)
        rows = np.sort(rng.choice(n, most, replace=False)) if n > most else np.arange(n)
        self.item = split.item[rows]
        self.label: np.ndarray = np.asarray(split.label[rows] == 1)
        # Without users each row is its own, numbered as read_clicks does.
        self.user = (rows + 1) if split.group is None else split.group[rows]
        ends = split.history_offsets[rows + 1]
        at = ends[:, None] - HISTORY + np.arange(HISTORY)
        is_real = at >= split.history_offsets[rows][:, None]
        values = split.history_values if len(split.history_values) else np.zeros(1, np.int32)
        self.history = np.where(is_real, values[np.maximum(at, 0)], 0)

    @property
    def has_both_labels(self) -> bool:
        return bool(self.label.any() and not self.label.all())

    def cosines(self, units: np.ndarray) -> np.ndarray:
        """(N, 3) in the order of ``COSINES``; the target itself in the history is left out, nothing known is 0."""
        found = np.zeros((len(self.item), len(COSINES)), np.float32)
        has_vector = np.asarray(units.any(axis=1))
        weights = DECAY ** np.arange(HISTORY - 1, -1, -1)
        for start in range(0, len(found), 1024):
            part = slice(start, start + 1024)
            item, history = self.item[part], self.history[part]
            is_known = has_vector[history] & has_vector[item][:, None] & (history != item[:, None])
            cosine = np.einsum("blw,bw->bl", units[history], units[item])
            n = is_known.sum(axis=1)
            weight = is_known * weights
            highest = -np.partition(-np.where(is_known, cosine, -2.0), 2, axis=1)[:, :3]
            highest = np.where(highest >= -1.5, highest, 0.0)
            found[part, 0] = (cosine * is_known).sum(axis=1) / np.maximum(n, 1)
            found[part, 1] = highest.sum(axis=1) / np.clip(n, 1, 3)
            found[part, 2] = (cosine * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-30)
        return found

    def score(self, values: np.ndarray) -> Score:
        of_users, rows = group_auc(self.label, values, self.user)
        gauc = float(np.average(of_users, weights=rows)) if len(of_users) else None
        return Score(float(_Ranks(self.label, values).auc(np.ones(len(values)))), gauc)


class _Ranks:
    """AUC of scores under weights of the rows, which are sorted once; ties count as half."""

    def __init__(self, label: np.ndarray, score: np.ndarray) -> None:
        self._order = np.argsort(score, kind="stable")
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._is_positive = label[self._order]

    def auc(self, weights: np.ndarray) -> float:
        """(N,) weights -> AUC, NaN if one label has no weight."""
        ordered = weights[self._order].astype(np.float64)
        positive = np.add.reduceat(np.where(self._is_positive, ordered, 0.0), self._starts)
        negative = np.add.reduceat(np.where(self._is_positive, 0.0, ordered), self._starts)
        below = np.cumsum(negative) - negative / 2
        total = positive.sum() * negative.sum()
        return float((positive * below).sum() / total) if total else float("nan")


class _Probe:
    """Regressions on popularity and cosines, fitted on rows of train, scoring rows of valid."""

    def __init__(self, train: _Rows, valid: _Rows, training: TrainingSplit, rng: np.random.Generator) -> None:
        self.train, self.valid, self._rng = train, valid, rng
        # A row of train must not find its own click in the popularity of its target: without its user's fold of users.
        counts = np.stack([training.users_per_item_without(fold) for fold in range(FOLDS)]) * (FOLDS / (FOLDS - 1))
        self._of_train = np.log1p(counts[fold_of(train.user.astype(np.int64)), train.item])[:, None]
        self._of_valid = np.log1p(training.users_per_item[valid.item])[:, None]

    def scores(self, *cosines: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Scores of valid, by popularity and the cosines of (train, valid)."""
        fitted = np.hstack([self._of_train, *(one for one, _ in cosines)])
        read = np.hstack([self._of_valid, *(other for _, other in cosines)])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(fitted, self.train.label)
        return np.asarray(model.decision_function(read))

    def cosines(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.train.cosines(units), self.valid.cosines(units)

    @cached_property
    def _weights(self) -> list[np.ndarray]:
        """Of the rows of valid, for each resample of its users."""
        _, place = np.unique(self.valid.user, return_inverse=True)
        n = int(place.max()) + 1
        return [np.bincount(self._rng.integers(0, n, n), minlength=n)[place] for _ in range(RESAMPLES)]

    def gain(self, real: np.ndarray, permuted: np.ndarray) -> tuple[float, tuple[float, float]]:
        """AUC of scores over that of others, with its 95 % interval."""
        a, b = _Ranks(self.valid.label, real), _Ranks(self.valid.label, permuted)
        gains = [a.auc(weights) - b.auc(weights) for weights in self._weights]
        low, high = np.nanpercentile(gains, [2.5, 97.5])
        whole = np.ones(len(real))
        return a.auc(whole) - b.auc(whole), (float(low), float(high))


def worth_of(
    vectors: Mapping[str, ItemVectors], train: Split, valid: Split, training: TrainingSplit, *, progress: bool = True
) -> list[Worth]:
    """Judge each modality, and all together if there are several.

    Args:
        vectors: name -> vectors of the items.
        train, valid: with labels and whole histories.
        training: the same training split, asked for who clicked what.
        progress: show a progress bar, if this is a terminal.

    Returns:
        One entry per modality; none if a split has one label only, which no AUC can judge.
    """
    rng = np.random.default_rng(0)
    rows_of_train, rows_of_valid = _Rows(train, TRAIN_ROWS, rng), _Rows(valid, VALID_ROWS, rng)
    if not (vectors and rows_of_train.has_both_labels and rows_of_valid.has_both_labels):
        return []
    probe = _Probe(rows_of_train, rows_of_valid, training, rng)
    popularity = rows_of_valid.score(probe.scores())
    score, n_rows = rows_of_valid.score, len(rows_of_valid.label)
    real = {name: probe.cosines(one.units) for name, one in vectors.items()}
    dealt = {name: probe.cosines(one.permuted(rng)) for name, one in vectors.items()}
    scores_of_all = probe.scores(*real.values())
    found = []
    with tqdm(total=len(vectors), desc="will vectors help", disable=None if progress else True) as bar:
        for name in vectors:
            alone = {kind: score(real[name][1][:, at]) for at, kind in enumerate(COSINES)}
            scores, permuted = probe.scores(real[name]), probe.scores(dealt[name])
            beside = None
            if len(vectors) > 1:
                beside = probe.gain(scores_of_all, probe.scores(*{**real, name: dealt[name]}.values()))
            measured = probe.gain(scores, permuted)
            found.append(Worth(name, alone, popularity, score(scores), score(permuted), *measured, beside, n_rows))
            bar.update()
    if len(vectors) > 1:
        permuted = probe.scores(*dealt.values())
        measured = probe.gain(scores_of_all, permuted)
        found.append(Worth("all", {}, popularity, score(scores_of_all), score(permuted), *measured, None, n_rows))
    return found
