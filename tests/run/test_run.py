"""The main job from YAML to csv row, on data whose answer is known."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from fuxictr_mm.compat import host_model_names
from fuxictr_mm.config.yaml_files import load_dataset
from fuxictr_mm.demo.generator import DEMOS, DemoSettings, generate_demo
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.run import Experiment, Trained, finished_result, resolve_experiment, run_experiment
from fuxictr_mm.run import run as runner
from fuxictr_mm.serve.prediction import predict_file
from tests import REPOSITORY
from tests.synthetic import RUN_PARAMS, write_cluster_dataset

BASE: dict[str, Any] = {**RUN_PARAMS, "model_root": "checkpoints", "seed": 1, "epochs": 8}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "transformer": {
        "model": "Transformer_DCNv2",
        "dcn_hidden_units": [32, 16],
        "mlp_hidden_units": [16],
        "dim_feedforward": 32,
        "first_k_cols": 2,
        "transformer_layers": 1,
        "transformer_dropout": 0.0,
        "net_dropout": 0.0,
    },
    "din": {
        "model": "DIN_SE_MHTA",
        "dnn_hidden_units": [32, 16],
        "net_dropout": 0.0,
    },
    "transact": {
        "model": "TransAct",
        "dcn_hidden_units": [32, 16],
        "mlp_hidden_units": [16],
        "dim_feedforward": 32,
        "metrics": ["AUC", "logloss"],
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    models = {name: {**experiment, "dataset_id": "clusters"} for name, experiment in EXPERIMENTS.items()}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, **models}))
    return tmp_path


def load(expid: str, config: Path, **changes: Any) -> Experiment:
    return resolve_experiment(expid, config, **changes)


def with_column(experiment: Experiment, name: str, **changes: Any) -> Experiment:
    """The experiment with other keys for one column."""
    columns = [{**column, **changes} if column["name"] == name else column for column in experiment["feature_cols"]]
    return experiment.but(feature_cols=columns)


@pytest.mark.parametrize("expid", EXPERIMENTS)
def test_a_run_learns_the_known_answer_and_leaves_fuxictrs_files(expid: str, config: Path) -> None:
    if EXPERIMENTS[expid]["model"] == "TransAct" and not host_model_names():
        pytest.skip("this fuxictr carries no models")
    params = load(expid, config)
    result = run_experiment(params, csv_file=config / "config.csv")
    # DIN weighs by content and has no positions: "the latest item" is beyond it, "an item of the history" is not.
    assert result.test["AUC"] > (0.7 if expid == "din" else 0.97)
    assert set(result.valid) == set(params["metrics"])
    folder = config / "checkpoints" / "clusters"
    assert result.checkpoint == folder / f"{expid}.model"
    assert {f"{expid}.model", f"{expid}.log", f"{expid}.result.json"} <= {path.name for path in folder.iterdir()}
    row = (config / "config.csv").read_text()
    assert re.match(r" \d{8}-\d{6},\[command\] python .*,\[exp_id\] \w+,\[dataset_id\] clusters,\[train\] N.A.,", row)
    assert f"[test] AUC: {result.test['AUC']:.6f} - logloss: " in row
    assert finished_result(params) == result
    assert finished_result(params.but(seed=2)) is None
    write_cluster_dataset(config, seed=1)
    assert finished_result(params) is None


def test_the_checkpoint_is_the_best_epoch_and_reloads(config: Path) -> None:
    params = load("transformer", config, epochs=3)
    first = run_experiment(params)
    state = torch.load(first.checkpoint, weights_only=True)
    again = run_experiment(params)
    assert again.valid == first.valid and again.test == first.test  # same seed, same machine: the same run
    assert all(
        torch.equal(value, torch.load(again.checkpoint, weights_only=True)[name]) for name, value in state.items()
    )


def test_a_tracker_hears_of_every_evaluation(config: Path) -> None:
    heard: list[dict[str, Any]] = []
    result = run_experiment(load("din", config, epochs=2), on_evaluation=[heard.append])
    assert heard == result.curve and len(heard) == 2


def test_a_subset_of_features(config: Path) -> None:
    params = load("transformer", config, epochs=1, use_features=["likes_level", "item_id"])
    assert run_experiment(params).parameters < run_experiment(load("transformer", config, epochs=1)).parameters


def test_ids_that_start_from_vectors(config: Path) -> None:
    """Trained vectors in the place of id embeddings; the run is restored and the file scored as it was trained."""
    params = load("din", config, epochs=2, alignment="none", use_features=["user_id", "likes_level", "item_emb"])
    params = with_column(params, "item_emb", freeze_emb=False)
    result = run_experiment(params)
    assert result.test["AUC"] > 0.65
    trained = Trained.open(params)
    model = trained.model
    offsets = model.embedding_layer.embedding_layer.offsets["item_emb"].weight
    assert model.item_field_dims == {"item_emb": 7} and offsets[1:].any(1).all() and not offsets[0].any()
    out = config / "scores.parquet"
    report = predict_file(trained, params["test_data"], out, metrics=["AUC"])
    assert report.metrics["AUC"] == pytest.approx(result.test["AUC"], abs=1e-6)


def test_a_model_of_own_clicks_is_warned_of_new_items(config: Path) -> None:
    rows = pq.read_table(config / "train.parquet").to_pandas()
    rows["item_seq"] = [[item for item in history if item != 7] for history in rows["item_seq"]]
    rows[rows["item_id"] != 7].to_parquet(config / "train.parquet", index=False)
    peers = {"name": "peers", "active": True, "dtype": "float", "type": "meta", "source": "item", "clicks": 3}
    said = "similarity compares own clicks (peers), and "
    for id_dropout in (0.0, 0.1):
        params = load("din", config, epochs=1, similarity=["peers"], id_dropout=id_dropout)
        params = params.but(feature_cols=[*params["feature_cols"], peers])
        result = run_experiment(params)
        cold = result.by_frequency["test"]["cold"]
        assert cold["items"] == 1
        assert any(sentence.startswith(said) for sentence in result.warnings) == (id_dropout == 0)
        assert (f"WARNING {said}" in result.checkpoint.with_suffix(".log").read_text()) == (id_dropout == 0)
        assert result.unknown_targets["test"]["peers"]["rows"] == cold["rows"]
        assert result.unknown_targets["train"]["peers"]["known_label_share"] is not None
        assert finished_result(params) == result


@pytest.mark.parametrize("value", [False, True])
def test_a_host_model_cannot_train_vectors(value: bool, config: Path) -> None:
    if not host_model_names():
        pytest.skip("this fuxictr carries no models")
    params = load("transact", config, epochs=1)
    params = with_column(params, "item_emb", freeze_emb=value)
    if value:
        run_experiment(params)
        return
    with pytest.raises(ConfigError, match="column 'item_emb': freeze_emb: False needs a model of fuxictr_mm; TransAct"):
        run_experiment(params)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(config: Path) -> None:
    result = run_experiment(load("din", config, epochs=1, gpu=0))
    assert re.search(r"WARNING --gpu 0: .* finds no CUDA device", result.checkpoint.with_suffix(".log").read_text())


def test_a_test_split_without_labels_gives_no_test_metrics(config: Path) -> None:
    write_cluster_dataset(config, test_labels=False)
    result = run_experiment(load("din", config, epochs=1))
    assert result.test == {} and result.valid["AUC"] > 0
    assert "test" not in result.to_table()


def test_bad_data_in_the_last_split_is_refused_before_training(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pq.read_table(config / "test.parquet")
    bad = table.set_column(table.schema.get_field_index("item_id"), "item_id", [[99] * len(table)])
    pq.write_table(bad, config / "test.parquet")
    monkeypatch.setattr("fuxictr.pytorch.models.BaseModel.fit", lambda *_, **__: pytest.fail("training has begun"))
    with pytest.raises(DataError, match=r"test.parquet: .*item_id.*99"):
        run_experiment(load("din", config))


def test_without_a_valid_split_there_is_no_early_stopping(config: Path) -> None:
    with pytest.raises(ConfigError, match="dataset clusters: early stopping needs 'valid_data'"):
        run_experiment(load("din", config, valid_data=None))


def test_the_challenge_falls_back_on_the_stand_in_visibly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[Path, DemoSettings]] = []
    monkeypatch.setattr(runner, "ensure_demo", lambda *arguments: made.append(arguments) or {})
    monkeypatch.setattr(Path, "exists", lambda path: "MicroLens" not in str(path))
    params = resolve_experiment("Transformer_DCNv2_MMCTR")
    assert (params.dataset_id, params.expid) == ("MMCTR_quick", "Transformer_DCNv2_MMCTR")
    assert params["dcn_hidden_units"] == [128, 64]
    assert made == [(REPOSITORY / "data" / "MMCTR_quick", DEMOS["MMCTR_quick"])]
    visible = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(visible) == 1
    assert "NO CHALLENGE DATA" in visible[0] and "GENERATED stand-in MMCTR_quick" in visible[0]
    with pytest.raises(ConfigError, match=r"--dataset MicroLens_1M_x1: .*train.parquet not found; get the files from"):
        resolve_experiment("Transformer_DCNv2_MMCTR", dataset_id="MicroLens_1M_x1")


@pytest.mark.parametrize("expid", ["Transformer_DCNv2_MMCTR", "DIN_SE_MHTA_MMCTR"])
def test_the_challenges_experiments_fit_the_challenges_files(expid: str, tmp_path: Path) -> None:
    """The shipped YAML on files of the challenge's layout; widths made small, the data has no say in them."""
    generate_demo(tmp_path, DemoSettings(items=300, rows=800, valid_rows=200, test_rows=200))
    dataset = load_dataset("MicroLens_1M_x1")
    files = {key: str(tmp_path / Path(dataset[key]).name) for key in dataset if key.startswith(("train_", "valid_"))}
    files |= {key: str(tmp_path / Path(dataset[key]).name) for key in ("test_data", "item_info", "item_feature")}
    shipped = Experiment.load(expid)
    changes: dict[str, Any] = {**files, "data_root": str(tmp_path), "model_root": str(tmp_path / "out")}
    changes |= {"gpu": -1, "verbose": 0, "epochs": 1, "batch_size": 200, "embedding_dim": 4}
    widths = ("dcn_hidden_units", "dnn_hidden_units", "mlp_hidden_units")
    changes |= {key: [8] for key in widths if key in shipped.params}
    result = run_experiment(shipped.but(**changes))
    assert 0 < result.test["AUC"] < 1
    assert 0.5 < result.best_possible["test"] < 1
    assert "best possible AUC" in result.to_table()


