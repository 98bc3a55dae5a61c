"""Click vectors: who clicked what, leaving out against fitting without, cold items, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.util import hash_array
from scipy import sparse
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive import clicks, training
from fuxictr_mm.features.derive.clicks import ExpectedClicks, OwnClicks, regress
from fuxictr_mm.features.derive.derivation import WholeRows
from fuxictr_mm.features.derive.folds import FOLDS, PAIRS, fold_of
from fuxictr_mm.features.derive.training import Clicks, TrainingSplit, read_clicks
from fuxictr_mm.features.table import ItemTable, build_item_table

N, USERS, CLUSTERS = 40, 300, 4
CLUSTER = np.arange(N + 1) % CLUSTERS
COLD, BLIND = 7, 12  # nobody clicks the first, the second has no text
COLUMNS = [
    {"name": "user_id", "type": "meta"},
    {"name": "item_id", "type": "categorical", "source": "item"},
    {"name": "heard", "type": "meta", "source": "item", "pca": {"text": 5}, "pca_whiten": 0.5, "clicks": 3},
]


def schema_of(**roles: Any) -> DatasetSchema:
    roles = {"group_id": "user_id", "feature_cols": COLUMNS, "label_col": {"name": "label"}, **roles}
    return DatasetSchema.from_params(roles)


def content_of(seed: int = 0) -> np.ndarray:
    """Items of one cluster have like contents."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(CLUSTERS, 5))[CLUSTER] + 0.3 * rng.normal(size=(N + 1, 5))
    content[[0, BLIND]] = 0
    return content


