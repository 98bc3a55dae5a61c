"""Numbers that are scaled and vectors that are zero, from the YAML through training to prediction and ranking."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.run import Experiment, Trained, resolve_experiment, run_experiment
from fuxictr_mm.serve.prediction import predict_file
from fuxictr_mm.serve.ranking import Ranker
from tests.synthetic import RUN_PARAMS, write_cluster_dataset

NUMERIC = {"active": True, "dtype": "float", "type": "numeric"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path, rows=300)
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        table = pq.read_table(tmp_path / f"{split}.parquet")
        table = table.append_column("price", pa.array(rng.normal(5000, 2000, len(table))))
        pq.write_table(table.append_column("year", pa.array([2020] * len(table))), tmp_path / f"{split}.parquet")
    items = pq.read_table(tmp_path / "items.parquet")
    items = items.append_column("weight", pa.array(rng.normal(300, 200, len(items))))
    pq.write_table(items, tmp_path / "items.parquet")
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    model = {"model": "DIN_SE_MHTA", "dnn_hidden_units": [16], "net_dropout": 0.0, "dataset_id": "clusters"}
    base = {**RUN_PARAMS, "model_root": "checkpoints", "seed": 1, "epochs": 1}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": base, "din": model}))
    return tmp_path


def load(config: Path, normalizer: str | None = None, **changes: Any) -> Experiment:
    scaled = {} if normalizer is None else {"normalizer": normalizer}
    experiment = resolve_experiment("din", config)
    numbers = [{"name": "price", **NUMERIC, **scaled}, {"name": "year", **NUMERIC, **scaled}]
    numbers.append({"name": "weight", "source": "item", **NUMERIC, **scaled})
    columns = [{**c, **changes} if c["name"] == "item_emb" else c for c in experiment["feature_cols"]]
    return experiment.but(feature_cols=[*columns, *numbers])


@pytest.mark.parametrize("normalizer", ["StandardScaler", "MinMaxScaler"])
def test_numbers_are_scaled_as_in_training_everywhere(normalizer: str, config: Path) -> None:
    experiment = load(config, normalizer)
    result = run_experiment(experiment)
    assert not any("go in as they are" in sentence for sentence in result.warnings)
    trained = Trained.open(experiment)
    spec = trained.feature_map.features
    prices = pq.read_table(config / "train.parquet")["price"].to_numpy()
    expected = (prices.mean(), prices.std()) if normalizer == "StandardScaler" else (prices.min(), np.ptp(prices))
    np.testing.assert_allclose(spec["price"]["scaling"], expected)
    assert spec["year"]["scaling"] == [2020.0, 1.0]  # a constant is moved to 0
    assert spec["weight"]["scaling"][1] > 100
    test = pq.read_table(config / "test.parquet")
    predict_file(trained, config / "test.parquet", config / "scores.parquet")
    scores = pq.read_table(config / "scores.parquet")["score"].to_numpy()
    ranker = Ranker(trained)
    for row in (0, 7):
        one = test.slice(row, 1).to_pylist()[0]
        context = {name: one[name] for name in ("likes_level", "price", "year")}
        np.testing.assert_allclose(
            ranker.score(one["item_seq"], [one["item_id"]], context), scores[row : row + 1], atol=1e-5
        )
    # The scale is that of training: prices of prediction, whatever they are, do not move it.
    shifted = test.set_column(test.schema.get_field_index("price"), "price", pa.array(test["price"].to_numpy() + 1e5))
    pq.write_table(shifted, config / "shifted.parquet")
    predict_file(trained, config / "shifted.parquet", config / "other.parquet")
    assert np.abs(pq.read_table(config / "other.parquet")["score"].to_numpy() - scores).max() > 1e-3


def test_numbers_that_nothing_scales_are_pointed_out(config: Path) -> None:
    warnings = run_experiment(load(config)).warnings
    said = [sentence for sentence in warnings if "go in as they are" in sentence]
    assert [sentence.split(":")[0] for sentence in said] == ["column 'price'", "column 'year'", "column 'weight'"]
    assert "numbers with mean " in said[0] and "set normalizer: StandardScaler in its column." in said[0]


def test_where_a_normalizer_belongs(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"column 'item_emb': normalizer belongs to a column of 'type: numeric'"):
        load(config, normalizer="StandardScaler").but(
            feature_cols=[
                {**c, "normalizer": "MinMaxScaler"} for c in load(config)["feature_cols"] if c["name"] == "item_emb"
            ]
        )
    rows = pq.read_table(config / "train.parquet").to_pandas()
    rows.loc[4, "price"] = np.inf
    rows.to_parquet(config / "train.parquet", index=False)
    with pytest.raises(DataError, match=r"train.parquet: column 'price', row 4 .*found inf; a finite number"):
        run_experiment(load(config, "StandardScaler"))


def with_text(config: Path, vectors: list[Any]) -> None:
    items = pq.read_table(config / "items.parquet")
    at = items.schema.get_field_index("text")
    pq.write_table(items.set_column(at, "text", pa.array(vectors)), config / "items.parquet")


def test_zero_vectors_are_told_or_missing(config: Path) -> None:
    text = pq.read_table(config / "items.parquet")["text"].to_pylist()
    zero = [[0.0] * len(vector) if n % 4 == 0 else vector for n, vector in enumerate(text)]
    count = len(range(0, len(text), 4))
    with_text(config, zero)
    said = f"column 'item_emb': {count} vectors of text are all zero and taken as real"
    assert any(sentence.startswith(said) for sentence in run_experiment(load(config, "StandardScaler")).warnings)
    missing = load(config, "StandardScaler", zero_vectors="missing")
    assert not any("all zero" in sentence for sentence in run_experiment(missing).warnings)
    vectors = Trained.open(missing).table.columns["item_emb"]
    with_text(config, [None if n % 4 == 0 else vector for n, vector in enumerate(text)])
    run_experiment(load(config, "StandardScaler"))
    null = Trained.open(load(config, "StandardScaler")).table.columns["item_emb"]
    np.testing.assert_allclose(vectors, null, atol=1e-6)


def test_a_constant_modality_is_refused(config: Path) -> None:
    text = pq.read_table(config / "items.parquet")["text"].to_pylist()
    with_text(config, [text[0]] * len(text))
    with pytest.raises(DataError, match=r"column 'item_emb', modality 'text': all \d+ vectors to fit on are the same"):
        run_experiment(load(config, "StandardScaler"))
