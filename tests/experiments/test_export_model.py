"""The command line of the export: a trained experiment leaves, and scores as it did here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from fuxictr_mm import cli
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

DTYPES = {"tensor(int64)": torch.int64, "tensor(float)": torch.float32, "tensor(bool)": torch.bool}


def command(*arguments: str) -> None:
    cli.main(["export", *arguments])


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A trained experiment, and the command on it."""
    config = tmp_path_factory.mktemp("config")
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": write_cluster_dataset(config, rows=400)}))
    experiments = {name: {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 1} for name in ("din", "untrained")}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, **experiments}))
    run_experiment(resolve_experiment("din", config))

    def run(name: str, *arguments: str, expid: str = "din") -> Path:
        command("--expid", expid, "--config", str(config), "--to", str(config / "out" / name), *arguments)
        return config / "out" / name

    return run


def test_safetensors_goes_out_and_comes_in(export: Callable[..., Path]) -> None:
    from safetensors import safe_open

    first = export("first.safetensors")
    second = export("second.safetensors", "--weights", str(first))
    with safe_open(first, "pt") as one, safe_open(second, "pt") as other:
        assert set(one.keys()) == set(other.keys())
        assert all(torch.equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118
        about = one.metadata()
    assert (about["model"], about["expid"], about["dataset_id"]) == ("DIN_SE_MHTA", "din", "clusters")
    assert len(about["weights"]) == 16


def test_onnx_scores_the_test_split(export: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = export("model.onnx", "--opset", "20")
    printed = capsys.readouterr().out
    assert "opset 20" in printed and "largest difference" in printed and f"written: {file}" in printed
    params = resolve_experiment("din", file.parents[1])
    trained = Trained.open(params)
    model, feature_map = trained.model, trained.feature_map
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["inputs"]) == [entry.name for entry in session.get_inputs()]
    for batch in MMCTRDataLoader(
        feature_map, params["test_data"], batch_size=64, max_len=params["max_len"], split="test"
    ):
        values = {**batch.context, **batch.items, "item_index": batch.item_index, "is_real": batch.is_real_BL}
        feed = {entry.name: values[entry.name].to(DTYPES[entry.type]).numpy() for entry in session.get_inputs()}
        with torch.no_grad():
            expected = model(batch)["y_pred"]
        torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "expid", "sentence"),
    [
        ("model.pt", (), "din", "the suffix says what to export"),
        ("model.safetensors", ("--opset", "18"), "din", "an opset (18) belongs to .onnx"),
        ("model.safetensors", (), "untrained", "no weights of experiment untrained"),
        ("model.safetensors", ("--weights", "nowhere.safetensors"), "din", "nowhere.safetensors"),
        ("model.safetensors", (), "dinn", "dinn"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    name: str,
    arguments: tuple[str, ...],
    expid: str,
    sentence: str,
    export: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        export(name, *arguments, expid=expid)
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.startswith("error: ") and sentence in message
