"""Metrics by how often an item was clicked in training, against a loop over rows; and what is pointed out."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import build_dataset
from sklearn.metrics import log_loss, roc_auc_score

import fuxictr_mm
from fuxictr_mm.batch import ItemColumns
from fuxictr_mm.run.evaluation import Evaluation, evaluate_split, unknown_targets
from fuxictr_mm.run.results import Result
from fuxictr_mm.run.warnings import (
    attention_warning,
    cold_warning,
    gap_warning,
    logloss_warning,
    norm_warning,
    unknown_warning,
)
from tests.synthetic import RUN_PARAMS, write_cluster_dataset

METRICS = ["AUC", "logloss", "gAUC"]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluation")
    params = {**RUN_PARAMS, **write_cluster_dataset(folder, rows=300), "dataset_id": "clusters", "model_id": "mine"}
    for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
        params[key] = str(folder / params[key])
    params |= {"model_root": str(folder), "gpu": -1, "dnn_hidden_units": [8]}
    processor = fuxictr_mm.MultimodalFeatureProcessor(**params)
    build_dataset(processor, **params)
    feature_map = FeatureMap("clusters", processor.data_dir)
    feature_map.load(processor.json_file, params)
    return {**params, "feature_map": feature_map}


def loader(params: dict[str, Any], split: str, **changes: Any) -> fuxictr_mm.MMCTRDataLoader:
    shuffle = split == "train"
    return fuxictr_mm.MMCTRDataLoader(
        params["feature_map"], params[f"{split}_data"], batch_size=32, split=split, shuffle=shuffle, **changes
    )


def model_of(params: dict[str, Any]) -> Any:
    torch.manual_seed(2)
    return fuxictr_mm.models.DIN_SE_MHTA(**params)


@pytest.mark.parametrize("stream", [False, True])
def test_users_who_clicked_an_item_against_a_loop(params: dict[str, Any], stream: bool) -> None:
    users: dict[int, set[int]] = {item: set() for item in range(41)}
    for row in pq.read_table(params["train_data"]).to_pylist():
        for item in [*row["item_seq"], *([row["item_id"]] if row["label"] else [])]:
            users[item].add(row["user_id"])
    expected = [0, *(len(users[item]) for item in range(1, 41))]
    assert max(expected) > 5
    assert loader(params, "train", stream=stream).training.users_per_item.tolist() == expected


def test_targets_without_a_vector_against_a_loop(params: dict[str, Any]) -> None:
    model = fuxictr_mm.models.DIN_SE_MHTA(**{**params, "similarity": ["item_emb"]})
    test = loader(params, "test", similarity=["item_emb"])
    rows = pq.read_table(params["test_data"]).to_pylist()
    without = {row["item_id"] for row in rows[:5]}
    labels = [[row["label"] for row in rows if (row["item_id"] in without) == missing] for missing in (True, False)]
    everywhere = {"rows": 0, "label_share": None, "known_label_share": pytest.approx(np.mean([*labels[0], *labels[1]]))}
    assert unknown_targets(model, test) == dict.fromkeys(("item_emb.text", "item_emb.image"), everywhere)
    columns = {name: values.clone() for name, values in test.columns.on(torch.device("cpu")).items()}
    columns["item_emb"][list(without), :4] = 0  # ids are rows of the table here
    test.columns = ItemColumns(columns)
    found = unknown_targets(model, test)
    assert found["item_emb.image"] == everywhere
    assert found["item_emb.text"] == {
        "rows": len(labels[0]),
        "label_share": pytest.approx(np.mean(labels[0])),
        "known_label_share": pytest.approx(np.mean(labels[1])),
    }
    assert unknown_targets(model_of(params), test) == {}


def test_a_missing_vector_that_tells_another_label_than_in_training_is_pointed_out() -> None:
    def of(rows: int, share: float | None) -> dict[str, dict[str, Any]]:
        return {"peers": {"rows": rows, "label_share": share, "known_label_share": 0.2}}

    assert unknown_warning({}) is None
    assert unknown_warning({"train": of(900, 0.3), "test": of(900, 0.35)}) is None
    assert unknown_warning({"train": of(9, 0.3), "test": of(9, 0.5)}) is None  # may be chance
    assert unknown_warning({"train": of(900, 0.3), "test": of(0, None)}) is None
    found = str(unknown_warning({"train": of(900, 0.31), "valid": of(900, 0.3), "test": of(700, 0.81)}))
    assert "without a vector in peers, 31 % are clicked in train and 81 % in test (700 rows)" in found


@pytest.mark.parametrize("stream", [False, True])
def test_metrics_by_frequency_against_a_loop(params: dict[str, Any], stream: bool) -> None:
    clicks = np.zeros(41, int)
    clicks[1:11], clicks[11:21], clicks[21:] = 0, [1, 2, 3, 4, 4, 5, 5, 6, 6, 9], 7
    model, test = model_of(params), loader(params, "test", stream=stream)
    found = evaluate_split(model, test, METRICS, clicks)
    assert found.overall == dict(model.evaluate(test, METRICS))
    rows, scores = pq.read_table(params["test_data"]).to_pylist(), model.predict(test)
    for name, items in {"cold": range(1, 11), "rare": range(11, 16), "warm": range(16, 41)}.items():
        at = [number for number, row in enumerate(rows) if row["item_id"] in items]
        auc = roc_auc_score([rows[number]["label"] for number in at], scores[at])
        assert found.by_frequency[name]["AUC"] == pytest.approx(auc)
        assert found.by_frequency[name]["rows"] == len(at)
        assert found.by_frequency[name]["items"] == len({rows[number]["item_id"] for number in at})
        assert set(found.by_frequency[name]) == {"items", "rows", *METRICS}


def test_a_group_without_rows_is_left_out_and_one_class_has_no_auc(params: dict[str, Any]) -> None:
    rows = pq.read_table(params["test_data"]).to_pylist()
    never = next(i for i in range(1, 41) if {r["label"] for r in rows if r["item_id"] == i} in ({0}, {1}))
    clicks = np.full(41, 9)
    clicks[never] = 0
    found = evaluate_split(model_of(params), loader(params, "test"), METRICS, clicks)
    assert list(found.by_frequency) == ["cold", "warm"]
    cold = found.by_frequency["cold"]
    assert cold["AUC"] is None and cold["items"] == 1
    assert cold["logloss"] is not None and np.isfinite(cold["logloss"])
    metrics = {"AUC": 0.7, "logloss": 0.5, "gAUC": 0.6}
    result = Result("x", "d", metrics, metrics, {}, 1, 1.0, Path("x.model"), "c", {"test": found.by_frequency})
    line = next(line for line in result.to_table().splitlines() if "cold" in line)
    assert line.split()[:3] == ["cold", "-", f"{cold['logloss']:.4f}"] and line.endswith("1 items")


def test_the_standard_error_is_that_of_resampled_rows(params: dict[str, Any]) -> None:
    found = evaluate_split(model_of(params), loader(params, "test"), METRICS, np.zeros(41, int))
    labels = np.array([row["label"] for row in pq.read_table(params["test_data"]).to_pylist()])
    scores = model_of(params).predict(loader(params, "test"))
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(labels), len(labels)) for _ in range(400)]
    spread = np.std([roc_auc_score(labels[rows], scores[rows]) for rows in drawn])
    assert found.auc_error == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize(
    ("valid", "test", "says"),
    [
        (0.80, 0.75, "test AUC 0.7500 is 0.0500 below valid AUC 0.8000, 35 standard errors"),
        (0.75, 0.80, "test AUC 0.8000 is 0.0500 above"),
        (0.800, 0.795, None),
        (0.80, float("nan"), None),
    ],
)
def test_a_gap_between_the_splits_is_pointed_out(valid: float, test: float, says: str | None) -> None:
    sentence = gap_warning(Evaluation({"AUC": valid}, {}, 0.001, 0.7), Evaluation({"AUC": test}, {}, 0.001, 0.7))
    assert sentence is None if says is None else says in str(sentence)


def test_probabilities_that_are_worse_than_a_constant_are_pointed_out(params: dict[str, Any]) -> None:
    found = evaluate_split(model_of(params), loader(params, "test"), ["AUC", "logloss"], np.zeros(10_000, int))
    labels = np.concatenate([batch[0]["label"] for batch in loader(params, "test")])
    share = labels.mean()
    assert found.constant_logloss == pytest.approx(log_loss(labels, np.full(len(labels), share)), abs=1e-6)
    for logloss, says in ((0.71, "test logloss 0.7100 is worse than 0.6900, that of a constant"), (0.68, None)):
        sentence = logloss_warning({"test": Evaluation({"logloss": logloss}, {}, 0.01, 0.69)})
        assert sentence is None if says is None else says in str(sentence)
    assert logloss_warning({"test": Evaluation({"AUC": 0.8}, {}, 0.01, 0.69)}) is None


def test_a_gap_within_chance_is_not(params: dict[str, Any]) -> None:
    assert gap_warning(Evaluation({"AUC": 0.8}, {}, 0.02, 0.7), Evaluation({"AUC": 0.75}, {}, 0.02, 0.7)) is None


def test_collapsed_vectors_are_pointed_out(params: dict[str, Any]) -> None:
    model, valid = model_of(params), loader(params, "valid")
    assert norm_warning(model, valid) is None
    encoder = model.embedding_layer.embedding_layer.feature_encoders["item_emb"]
    with torch.no_grad():
        model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight.fill_(1.0)
        encoder.weight.mul_(1e-4)
    assert "the vectors of item_emb have collapsed: norm" in str(norm_warning(model, valid))
    assert "of item_id" in str(norm_warning(model, valid))
    with torch.no_grad():  # small beside the others is what counts
        for parameter in model.embedding_layer.parameters():
            parameter.mul_(1e-3 if parameter is encoder.weight else 1e-6)
    assert norm_warning(model, valid) is None
    assert norm_warning(torch.nn.Linear(1, 1), valid) is None


def test_own_clicks_without_training_for_cold_items_are_pointed_out(params: dict[str, Any]) -> None:
    model, overall = model_of(params), {"AUC": 0.7}
    cold = {
        "test": Evaluation(overall, {"cold": {"items": 3, "rows": 1200, "AUC": 0.6}, "warm": {"rows": 9}}, 0.01, 0.7)
    }
    assert cold_warning(model, cold) is None  # no own clicks
    model.vectors.own_clicks = ["item_peers"]
    assert "own clicks (item_peers), and 1,200 rows of test ask for items that nobody" in str(cold_warning(model, cold))
    both = {"valid": cold["test"], **cold}
    assert "1,200 rows of valid and 1,200 rows of test ask" in str(cold_warning(model, both))
    warm = {"test": Evaluation(overall, {"warm": {"items": 3, "rows": 9, "AUC": 0.6}}, 0.01, 0.7)}
    assert cold_warning(model, warm) is None
    assert cold_warning(torch.nn.Linear(1, 1), cold) is None
    model.embedding_layer.id_dropout = 0.1
    assert cold_warning(model, cold) is None


def test_uniform_attention_is_pointed_out(params: dict[str, Any]) -> None:
    model, valid = model_of(params), loader(params, "valid")
    model.attention_layer.W_q.weight.data.mul_(1e4)
    assert attention_warning(model, valid) is None
    model.attention_layer.W_q.weight.data.zero_()
    assert "within 1 % of that of equal shares" in str(attention_warning(model, valid))
    assert attention_warning(torch.nn.Linear(1, 1), valid) is None


def test_norms_leave_padding_out(params: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(params)
    batch = next(iter(loader(params, "valid")))
    norms = model.embedding_layer.field_norms(batch)
    ids = torch.cat([batch.item_ids[:, :-1][batch.is_real_BL], batch.item_ids[:, -1]]).unique()
    weight = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    assert norms["item_id"] == pytest.approx(weight[ids].square().sum(1).mean().sqrt().item())
