"""Every wrong name gets one sentence with the nearest right one."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fuxictr_mm.compat import find_model, host_model_names
from fuxictr_mm.config.experiment import REPOSITORY, check_keys, load_dataset, load_experiment, user_errors
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import Transformer_DCNv2
from fuxictr_mm.models.registry import register


def params(**changes: Any) -> dict[str, Any]:
    return {**load_experiment("Transformer_DCNv2_MMCTR"), **changes}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "model_zoo").glob("*/config/model_config.yaml")), ids=str)
def test_every_shipped_experiment_is_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUXICTR_MM_REAL_DATA", "/nowhere")
    if file.parent.parent.name == "baselines" and not host_model_names():
        pytest.skip("this fuxictr carries no models")
    model_zoo = ModuleType("model_zoo")
    register(model_zoo)
    for expid in yaml.safe_load(file.read_text()):
        if expid != "Base":
            found = load_experiment(expid)
            assert found["model_id"] == expid
            check_keys(found, find_model(model_zoo, found["model"]))


def test_paths_are_absolute_from_the_repository() -> None:
    found = params()
    assert found["train_data"] == str(REPOSITORY / "data/MicroLens_1M_x1/train.parquet")
    assert found["model_root"] == str(REPOSITORY / "checkpoints")


def test_a_directory_elsewhere_is_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "model_config").mkdir()
    experiment = {"Base": {"model_root": "out"}, "mine": {"model": "DIN_SE_MHTA", "dataset_id": "d"}}
    (tmp_path / "model_config" / "a.yaml").write_text(yaml.safe_dump(experiment))
    dataset = {"d": {"data_root": "data", "modality_data": {"text": "vectors/text.npz"}}}
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump(dataset))
    found = load_experiment("mine", tmp_path)
    assert found["data_root"] == str(tmp_path / "data")
    assert found["model_root"] == str(tmp_path / "out")
    assert found["modality_data"] == {"text": str(tmp_path / "vectors/text.npz")}


def test_a_directory_without_datasets_uses_ours(tmp_path: Path) -> None:
    experiment = {"mine": {"model": "DIN_SE_MHTA", "dataset_id": "MicroLens_1M_x1"}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(experiment))
    assert load_experiment("mine", tmp_path)["data_format"] == "parquet"


def test_the_dataset_can_be_replaced() -> None:
    assert load_experiment("DIN_SE_MHTA_MMCTR", dataset_id="MMCTR_demo")["dataset_id"] == "MMCTR_demo"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("Transformer_DCNv2_MMCT",), r"no such experiment in .*; nearest: Transformer_DCNv2_MMCTR"),
        (("Transformer_DCNv2_MMCTR", "no/such/dir"), r"--config no/such/dir: no such directory"),
        (("Transformer_DCNv2_MMCTR", None, "MicroLens_1M"), r"dataset_id MicroLens_1M: .*nearest: MicroLens_1M_x1"),
    ],
)
def test_unknown_names(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_experiment(*arguments)


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUXICTR_MM_REAL_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"train_data: .* needs the environment variable FUXICTR_MM_REAL_DATA"):
        load_dataset("LFM2k")


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_config.yaml").write_text("a: [1, 2\nb: 3")
    with pytest.raises(ConfigError, match=r"model_config.yaml: not valid YAML"):
        load_experiment("a", tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"net_dropuot": 0.2}, r"key 'net_dropuot' .* is not read by Transformer_DCNv2.*nearest: net_dropout"),
        ({"learning_rate": "1e-3"}, r"key 'learning_rate': YAML reads 1e-3 as text; write it with a point"),
        ({"seed": None}, r"experiment Transformer_DCNv2_MMCTR: key 'seed' is missing"),
        ({"metrics": ["AUC", "gauc"]}, r"metrics: 'gauc' is not known; known: .*gAUC"),
        ({"group_id": None}, r"metrics: gAUC needs the dataset key 'group_id'"),
        ({"use_features": ["item_ids"]}, r"use_features: 'item_ids' is no column of feature_cols; nearest: item_id"),
        ({"feature_cols": [{"type": "meta"}]}, r"feature_cols: a column without 'name'"),
        ({"monitor": "auc"}, r"monitor: 'auc' is not among metrics"),
        ({"monitor": {"AUC": 1, "gauc": 1}}, r"monitor: 'gauc' is not among metrics"),
        ({"feature_cols": [{"name": "x", "pac": {}}]}, r"key 'pac' of column 'x' is not known; nearest: .*pca"),
    ],
)
def test_wrong_keys(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_keys(params(**change), Transformer_DCNv2)


def test_a_key_of_the_other_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"key 'use_se' .* is not read by Transformer_DCNv2"):
        check_keys(params(use_se=True), Transformer_DCNv2)


def test_user_errors_end_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info, user_errors():
        raise ConfigError("one sentence.")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: one sentence.\n"
