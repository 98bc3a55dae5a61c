"""Runs that are stopped, resumed, and built again from what they left on disk."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
from fuxictr_mm.run import Experiment, Trained, run_experiment
from fuxictr_mm.run import run as run_module
from fuxictr_mm.training.checkpoint import read_weights, write_weights
from tests import REPOSITORY
from tests.run.test_run import BASE, EXPERIMENTS, load
from tests.synthetic import write_cluster_dataset


@pytest.fixture
def config(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path, rows=600)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    models = {name: {**experiment, "dataset_id": "clusters", "epochs": 2} for name, experiment in EXPERIMENTS.items()}
    models["long"] = {**models["din"], "epochs": 40, "early_stop_patience": 99, "net_dropout": 0.3, "batch_size": 20}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, **models}))
    return tmp_path


def loader(feature_map: Any, experiment: Experiment, split: str) -> MMCTRDataLoader:
    return MMCTRDataLoader(
        feature_map, experiment[f"{split}_data"], **{**experiment.params, "split": split, "shuffle": False}
    )


def rewrite(config: Path, expid: str, **changes: Any) -> None:
    file = config / "model_config.yaml"
    models = yaml.safe_load(file.read_text())
    models[expid] |= changes
    file.write_text(yaml.safe_dump(models))


def test_sigterm_then_resume_on_the_command_line(config: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "experiments" / "run_expid.py"), "--config", str(config)]
    arguments = [*script, "--expid", "long"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    folder = config / "checkpoints" / "clusters"
    run = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    while run.poll() is None and not (folder / "long.state").exists():  # the end of the first epoch
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate()
    assert run.returncode == 130, errors
    last = errors.strip().splitlines()[-1]
    pattern = (
        r"interrupted: stopped in epoch \d+ after batch \d+ of 30; the state is in .*long\.state; "
        r"continue with: python .*run_expid.py --config .* --expid long --resume$"
    )
    assert re.match(pattern, last), last
    assert "Traceback" not in errors
    assert not (folder / "long.result.json").exists()
    log = (folder / "long.log").read_text()

    params = load("long", config, resume=True)
    resumed = run_experiment(params)
    assert (folder / "long.log").read_text().startswith(log)  # the log goes on
    assert "Resume after epoch" in (folder / "long.log").read_text()
    assert not (folder / "long.state").exists()
    alone = run_experiment(load("long", config, model_root=str(config / "alone")))
    assert (resumed.valid, resumed.test) == (alone.valid, alone.test)
    weights = read_weights(alone.checkpoint)
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(resumed.checkpoint).items())


def test_a_run_that_has_ended_is_not_repeated(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = config / "c.csv"
    params = load("din", config, resume=True)
    first = run_experiment(params, csv_file=csv)
    monkeypatch.setattr("fuxictr_mm.training.loop.ResumableModel.fit", lambda *_, **__: pytest.fail("trained again"))
    assert run_experiment(params.but(gpu=0, verbose=1), csv_file=csv) == first
    assert len(csv.read_text().splitlines()) == 1
    csv.unlink()  # killed between the result and the row
    assert run_experiment(params, csv_file=csv) == first
    assert len(csv.read_text().splitlines()) == 1


def test_a_result_without_its_weights_is_no_result(config: Path) -> None:
    params = load("din", config, resume=True)
    first = run_experiment(params)
    first.checkpoint.unlink()
    again = run_experiment(params)
    assert again.checkpoint.is_file() and again.valid == first.valid


def test_changed_parameters_or_data_run_anew(config: Path) -> None:
    params = load("din", config, resume=True)
    first = run_experiment(params)
    assert run_experiment(params.but(learning_rate=0.02)).valid != first.valid
    write_cluster_dataset(config, seed=1, rows=600)
    assert run_experiment(params).valid != first.valid


def interrupt(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the end of the first epoch's state, and stop there."""

    def stop(entry: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(TrainingInterrupted):
            run_experiment(experiment, on_evaluation=[stop])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert experiment.file(".state").is_file()


@pytest.mark.parametrize("key", ["valid_data", "test_data", "item_info"])
def test_resume_refuses_other_files(key: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load("din", config, resume=True)
    interrupt(params, monkeypatch)
    path = Path(params[key])
    table = pq.read_table(path)
    moved = shutil.copy(path, path.with_name("moved.parquet"))  # the same bytes elsewhere are the same file
    pq.write_table(
        table.slice(0, table.num_rows - 1)
        if key != "item_info"
        else table.append_column("new", [range(table.num_rows)]),
        path,
    )
    with pytest.raises(ConfigError, match=rf"din.state: that training began with digest of {key} = \w+, now it is"):
        run_experiment(params)
    assert run_experiment(params.but(**{key: str(moved)})).valid["AUC"] > 0


def test_weights_of_a_training_that_has_not_ended_are_pointed_out(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load("din", config, resume=True)
    interrupt(params, monkeypatch)
    Trained.open(params)
    said = "din.model: the weights of a training that has not ended, the best so far; continue it"
    assert params.file(".log").read_text().count(said) == 1
    run_experiment(params)
    Trained.open(params)
    assert params.file(".log").read_text().count(said) == 1


def test_what_cannot_be_written_is_refused_before_training(config: Path) -> None:
    params = load("din", config)
    (config / "file").write_text("x")
    for csv in (config, config / "file" / "runs.csv", config / ("x" * 300 + ".csv")):
        with pytest.raises(OSError, match=re.escape(str(config))):
            run_experiment(params, csv_file=csv)
    with pytest.raises(OSError, match=re.escape(str(config / "file"))):
        run_experiment(params.but(model_root=str(config / "file")))
    assert not params.checkpoint.exists()


def test_a_truth_that_does_not_fit_is_refused_before_training(config: Path) -> None:
    params = load("din", config)
    truth = Path(params["valid_data"]).with_name("truth.parquet")
    pq.write_table(pa.table({"split": ["valid"] * 3, "probability": [0.5] * 3}), truth)
    with pytest.raises(DataError, match=r"truth.parquet: 3 rows of split valid, but valid.parquet has"):
        run_experiment(params)
    assert not params.checkpoint.exists()


def test_data_that_are_replaced_while_they_are_read_are_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load("din", config)
    real = run_module.MMCTRDataLoader

    def replaced(*args: Any, **kwargs: Any) -> Any:
        loader = real(*args, **kwargs)
        write_cluster_dataset(config, seed=7, rows=600)
        return loader

    monkeypatch.setattr(run_module, "MMCTRDataLoader", replaced)
    with pytest.raises(DataError, match="dataset clusters: a data file was replaced while it was read; run it again"):
        run_experiment(params)
    assert not params.checkpoint.exists()


def test_host_models_run_with_resume_too(config: Path) -> None:
    pytest.importorskip("model_zoo.LongCTR", reason="this fuxictr carries no models")
    params = load("transact", config, resume=True)
    assert run_experiment(params) == run_experiment(params)


@pytest.mark.parametrize("expid", ["transformer", "din"])
def test_a_trained_model_is_built_again(expid: str, config: Path) -> None:
    params = load(expid, config)
    result = run_experiment(params)
    # A script that restores a model names no device: the CPU.
    trained = Trained.open(params)
    model, feature_map = trained.model, trained.feature_map
    assert not model.training
    valid, test = (loader(feature_map, params, split) for split in ("valid", "test"))
    assert model.evaluate(valid) == result.valid
    assert model.evaluate(test) == result.test


def test_what_was_trained_counts_and_not_what_the_yaml_says_now(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run_experiment(load("din", config))
    rewrite(config, "din", num_heads=2, attention_dropout=0.5)
    params = load("din", config)
    logging.root.addHandler(caplog.handler)  # FuxiCTR's set_logger has taken it away
    trained = Trained.open(params)
    model, feature_map = trained.model, trained.feature_map
    assert (
        "din.model was trained with attention_dropout = its default; the YAML now says 0.5, which is not used."
        in caplog.text
    )
    assert "din.model was trained with num_heads = its default; the YAML now says 2" in caplog.text
    valid = loader(feature_map, params, "valid")
    assert model.evaluate(valid) == result.valid


def test_another_runs_feature_map_does_not_matter(config: Path) -> None:
    params = load("din", config)
    result = run_experiment(params)
    narrow = [{**column, "pca": {"text": 2}} if "pca" in column else column for column in params["feature_cols"]]
    run_experiment(params.but(model_id="narrow", feature_cols=narrow))
    trained = Trained.open(params)
    model, feature_map = trained.model, trained.feature_map
    valid = loader(feature_map, params, "valid")
    assert model.evaluate(valid) == result.valid


def test_an_untrained_experiment_is_one_sentence(config: Path) -> None:
    params = load("din", config)
    with pytest.raises(
        ConfigError, match=r"din.model: no weights of experiment din on clusters; train it with run_exp"
    ):
        Trained.open(params)
    result = run_experiment(params)
    result.checkpoint.with_suffix(".params.json").write_text("{")
    with pytest.raises(DataError, match=r"din.params.json: the file: Invalid JSON"):
        Trained.open(params)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights(suffix: str, config: Path, tmp_path: Path) -> None:
    """A state dict from elsewhere is scored without training, and training can begin with it."""
    params = load("transformer", config)
    first = run_experiment(params)
    published = tmp_path / f"published{suffix}"
    write_weights(read_weights(first.checkpoint), published)
    elsewhere = params.but(model_root=str(tmp_path / "elsewhere"))
    trained = Trained.open(elsewhere, published)
    model, feature_map = trained.model, trained.feature_map
    valid = loader(feature_map, params, "valid")
    assert model.evaluate(valid) == first.valid
    tuned = run_experiment(elsewhere.but(weights=str(published), learning_rate=0.0))
    assert tuned.valid == first.valid
    with pytest.raises(DataError, match=r"published.*parameter 'attention_layer.*is missing"):
        Trained.open(load("din", config, model_root=str(tmp_path / "elsewhere")), published)


def test_a_new_run_removes_what_an_earlier_one_left(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of one run beside the parameters of another would be scored as if they belonged together."""
    params = load("din", config)
    first = run_experiment(params)

    def killed(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr("fuxictr_mm.training.loop.ResumableModel.train_epoch", killed)
    with pytest.raises(DataError, match="not_there"):
        run_experiment(params.but(weights="not_there.model"))
    assert first.checkpoint.is_file()  # a run that never began removes nothing
    with pytest.raises(RuntimeError, match="killed"):
        run_experiment(params.but(net_dropout=0.5))
    assert not first.checkpoint.exists() and not first.file.exists()
    for suffix in ("model", "state", "params.json", "feature_map.json", "result.json"):
        (first.checkpoint.parent / f".din.{suffix}.999999999-abc.tmp").touch()  # what SIGKILL during a write leaves
    monkeypatch.undo()
    run_experiment(params.but(resume=True))
    assert not list(first.checkpoint.parent.glob(".*.tmp"))
    run_experiment(params.but(net_dropout=0.5))
    assert json.loads(first.checkpoint.with_suffix(".params.json").read_text())["net_dropout"] == 0.5
