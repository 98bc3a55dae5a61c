"""Every shipped experiment, and FuxiCTR's own models, trained for two steps on tiny data of its layout and scored."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fuxictr_mm.compat import host_model_names
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.config.yaml_files import load_dataset
from fuxictr_mm.demo.generator import DemoSettings, generate_demo
from fuxictr_mm.features.derive.derivation import derivations_of
from fuxictr_mm.models.registry import register
from fuxictr_mm.run import Experiment, Trained, run_experiment
from fuxictr_mm.serve.prediction import predict_file
from tests import REPOSITORY
from tests.conftest import REAL_DATA_VARIABLE

ITEMS, ROWS = 60, 160
CONFIGS = sorted((REPOSITORY / "model_zoo").glob("*/config/model_config.yaml"))
EXPIDS = [expid for file in CONFIGS for expid in yaml.safe_load(file.read_text()) if expid != "Base"]
HOST_MODELS: dict[str, dict[str, Any]] = {
    "DIN": {}, "TransAct": {}, "DCNv2": {"parallel_dnn_hidden_units": [8]}, "FinalMLP": {}, "DIEN": {},
}  # fmt: skip
FILES = ("train_data", "valid_data", "test_data", "item_info", "item_feature")


def write_layout(dataset: dict[str, Any]) -> None:
    """Files with the columns, modalities and vocabularies that a dataset's YAML names, where it says they are."""
    schema, rng = DatasetSchema.from_params(dataset), np.random.default_rng(1)
    ids = np.arange(1, ITEMS + 1)
    items: dict[str, Any] = {schema.item_col: ids}
    for column in schema.item_columns:
        for name in (name for one in derivations_of(column) for name in one.modalities):
            items[name] = rng.normal(size=(ITEMS, 6)).astype(np.float32).tolist()
        if column.type == "sequence":
            items[column.name] = rng.integers(0, column.vocab_size, (ITEMS, column.max_len)).tolist()
    Path(dataset["item_info"]).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(items), dataset["item_info"])
    for split in FILES[:3]:
        rows: dict[str, Any] = {
            schema.group_id: np.arange(ROWS) // 4,
            schema.history_col: [rng.choice(ids, n).tolist() for n in rng.integers(0, 9, ROWS)],
            schema.item_col: rng.choice(ids, ROWS),
            schema.label_col: (np.arange(ROWS) % 4 == 0).astype(int),
        }
        for column in schema.context_columns:
            rows[column.name] = rng.integers(1, column.vocab_size, ROWS)
        pq.write_table(pa.table(rows), dataset[split])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets; item columns are stored here too, so that experiments share them."""
    register(import_module("model_zoo"))
    folder = tmp_path_factory.mktemp("shipped")
    sizes = {"items": 300, "rows": 2 * ROWS, "valid_rows": ROWS, "test_rows": ROWS, "text_width": 6, "image_width": 6}
    generate_demo(folder / "demo", DemoSettings(**sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(REAL_DATA_VARIABLE, str(folder))
        for dataset_id in ("LFM2k", "LFM2k_cold"):
            write_layout(load_dataset(dataset_id))
    return folder


def tiny(column: dict[str, Any]) -> dict[str, Any]:
    """The column with a width that tiny data give; its other keys are those of the YAML."""
    small: dict[str, Any] = {"embedding_dim": 4, "pca": {}, "clicks": 3}
    small["pca"] = {entry: width and 3 for entry, width in (column.get("pca") or {}).items()}
    return {key: small.get(key, value) for key, value in column.items()}


def shrunk(experiment: Experiment, folder: Path, **changes: Any) -> Experiment:
    """Two steps of one epoch, with small layers, on the tiny files."""
    params = {"model_root": str(folder / "checkpoints"), "data_root": str(folder / "data"), "gpu": -1, "verbose": 0}
    params |= {"epochs": 1, "batch_size": ROWS, "embedding_dim": 4, "eval_steps": None, **changes}
    params |= {key: [8] for key in experiment.params if key.endswith("hidden_units")}
    params |= {"dim_feedforward": 8} if "dim_feedforward" in experiment.params else {}
    params["feature_cols"] = [tiny(column) for column in experiment["feature_cols"]]
    if experiment.dataset_id.startswith("M"):  # the generated files have the names and the layout of the challenge's
        params |= {key: str(folder / "demo" / Path(experiment[key]).name) for key in FILES}
    else:
        params["batch_size"] = ROWS // 2
    return experiment.but(**params)


def trains_and_scores(experiment: Experiment, folder: Path) -> None:
    result = run_experiment(experiment)
    assert 0 <= result.test["AUC"] <= 1 and all(np.isfinite(value) for value in result.valid.values())
    scores = folder / "scores.parquet"
    found = predict_file(Trained.open(experiment), experiment["test_data"], scores, metrics=["AUC"])
    assert found.rows == ROWS and found.metrics["AUC"] == pytest.approx(result.test["AUC"], abs=1e-6)


@pytest.mark.parametrize("expid", EXPIDS)
def test_a_shipped_experiment(expid: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REAL_DATA_VARIABLE, str(folder))
    if expid.startswith(("DIN_demo", "DIN_LFM2k", "TransAct")) and not host_model_names():
        pytest.skip("this fuxictr carries no models")
    trains_and_scores(shrunk(Experiment.load(expid), folder), folder)


@pytest.mark.parametrize("model", HOST_MODELS)
def test_a_model_of_fuxictr_where_vectors_are_compared(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REAL_DATA_VARIABLE, str(folder))
    if model not in host_model_names():
        pytest.skip(f"this fuxictr carries no {model}")
    config = folder / model
    config.mkdir()
    base = yaml.safe_load(CONFIGS[-1].read_text())["Base"]
    host = {"model": model, "dataset_id": "LFM2k", "epochs": 1, "batch_size": ROWS, "max_len": 9, **HOST_MODELS[model]}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"Base": base, model: host}))
    experiment = shrunk(Experiment.load(model, config), folder)
    compared = [column for column in experiment["feature_cols"] if column["type"] == "meta"]
    assert len(compared) == 4  # the user, and three columns that are compared only
    trains_and_scores(experiment, folder)