@pytest.mark.parametrize("use_features", [None, ["likes_level", "item_id", "item_tags"]])
@pytest.mark.parametrize("model", ["DIN", "TransAct"])
def test_host_models_train_where_vectors_are_compared(model: str, use_features: Any, config: Path) -> None:
    """Their widths are sums over every item column that they see, and every column of the batch must be known."""
    if not host_model_names():
        pytest.skip("this fuxictr carries no models")
    file = config / "model_config.yaml"
    file.write_text(yaml.safe_dump({"Base": BASE, "host": {"model": model, "dataset_id": "clusters"}}))
    experiment = load("host", config, epochs=1, use_features=use_features, metrics=["AUC", "gAUC"])
    raw = {"name": "raw", "active": True, "dtype": "float", "type": "meta", "source": "item", "pca": {"text": None}}
    experiment = experiment.but(feature_cols=[*experiment["feature_cols"], raw])
    assert run_experiment(experiment).test["gAUC"] > 0.4
    predict_file(Trained.open(experiment), experiment["test_data"], config / "scores.parquet")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--expid", "tranformer"], "error: --expid tranformer: no such experiment"),
        (["--expid", "din", "--dataset", "cluster"], "error: dataset_id cluster: not described in"),
        (["--expid", "broken_key"], "error: key 'learning_rat' of experiment broken_key is not read by DIN_SE_MHTA"),
        (["--expid", "broken_model"], "error: model: 'DINN' is not a registered model"),
        (["--expid", "broken_switch"], "error: key 'attention' of experiment broken_switch: found 'self'; one of"),
        (["--expid", "missing_file"], "error: .*absent.parquet: file not found"),
    ],
)
def test_the_command_ends_with_one_sentence(arguments: list[str], sentence: str, config: Path) -> None:
    file = config / "model_config.yaml"
    models = yaml.safe_load(file.read_text())
    models["broken_key"] = {**models["din"], "learning_rat": 0.1}
    models["broken_model"] = {**models["din"], "model": "DINN"}
    models["broken_switch"] = {**models["din"], "attention": "self"}
    models["missing_file"] = {**models["din"], "dataset_id": "absent"}
    file.write_text(yaml.safe_dump(models))
    datasets = yaml.safe_load((config / "dataset_config.yaml").read_text())
    datasets["absent"] = {**datasets["clusters"], "test_data": "absent.parquet"}
    (config / "dataset_config.yaml").write_text(yaml.safe_dump(datasets))
    script = REPOSITORY / "experiments" / "run_expid.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--config", str(config), *arguments], capture_output=True, text=True, cwd=config
    )
    assert ended.returncode == 2
    last = ended.stderr.strip().splitlines()[-1]
    assert re.match(sentence, last), ended.stderr
    assert "Traceback" not in ended.stderr
