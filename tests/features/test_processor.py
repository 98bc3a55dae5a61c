"""The processor through FuxiCTR's own build_dataset, its feature map, and an export that a host model trains on."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset

from fuxictr_mm.data.loader import named_item_table
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.folds import FOLDS, PAIRS
from fuxictr_mm.features.processor import MultimodalFeatureProcessor

N = 40


def item(name, kind, **options):
    return {"name": name, "active": True, "dtype": "int", "type": kind, "source": "item", **options}


def context(name, **options):
    return {"name": name, "active": True, "dtype": "int", "type": "categorical", **options}


EMBEDDING = item("emb", "embedding", embedding_dim=7, pca={"txt": 4, "img": 0.9}) | {"dtype": "float"}
COLUMNS = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": ["likes_level", "views_level"], "active": True, "dtype": "int", "type": "categorical", "vocab_size": 11},
    item("item_id", "categorical"),
    item("item_tags", "sequence", max_len=3, vocab_size=20, feature_encoder="layers.MaskedAveragePooling()"),
    EMBEDDING,
]


def write_files(folder):
    rng = np.random.default_rng(2)
    items = {
        "item_id": np.arange(N, 0, -1) * 3,
        "item_tags": rng.integers(0, 20, size=(N, 3)).tolist(),
        "txt": rng.normal(size=(N, 6)).astype(np.float32).tolist(),
        "img": (rng.normal(size=(N, 9)) * 30).astype(np.float32).tolist(),
    }
    pq.write_table(pa.table(items), folder / "item_feature.parquet")


@pytest.fixture
def params(tmp_path):
    write_files(tmp_path)
    return params_of(tmp_path)


def params_of(folder, feature_cols=COLUMNS, **changes):
    return {
        "dataset_id": "Tiny",
        "data_root": str(folder / "data"),
        "train_data": "train.parquet",
        "valid_data": "valid.parquet",
        "test_data": None,
        "item_feature": str(folder / "item_feature.parquet"),
        "rebuild_dataset": False,
        "group_id": "user_id",
        "min_categr_count": 1,
        "feature_cols": feature_cols,
        "label_col": {"name": "label", "dtype": "float"},
        **changes,
    }


def fit(params):
    processor = MultimodalFeatureProcessor(**params)
    splits = build_dataset(processor, **params)
    assert splits == (params["train_data"], params["valid_data"], params["test_data"])
    return processor


def test_click_vectors_say_how_they_are_compared(params, tmp_path):
    rng = np.random.default_rng(0)
    histories = [(rng.choice(N, 8, replace=False) * 3 + 3).tolist() for _ in range(60)]
    train = {"user_id": list(range(60)), "item_seq": histories, "item_id": [3] * 60, "label": [1] * 60}
    pq.write_table(pa.table(train), tmp_path / "train.parquet")
    expected = item("expected", "meta", pca={"txt": 4}, clicks=3) | {"dtype": "float"}
    own = item("own", "meta", clicks=3) | {"dtype": "float"}
    params |= {"feature_cols": [*COLUMNS, expected, own], "train_data": str(tmp_path / "train.parquet")}
    params |= {"similarity": ["expected", "own"]}
    features = load_feature_map(fit(params), params).features
    found = {
        name: [features[name].get(key) for key in ("click_vectors", "click_width")] for name in ("expected", "own")
    }
    assert found == {"expected": ["expected", 3], "own": ["own", 3]}
    assert features["expected"]["modalities"] == [["expected", (1 + FOLDS) * 6]]
    assert features["expected"]["pretrain_dim"] == (1 + FOLDS) * 6
    assert features["own"]["modalities"] == [["own", (1 + len(PAIRS)) * 3]]
    assert "click_vectors" not in features["emb"]


def load_feature_map(processor, params):
    """As an existing script does it."""
    feature_map = FeatureMap(params["dataset_id"], processor.data_dir)
    feature_map.load(processor.json_file, {**params, "embedding_dim": 8})
    return feature_map


RAW = item("raw", "meta", pca={"txt": None, "img": None}) | {"dtype": "float"}
FIELDS = ["likes_level", "views_level", "item_id", "item_tags", "emb"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["user_id", *FIELDS]),
        ({"similarity": []}, ["user_id", *FIELDS]),
        ({"similarity": ["raw"]}, ["user_id", *FIELDS, "raw"]),
        ({"similarity": ["emb"]}, ["user_id", *FIELDS]),
        ({"use_features": ["item_id", "likes_level"]}, ["user_id", "likes_level", "item_id"]),
        ({"use_features": ["item_id", "raw"]}, ["user_id", "item_id"]),
        ({"use_features": ["item_id", "raw"], "similarity": ["raw"]}, ["user_id", "item_id", "raw"]),
        ({"use_features": ["item_id"], "group_id": None}, ["item_id"]),
    ],
)
def test_the_feature_map_holds_what_the_experiment_reads(params, choice, expected):
    params |= {"feature_cols": [*COLUMNS, RAW], **choice}
    assert list(fit(params).feature_map.features) == expected


def test_through_build_dataset(params):
    processor = fit(params)
    feature_map = load_feature_map(processor, params)
    features = feature_map.features
    assert list(features) == ["user_id", "likes_level", "views_level", "item_id", "item_tags", "emb"]
    assert features["item_id"]["vocab_size"] == N + 1
    assert (features["item_tags"]["vocab_size"], features["item_tags"]["max_len"]) == (20, 3)
    assert features["item_tags"]["feature_encoder"] == "layers.MaskedAveragePooling()"
    width = processor.item_table.columns["emb"].shape[1]
    assert features["emb"]["pretrain_dim"] == width and features["emb"]["embedding_dim"] == 7
    assert "feature_encoder" not in features["emb"]
    # Only the host's own loaders read the width of a stored row; 2.3.7 counts a vector as one column.
    assert feature_map.input_length in (4 + 3 + width, 4 + 3 + 1) and feature_map.labels == ["label"]
    ids = {name: spec.get("item_ids") for name, spec in features.items()}
    files = {name: spec.get("item_column") for name, spec in features.items()}
    assert {ids[name] for name in ("item_id", "item_tags", "emb")} == {processor.item_table.path.name}
    assert ids["user_id"] is ids["likes_level"] is files["user_id"] is files["likes_level"] is files["item_id"] is None
    table = named_item_table(feature_map)
    assert np.array_equal(table.columns["emb"], processor.item_table.columns["emb"])
    assert table.item_ids.tolist() == list(range(3, 3 * N + 1, 3))
    assert sorted(name for name in os.listdir(processor.data_dir) if not name.endswith(".lock")) == sorted(
        ["feature_map.json", ids["emb"], files["item_tags"], files["emb"]]
    )
    assert processor.schema.item_col == "item_id"


def test_vectors_that_are_compared_only_are_no_fields(params):
    params |= {"feature_cols": [*COLUMNS, RAW], "similarity": ["raw"]}
    processor = fit(params)
    feature_map = load_feature_map(processor, params)
    spec = feature_map.features["raw"]
    assert (spec["type"], spec["source"], spec["pretrain_dim"]) == ("meta", "item", 15)
    assert spec["modalities"] == [["txt", 6], ["img", 9]]
    width = processor.item_table.columns["emb"].shape[1]
    assert feature_map.features["emb"]["modalities"] == [["txt", 4], ["img", width - 4]]
    norms = np.linalg.norm(processor.item_table.columns["raw"][1:, :6], axis=1)
    assert np.sqrt(np.square(norms).mean()) == pytest.approx(1.0, rel=1e-5)
    assert feature_map.num_fields == len(feature_map.features) - 2  # the host counts neither user_id nor raw


def test_vectors_that_are_trained_say_so_and_keep_their_table(params):
    frozen = fit(params)
    params["feature_cols"] = [c | {"freeze_emb": False} if c["name"] == "emb" else c for c in params["feature_cols"]]
    processor = fit(params)
    assert processor.item_table.stored["emb"].path == frozen.item_table.stored["emb"].path
    assert "freeze_emb" not in frozen.feature_map.features["emb"]
    spec = load_feature_map(processor, params).features["emb"]
    assert (spec["freeze_emb"], spec["vocab_size"]) == (False, N + 1)


def test_the_callers_params_stay_as_they_are_and_fit_may_run_twice(params):
    before = json.dumps(params)
    processor = fit(params)
    first = Path(processor.json_file).read_text()
    processor.fit(None, rebuild_dataset=False)
    assert json.dumps(params) == before and Path(processor.json_file).read_text() == first


@pytest.mark.parametrize("vocab_size", [2, 3, 11, 500])
def test_vocab_sizes_are_those_asked_for(params, tmp_path, vocab_size):
    columns = [
        context("a", vocab_size=vocab_size),
        context("b", vocab_size=vocab_size + 1, share_embedding="a"),
        context("c", vocab_size=vocab_size),
        item("item_id", "categorical", vocab_size=N + vocab_size),
        item("item_tags", "sequence", vocab_size=20 + vocab_size),
        item("short", "sequence", max_len=3, vocab_size=20, share_embedding="item_tags"),
    ]
    rows = pq.read_table(params["item_feature"])
    pq.write_table(rows.append_column("short", rows["item_tags"]), params["item_feature"])
    features = fit(params_of(tmp_path, columns)).feature_map.features
    sizes = {name: spec["vocab_size"] for name, spec in features.items()}
    # Columns that share an embedding share the larger vocabulary.
    assert sizes == {
        "a": vocab_size + 1,
        "b": vocab_size + 1,
        "c": vocab_size,
        "item_id": N + vocab_size,
        "item_tags": 20 + vocab_size,
        "short": 20 + vocab_size,
    }
    assert features["item_tags"]["max_len"] == features["short"]["max_len"] == 3
    assert features["b"]["share_embedding"] == "a"


def test_item_columns_may_leave_their_vocabulary_to_the_data(params, tmp_path):
    features = fit(params_of(tmp_path, [item("item_id", "categorical"), item("item_tags", "sequence")])).feature_map
    tags = pq.read_table(params["item_feature"])["item_tags"].to_pylist()
    assert features.features["item_tags"]["vocab_size"] == np.max(tags) + 1
    assert features.total_features == N + 1 + np.max(tags) + 1


def test_inactive_columns_are_left_alone(params, tmp_path):
    idle = [{"name": "x", "active": False, "dtype": "int", "type": "categorical", "preprocess": "no"}]
    without_key = [{key: value for key, value in column.items() if key != "active"} for column in COLUMNS]
    features = fit(params_of(tmp_path, without_key + idle)).feature_map.features
    assert "x" not in features and len(features) == 6


ITEM_ID = item("item_id", "categorical")
REFUSALS = {
    "rebuild": (dict(rebuild_dataset=True), ConfigError, "rebuild_dataset: True .* set 'rebuild_dataset: False'"),
    "no vocabulary": (
        dict(feature_cols=[context("likes_level"), ITEM_ID]),
        ConfigError,
        "column 'likes_level': vocab_size=None must be a whole number >= 2: the largest id plus 1",
    ),
    "vocabulary of 1": (
        dict(feature_cols=[context("likes_level", vocab_size=1), ITEM_ID]),
        ConfigError,
        "column 'likes_level': vocab_size: found 1; at least 2",
    ),
    "no room for items": (
        dict(feature_cols=[ITEM_ID | {"vocab_size": N}]),
        DataError,
        "vocab_size=40 but there are 40 items and a padding id",
    ),
    "no dtype": (
        dict(feature_cols=[{"name": "item_id", "type": "categorical", "source": "item"}]),
        ConfigError,
        "column 'item_id': dtype: found None; one of 'int', 'float' or 'str' is expected",
    ),
    "preprocess": (
        dict(feature_cols=[ITEM_ID, context("x", vocab_size=3, preprocess="copy")]),
        ConfigError,
        "column 'x': 'preprocess' needs the data files to be rewritten",
    ),
    "vectors trained elsewhere": (
        dict(feature_cols=[ITEM_ID | {"freeze_emb": False}]),
        ConfigError,
        "column 'item_id': freeze_emb belongs to a column of 'type: embedding'; found 'type: categorical'",
    ),
    "trained or not": (
        dict(feature_cols=[ITEM_ID, item("emb", "embedding", pca={"txt": 4}, freeze_emb="no")]),
        ConfigError,
        "column 'emb': freeze_emb: found 'no'; True or False is expected",
    ),
    "sharing": (
        dict(feature_cols=[context("x", vocab_size=3, share_embedding="item_id"), ITEM_ID]),
        ConfigError,
        r"column 'x': share_embedding='item_id' names no id column before it; found \[\]",
    ),
    "no item column": (dict(feature_cols=[context("x", vocab_size=3)]), ConfigError, "no active column has 'source"),
    "no item is read": (dict(use_features=["likes_level"]), ConfigError, "use_features=.*: none of them is an"),
    "no item file": (dict(item_feature=None), ConfigError, "neither 'item_info' nor 'item_feature' is given"),
    "absent item file": (dict(item_feature="absent.parquet"), DataError, "absent.parquet: file not found"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(params, case):
    changes, error, sentence = REFUSALS[case]
    with pytest.raises(error, match=sentence):
        fit({**params, **changes})
    assert not os.path.exists(os.path.join(params["data_root"], "Tiny", "feature_map.json"))


def test_rebuild_is_refused_where_it_is_only_the_hosts_default(params):
    del params["rebuild_dataset"]
    with pytest.raises(ConfigError, match="set 'rebuild_dataset: False'"):
        MultimodalFeatureProcessor(**params)


def fit_many_times(params, barrier, failures):
    barrier.wait()
    for _ in range(10):
        processor = fit(params)
        try:
            load_feature_map(processor, params)
        except Exception as err:
            failures.put(repr(err))


def test_parallel_runs_share_a_dataset_folder(params):
    spawn = multiprocessing.get_context("spawn")
    barrier, failures = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=fit_many_times, args=(params, barrier, failures)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0] and failures.empty()
    folder = os.path.join(params["data_root"], "Tiny")
    kinds = sorted(name.rpartition(".")[2] for name in os.listdir(folder))
    assert kinds == ["json", "lock", "lock", "safetensors", "safetensors", "safetensors"]


def test_a_host_model_trains_on_the_export(params, tmp_path):
    import torch
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class Plain(BaseModel):
        def __init__(self, feature_map, **kwargs):
            super().__init__(feature_map, "Plain", gpu=-1, **kwargs)
            self.embedding_layer = FeatureEmbedding(feature_map, 8)
            self.mlp = MLP_Block(16, hidden_units=[16], output_dim=1, output_activation=self.output_activation)
            self.compile("adam", "binary_crossentropy", 0.05)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            return {"y_pred": self.mlp(self.embedding_layer(self.get_inputs(inputs), flatten_emb=True))}

    table = fit(params).item_table
    export = str(tmp_path / "emb.h5")
    table.export("emb", export)
    width = table.columns["emb"].shape[1]
    # The label is the sign of one coordinate: to be learned from the vectors alone.
    labels = (table.columns["emb"][1:, 0] > 0).astype(np.float32)
    rows = {"item_id": table.item_ids.astype(str), "likes_level": np.ones(N, int), "label": labels}
    train = tmp_path / "train.parquet"
    pq.write_table(pa.table({name: values[: N // 2] for name, values in rows.items()}), train)
    # Text ids: with dtype int the host cannot write the vocabulary once the export has items that train lacks.
    column = item("item_id", "categorical", pretrained_emb=export, pretrain_dim=width) | {"dtype": "str"}
    # A second id column, because the host's PretrainedEmbedding fails on a vocabulary file with only one.
    host_params = {"feature_cols": [column, context("likes_level")], "label_col": {"name": "label", "dtype": "float"}}
    host_params |= {"dataset_id": "Host", "data_root": str(tmp_path), "embedding_dim": 8}
    # The host's own processor, as build_dataset calls it; only Ray, which would run transform, is left out.
    processor = FeatureProcessor(**host_params)
    processor.fit(processor.preprocess(processor.read_data(str(train), data_format="parquet")))
    feature_map = load_feature_map(processor, host_params)
    transformed = processor.transform(pd.DataFrame(rows))
    batch = {name: torch.as_tensor(np.array(values)) for name, values in transformed.items()}
    model = Plain(feature_map, model_root=str(tmp_path), metrics=["AUC"], verbose=0)
    weight = model.embedding_layer.embedding_layer.embedding_layers["item_id"].pretrain_embedding.weight
    # Items that train lacks have their vector, too.
    assert torch.equal(weight[batch["item_id"]], torch.from_numpy(np.array(table.columns["emb"][1:])))
    assert not weight.requires_grad
    model._max_gradient_norm = 10.0
    model.train()
    losses = [model.train_step(batch).item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    predicted = model.forward(batch)["y_pred"].ravel() > 0.5
    assert (predicted == (batch["label"] > 0.5)).float().mean() > 0.9
