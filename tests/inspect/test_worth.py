"""Whether vectors will help: on made data whose answer is known, and on the real sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.features.derive.folds import fold_of
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.inspect import worth
from fuxictr_mm.inspect.findings import Findings
from fuxictr_mm.inspect.inspection import inspect_dataset
from fuxictr_mm.inspect.worth import COSINES, ItemVectors


def make_params(folder: Path, *, users: int = 120, with_users: bool = True) -> dict[str, Any]:
    """Users click items of their own taste; ``good`` shows the taste of an item, ``noise`` nothing, ``flat`` is a copy
    of one vector for half of the items.
    """
    rng = np.random.default_rng(3)
    n_items = 80
    taste = rng.integers(0, 4, n_items)
    good = np.eye(4)[taste] + 0.3 * rng.normal(size=(n_items, 4))
    noise = rng.normal(size=(n_items, 6))
    flat = np.where(np.arange(n_items)[:, None] < 40, 1.0, rng.normal(size=(n_items, 5)))
    vectors = {"good": good, "noise": noise, "flat": flat}
    columns: dict[str, Any] = {
        name: pa.array([None if at == 7 else row.tolist() for at, row in enumerate(values)], pa.list_(pa.float32()))
        for name, values in vectors.items()
    }
    titles = [f"Title {at + 1}" for at in range(n_items)]
    pq.write_table(
        pa.table({"item_id": np.arange(1, n_items + 1), "title": titles, **columns}), folder / "items.parquet"
    )
    for split, rows in (("train", 6000), ("valid", 3000)):
        user, target = rng.integers(0, users, rows), rng.integers(0, n_items, rows)
        of_taste = [np.flatnonzero(taste == one) for one in range(4)]
        history = [(rng.choice(of_taste[one % 4], rng.integers(0, 7)) + 1).tolist() for one in user]
        label = (rng.random(rows) < np.where(taste[target] == user % 4, 0.7, 0.2)).astype(np.int64)
        table = {
            "user_id": user,
            "item_seq": pa.array(history, pa.list_(pa.int64())),
            "item_id": target + 1,
            "label": label,
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
    pca = {"good": 3, "noise": 3, "flat": 3}
    return {
        **{f"{split}_data": str(folder / f"{split}.parquet") for split in ("train", "valid")},
        "item_info": str(folder / "items.parquet"),
        **({"group_id": "user_id"} if with_users else {}),
        "feature_cols": [
            {"name": "user_id", "type": "meta"},
            {"name": "item_id", "type": "categorical", "source": "item"},
            {"name": "emb", "type": "embedding", "source": "item", "embedding_dim": 9, "pca": pca},
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return inspect_dataset(make_params(tmp_path_factory.mktemp("worth")), progress=False)


def test_content_helps_and_noise_does_not(findings: Findings) -> None:
    found = {one.name: one for one in findings.worth}
    assert list(found) == ["good", "noise", "flat", "all"]
    assert found["good"].verdict == "yes" and found["all"].verdict == "yes"
    assert found["noise"].verdict == "hardly"
    assert found["good"].cosines["mean"].auc > 0.65 and abs(found["noise"].cosines["mean"].auc - 0.5) < 0.03
    # Vectors of the wrong items leave what popularity alone has.
    assert abs(found["good"].permuted.auc - found["good"].popularity.auc) < 0.02
    low, high = found["good"].interval
    assert low < found["good"].gain < high
    beside, (_, highest) = found["noise"].beside or (1.0, (1.0, 1.0))
    assert beside < 0.01 and highest < 0.02
    assert found["all"].beside is None


def test_the_table_says_it(findings: Findings) -> None:
    said = findings.to_table()
    assert "good will help: +0." in said and "noise will hardly help" in said
    assert "Closest by good" in said and "Title " in said
    assert findings.to_dict()["worth"]["good"]["verdict"] == "yes"


def test_the_spread_of_vectors(findings: Findings) -> None:
    flat = findings.modalities["flat"].to_dict()
    assert flat["duplicated"] == pytest.approx(39 / 79)  # item 8 of the 40 equal ones has no vector
    assert findings.modalities["noise"].to_dict()["duplicated"] == 0.0
    assert 5 < findings.modalities["noise"].to_dict()["effective_rank"] <= 6
    shown = findings.modalities["good"].neighbours
    assert len(shown) == 3 and all(len(others) == 3 and title not in others for title, others in shown.items())


def test_without_users_rows_stand_for_them(tmp_path: Path) -> None:
    found = {one.name: one for one in inspect_dataset(make_params(tmp_path, with_users=False), progress=False).worth}
    assert found["good"].verdict == "yes" and found["noise"].verdict == "hardly"
    assert found["good"].popularity.gauc is None


def test_one_label_cannot_be_judged(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    table = pq.read_table(params["valid_data"])
    pq.write_table(table.set_column(3, "label", pa.array([0] * len(table))), params["valid_data"])
    assert inspect_dataset(params, progress=False).worth == []


def test_cosines_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    units = rng.normal(size=(9, 4)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    units[[0, 3]] = 0.0  # padding, and an item without a vector
    rows = object.__new__(worth._Rows)
    rows.item = np.array([1, 2, 3, 4, 5])
    rows.history = np.zeros((5, worth.HISTORY), np.int64)
    histories: list[list[int]] = [[2, 5, 7, 8], [2, 3, 6], [1, 2], [], [1, 5, 6]]
    for row, history in enumerate(histories):
        rows.history[row, worth.HISTORY - len(history) :] = history
    for row, history in enumerate(histories):
        target = int(rows.item[row])
        known = [
            (at, h) for at, h in enumerate(reversed(history)) if h != target and units[h].any() and units[target].any()
        ]
        cosine = [float(units[h] @ units[target]) for _, h in known]
        weight = [worth.DECAY**at for at, _ in known]
        expected = [0.0] * 3
        if known:
            best = sorted(cosine)[-3:]
            recent = sum(w * c for w, c in zip(weight, cosine)) / sum(weight)
            expected = [sum(cosine) / len(cosine), sum(best) / len(best), recent]
        assert rows.cosines(units)[row].tolist() == pytest.approx(expected, abs=1e-6), COSINES


def test_weighted_auc_counts_rows_as_often_as_they_weigh() -> None:
    rng = np.random.default_rng(1)
    label, score, weights = rng.random(200) < 0.4, rng.integers(0, 20, 200).astype(float), rng.integers(0, 4, 200)
    expected = roc_auc_score(np.repeat(label, weights), np.repeat(score, weights))
    assert worth._Ranks(label, score).auc(weights) == pytest.approx(expected)


def test_near_mean_and_few_vectors(tmp_path: Path) -> None:
    values = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.01, 0.0]]
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [1, 2, 3, 4, 5], "v": values}), path)
    table = ItemTable(np.arange(1, 6))
    read = ItemVectors.read(path, "v", "item_id", table)
    assert read is not None and read.near_mean == pytest.approx(0.2)
    pq.write_table(pa.table({"item_id": [1, 2], "v": [values[0], None]}), path)
    assert ItemVectors.read(path, "v", "item_id", table) is None


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "valid", "verdicts"),
    [
        ("ml1m", "valid", ["yes", "yes", "yes"]),
        ("ml1m", "valid_explicit", ["hardly"] * 3),
        ("ml100k", "valid", ["hardly"] * 3),
        ("tiktok", "valid", ["yes", "yes", "yes"]),
    ],
)
def test_real_sets(real_data: Path, folder: str, valid: str, verdicts: list[str]) -> None:
    names = [name for name in pq.read_schema(real_data / folder / "item_feature.parquet").names if "_emb_" in name]
    params = {
        "train_data": str(real_data / folder / "train.parquet"),
        "valid_data": str(real_data / folder / f"{valid}.parquet"),
        "item_feature": str(real_data / folder / "item_feature.parquet"),
        "group_id": "user_id",
        "feature_cols": [
            {"name": "user_id", "type": "meta"},
            {"name": "item_id", "type": "categorical", "source": "item"},
            {"name": "emb", "type": "embedding", "source": "item", "pca": dict.fromkeys(names, 8)},
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    assert [one.verdict for one in inspect_dataset(params, progress=False).worth] == verdicts


def test_a_fold_of_users_is_left_out_of_popularity(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    table = ItemTable(np.arange(1, 81))
    training = TrainingSplit(Path(params["train_data"]), DatasetSchema.from_params(params), table.index_of, 80)
    rows = pq.read_table(params["train_data"]).to_pandas()
    rows = rows[fold_of(rows["user_id"].to_numpy()) != 2]
    clicks = {(user, item) for user, items in zip(rows["user_id"], rows["item_seq"]) for item in items}
    clicks |= {(user, item) for user, item, label in zip(rows["user_id"], rows["item_id"], rows["label"]) if label}
    expected = np.bincount([item for _, item in clicks], minlength=81)
    assert training.users_per_item_without(2).tolist() == expected.tolist()