def clicks_of(seed: int = 1) -> sparse.csr_array:
    """Users click within one cluster, mostly."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, CLUSTERS, USERS)
    matrix = (rng.random((USERS, N + 1)) < np.where(taste[:, None] == CLUSTER, 0.5, 0.05)).astype(np.float32)
    matrix[:, [0, COLD]] = 0
    return sparse.csr_array(matrix)


def write_files(folder: Path, users: Any = None) -> dict[str, str]:
    matrix = clicks_of().toarray()
    histories = [[0, *np.flatnonzero(row).tolist()] for row in matrix]
    train = {
        "user_id": list(range(USERS)) if users is None else users,
        "item_seq": histories,
        "item_id": [COLD] * USERS,  # shown and never clicked
        "label": [0] * USERS,
    }
    pq.write_table(pa.table(train), folder / "train.parquet")
    text = [None if item == BLIND else row.tolist() for item, row in enumerate(content_of().astype(np.float32))]
    pq.write_table(pa.table({"item_id": list(range(1, N + 1)), "text": text[1:]}), folder / "items.parquet")
    return {"item_info": str(folder / "items.parquet"), "train_data": str(folder / "train.parquet")}


def agreement(vectors: np.ndarray, view: int = 0) -> float:
    """Share of items whose most similar other item, target against history, is of their cluster."""
    target, history = vectors.reshape(N + 1, -1, 2, 3)[1:, view].astype(np.float64).transpose(1, 0, 2)
    known = target.any(axis=1)
    cosine = target @ history.T
    np.fill_diagonal(cosine, -2)
    return float((CLUSTER[1:][cosine.argmax(axis=1)] == CLUSTER[1:])[known].mean())


class Shown:
    """A training split that shows these clicks."""

    def __init__(self, matrix: Any, users: Any = None) -> None:
        self.clicks = Clicks(np.arange(matrix.shape[0]) if users is None else users, matrix)


def expected_clicks(content: np.ndarray) -> tuple[ExpectedClicks, np.ndarray]:
    fitted = ExpectedClicks(3, 0.5)
    return fitted, fitted.fit(WholeRows(content), Shown(clicks_of()))


def own_clicks(whiten: float, *shown: Any) -> tuple[np.ndarray, dict[str, Any]]:
    fitted = OwnClicks(3, whiten)
    return fitted.fit(WholeRows(np.zeros((N + 1, 0), np.float32)), Shown(*shown)), fitted.report()


def test_both_vectors_in_every_view() -> None:
    fitted, vectors = expected_clicks(content_of())
    assert vectors.shape == (N + 1, (1 + FOLDS) * 6) and vectors.dtype == np.float32
    views = vectors.reshape(N + 1, 1 + FOLDS, 2, 3)
    expected = np.ones((N + 1, 1 + FOLDS, 2))
    expected[0] = 0
    expected[BLIND, :, 0] = 0
    np.testing.assert_allclose(np.linalg.norm(views, axis=3), expected, atol=1e-6)
    np.testing.assert_array_equal(views[COLD, :, 0], views[COLD, :, 1])
    np.testing.assert_allclose(views[COLD, :, 0], fitted.expect(content_of()[[COLD]])[0], atol=1e-6)
    assert agreement(vectors) > 0.9 and all(agreement(vectors, view) > 0.7 for view in range(1 + FOLDS))
    assert fitted.report()["users"] == USERS and fitted.report()["clicked_items"] == N - 1
    assert 0.5 < fitted.report()["r2_left_out"] < 1


def test_what_is_expected_leaves_the_item_out() -> None:
    fitted, vectors = expected_clicks(content_of())
    content = normalize(content_of())
    learned = np.flatnonzero(content.any(axis=1) & (np.arange(N + 1) != COLD))
    nystroem = Nystroem(gamma=clicks.GAMMA, n_components=len(learned), random_state=0)
    features = nystroem.fit_transform(content[learned])
    left_out = regress(features, vectors[learned, 3:6].astype(np.float64), clicks.RIDGES)[0]
    np.testing.assert_allclose(vectors[learned, :3], normalize(left_out), atol=1e-5)
    assert np.abs(normalize(left_out) - fitted.expect(content)[learned, 0]).max() > 0.01


def test_views_of_expected_clicks_are_fits_without_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "RIDGES", [0.3])
    matrix, fold = clicks_of(), fold_of(np.arange(USERS))
    vectors = expected_clicks(content_of())[1].reshape(N + 1, 1 + FOLDS, 6)
    for left_out in range(FOLDS):
        rest = np.flatnonzero(fold != left_out)
        again = ExpectedClicks(3, 0.5).fit(WholeRows(content_of()), Shown(matrix[rest], rest))[:, :6]
        found = vectors[:, 1 + left_out]
        # The same up to a rotation of the space.
        np.testing.assert_allclose(found[:, :3] @ found[:, 3:].T, again[:, :3] @ again[:, 3:].T, atol=1e-3)


def test_content_that_says_nothing_of_clicks() -> None:
    content = np.random.default_rng(4).normal(size=(N + 1, 5))
    content[0] = 0
    fitted, vectors = expected_clicks(content)
    assert fitted.report()["r2_left_out"] < 0.1
    assert agreement(vectors) < 0.6


@pytest.mark.parametrize("landmarks", [11, 10], ids=["all items", "few landmarks"])
def test_leaving_out_is_fitting_without(landmarks: int) -> None:
    rng = np.random.default_rng(3)
    content, own = normalize(content_of()[1:12]), rng.normal(size=(11, 3))
    features = Nystroem(gamma=clicks.GAMMA, n_components=landmarks, random_state=0).fit_transform(content)
    left_out, found, weights = regress(features, own, clicks.RIDGES)
    errors = {}
    for alpha in clicks.RIDGES:
        ridge = Ridge(alpha=alpha, fit_intercept=False)
        again = np.stack(
            [
                ridge.fit(np.delete(features, row, 0), np.delete(own, row, 0)).predict(features[[row]])[0]
                for row in range(11)
            ]
        )
        errors[alpha] = np.square(own - again).sum()
        if alpha == found["ridge"]:
            np.testing.assert_allclose(left_out, again, atol=1e-6)
            np.testing.assert_allclose(weights, ridge.fit(features, own).coef_.T, atol=1e-6)
    assert found["ridge"] == min(errors, key=errors.__getitem__)
    variation = np.square(own - own.mean(0)).sum()
    assert found["r2_left_out"] == pytest.approx(1 - errors[found["ridge"]] / variation)


def test_what_is_expected_of_an_item_does_not_know_its_clicks() -> None:
    own = np.random.default_rng(3).normal(size=(N - 1, 3))
    features = normalize(np.delete(content_of(), [0, BLIND], axis=0))
    before = regress(features, own, [0.3])[0]
    own[5] *= 2
    after = regress(features, own, [0.3])[0]
    np.testing.assert_allclose(after[5], before[5], rtol=1e-9)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("users", [None, [f"u{i}" for i in range(USERS)]], ids=["numbers", "text"])
def test_read_clicks_against_a_loop(users: Any, tmp_path: Path) -> None:
    files = write_files(tmp_path, users)
    table = pq.read_table(files["train_data"])
    shuffled = table.take(np.random.default_rng(0).permutation(np.tile(np.arange(USERS), 2)))  # every row twice
    pq.write_table(shuffled, files["train_data"])
    found = read_clicks(Path(files["train_data"]), schema_of(), ItemTable(np.arange(1, N - 1)).index_of, N - 2)
    matrix = found.matrix.toarray()
    assert matrix.shape == (USERS, N - 1) and matrix.max() == 1
    expected = clicks_of().toarray()[:, : N - 1]  # the last two items are in no table
    numbers = np.arange(USERS) if users is None else hash_array(np.array(users, object)).view(np.int64)
    np.testing.assert_array_equal(matrix, expected[np.argsort(numbers)])
    assert found.users.tolist() == sorted(numbers)


@pytest.mark.parametrize(
    ("kind", "last"), [(pa.list_(pa.int32(), 2), [0, 0]), (pa.list_(pa.int32()), None), (pa.large_list(pa.int64()), [])]
)
def test_clicks_are_histories_and_targets_with_label_1(kind: pa.DataType, last: Any, tmp_path: Path) -> None:
    table = {"user_id": [5, 5, 9], "item_seq": pa.array([[1, 0], [3, None], last], kind)}
    table |= {"item_id": [2, 1, 2], "label": [0, 1, 1]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    index_of = ItemTable(np.arange(1, 4)).index_of
    found = read_clicks(tmp_path / "train.parquet", schema_of(), index_of, 3)
    assert found.users.tolist() == [5, 9]
    np.testing.assert_array_equal(found.matrix.toarray(), [[0, 1, 0, 1], [0, 0, 1, 0]])
    assert TrainingSplit(tmp_path / "train.parquet", schema_of(), index_of, 3).users_per_item.tolist() == [0, 1, 1, 1]
    # Without users, rows with label 1 are one each, and all histories together another.
    nobody = TrainingSplit(tmp_path / "train.parquet", schema_of(group_id=None), index_of, 3)
    assert nobody.users_per_item.tolist() == [0, 2, 1, 1]


def test_pairs_are_merged_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_files(tmp_path)
    arguments = Path(files["train_data"]), schema_of(), ItemTable(np.arange(1, N + 1)).index_of, N
    before = read_clicks(*arguments).matrix
    monkeypatch.setattr(training, "MERGE_AT", 10)
    np.testing.assert_array_equal(read_clicks(*arguments).matrix.toarray(), before.toarray())


def test_through_the_item_table(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    table = build_item_table(schema_of(), tmp_path, **files)
    assert table.columns["heard"].shape == (N + 1, (1 + FOLDS) * 6)
    assert agreement(table.columns["heard"]) > 0.9
    content, heard = table.stored["heard"].info["reports"]
    assert content["width"] == 5 and heard["width"] == (1 + FOLDS) * 6 and heard["users"] == USERS
    assert table.stored["heard"].modalities == [["heard", (1 + FOLDS) * 6]]

    def path(**roles: Any) -> Path | None:
        return build_item_table(schema_of(**roles), tmp_path, **files).stored["heard"].path

    first = path()
    assert first == table.stored["heard"].path
    train = pq.read_table(files["train_data"])
    pq.write_table(train.append_column("household", train["user_id"]), files["train_data"])
    assert path(group_id="user_id") != path(group_id="household"), "whose clicks they are is a part of what decides it"
    pq.write_table(train.slice(10), files["train_data"])
    other = build_item_table(schema_of(), tmp_path, **files).stored["heard"]
    assert other.path != first, "the histories are a source of the column"
    assert other.info["reports"][1]["users"] == USERS - 10


def test_items_that_come_later(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    table = build_item_table(schema_of(), tmp_path, **files)
    content = content_of().astype(np.float32)
    later = {"item_id": [N + 1, N + 2], "text": [content[COLD].tolist(), None]}
    pq.write_table(pa.table(later), tmp_path / "later.parquet")
    grown = table.with_items(item_info=tmp_path / "later.parquet")
    heard = grown.columns["heard"]
    np.testing.assert_array_equal(heard[: N + 1], table.columns["heard"])
    np.testing.assert_allclose(heard[N + 1], heard[COLD], atol=1e-5)
    assert not heard[N + 2].any()


def test_refusals(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    train = Path(files["train_data"])
    with pytest.raises(ConfigError, match=r"clicks: .*'group_id'"):
        build_item_table(schema_of(group_id=None), tmp_path, **files)
    with pytest.raises(ConfigError, match="clicks and normalizer need 'train_data'"):
        build_item_table(schema_of(), tmp_path, item_info=files["item_info"])
    wide = [*COLUMNS[:2], {**COLUMNS[2], "clicks": N - 1}]
    with pytest.raises(ConfigError, match=r"clicks: 39 needs more users .* has 300 users .* and 39 items"):
        build_item_table(schema_of(feature_cols=wide), tmp_path, **files)
    rows = pq.read_table(train)
    nulls = pa.array([None, *range(1, USERS)])
    pq.write_table(rows.set_column(0, "user_id", nulls), train)
    with pytest.raises(DataError, match="'user_id' has 1 nulls"):
        build_item_table(schema_of(), tmp_path, **files)
    pq.write_table(rows.set_column(1, "item_seq", pa.array(["1 2"] * USERS)), train)
    with pytest.raises(DataError, match=r"'item_seq' has type string; lists of integer ids"):
        build_item_table(schema_of(), tmp_path, **files)
    assert not list(tmp_path.glob("heard*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "embedding"}, r"'clicks' needs .* 'type: meta'"),
        ({"source": ""}, "'pca' needs 'source: item'"),
        ({"clicks": 0}, "clicks: found 0; at least 1"),
        ({"clicks": True}, "clicks: found True; a whole number"),
        ({"clicks": 0.5}, "clicks: found 0.5; a whole number"),
    ],
)
def test_refused_columns(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schema_of(feature_cols=[*COLUMNS[:2], {**COLUMNS[2], **change}])


OWN = {"name": "peers", "type": "meta", "source": "item", "pca_whiten": True, "clicks": 3}


def test_own_clicks_leave_pairs_of_folds_out() -> None:
    matrix, users = clicks_of(), np.arange(USERS) * 10
    column, report = own_clicks(1.0, matrix, users)
    assert column.shape == (N + 1, (1 + len(PAIRS)) * 3) and column.dtype == np.float32
    assert report["users"] == USERS and report["folds"] == FOLDS and report["clicked_items"] == N - 1
    views = column.reshape(N + 1, 1 + len(PAIRS), 3).transpose(1, 0, 2)
    norms = np.linalg.norm(views, axis=2)
    np.testing.assert_allclose(np.delete(norms, [0, COLD], axis=1), 1, atol=1e-6)
    assert not norms[:, [0, COLD]].any()
    # Other clicks of one user change every view but those without the user's fold.
    other = matrix.toarray()
    other[4] = 1 - other[4]
    other[4, [0, COLD]] = 0
    changed = own_clicks(1.0, sparse.csr_array(other), users)[0]
    after = changed.reshape(N + 1, 1 + len(PAIRS), 3).transpose(1, 0, 2)
    cosines = [np.abs(a @ a.T - b @ b.T).max() for a, b in zip(after, views)]
    fold = int(fold_of(users)[4])
    assert [value < 1e-5 for value in cosines] == [False, *(fold in pair for pair in PAIRS)]


@pytest.mark.parametrize("whiten", [0.0, 0.25, 1.0])
def test_the_space_of_clicks_against_numpy(whiten: float) -> None:
    matrix = clicks_of().toarray().astype(np.float64)
    matrix[:40, CLUSTER == 1] = 1  # one cluster is more popular
    matrix[:, [0, COLD]] = 0
    counts = matrix.sum(axis=0)
    _, sizes, components = np.linalg.svd(matrix / np.sqrt(np.maximum(counts, 1)), full_matrices=False)
    expected = components[:3].T * sizes[:3] ** (1 - whiten)
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-9)
    found = own_clicks(whiten, sparse.csr_array(matrix))[0][:, :3]
    np.testing.assert_allclose(
        found @ found.T, np.where(np.outer(counts, counts) > 0, expected @ expected.T, 0), atol=1e-3
    )


def test_own_clicks_through_the_item_table(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    table = build_item_table(schema_of(feature_cols=[*COLUMNS, OWN]), tmp_path, **files)
    found = read_clicks(Path(files["train_data"]), schema_of(), table.index_of, N)
    np.testing.assert_array_equal(table.columns["peers"], own_clicks(1.0, found.matrix, found.users)[0])
    later = {"item_id": [N + 1], "text": [content_of()[COLD].astype(np.float32).tolist()]}
    pq.write_table(pa.table(later), tmp_path / "later.parquet")
    grown = table.with_items(item_info=tmp_path / "later.parquet")
    assert grown.columns["peers"].shape == (N + 2, (1 + len(PAIRS)) * 3) and not grown.columns["peers"][-1].any()


def test_users_that_cannot_be_told_apart() -> None:
    users = np.flatnonzero(fold_of(np.arange(1000)) == 2)[:20]
    matrix = sparse.csr_array((np.ones(20, np.float32), (np.arange(20), 1 + np.arange(20))), (20, N + 1))
    with pytest.raises(ConfigError, match="one of 5 folds has 100 % of the 20 users of train"):
        own_clicks(1.0, matrix, users)
