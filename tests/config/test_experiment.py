"""Every wrong name gets one sentence with the nearest right one."""

import pickle
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fuxictr_mm.cli import user_errors
from fuxictr_mm.compat import host_model_names
from fuxictr_mm.config.experiment import Experiment, identity
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.config.yaml_files import load_dataset, load_experiment
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.registry import register
from tests import REPOSITORY


def shipped(**changes: Any) -> Experiment:
    register(import_module("model_zoo"))
    return Experiment.load("Transformer_DCNv2_MMCTR", **changes)


def merged(*arguments: Any, **named: Any) -> dict[str, Any]:
    model, dataset = load_experiment(*arguments, **named)
    return {**model, **dataset}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "model_zoo").glob("*/config/model_config.yaml")), ids=str)
def test_every_shipped_experiment_is_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUXICTR_MM_REAL_DATA", "/nowhere")
    if file.parent.parent.name == "baselines" and not host_model_names():
        pytest.skip("this fuxictr carries no models")
    model_zoo = ModuleType("model_zoo")
    register(model_zoo)
    for expid in yaml.safe_load(file.read_text()):
        if expid != "Base":
            assert Experiment.load(expid, model_zoo=model_zoo).expid == expid


def test_paths_are_absolute_from_the_repository() -> None:
    found = shipped()
    assert found["train_data"] == str(REPOSITORY / "data/MicroLens_1M_x1/train.parquet")
    assert found["model_root"] == str(REPOSITORY / "checkpoints")


def test_a_directory_elsewhere_is_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "model_config").mkdir()
    experiment = {"Base": {"model_root": "out"}, "mine": {"model": "DIN_SE_MHTA", "dataset_id": "d"}}
    (tmp_path / "model_config" / "a.yaml").write_text(yaml.safe_dump(experiment))
    dataset = {"d": {"data_root": "data", "modality_data": {"text": "vectors/text.npz"}}}
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump(dataset))
    found = merged("mine", tmp_path)
    assert found["data_root"] == str(tmp_path / "data")
    assert found["model_root"] == str(tmp_path / "out")
    assert found["modality_data"] == {"text": str(tmp_path / "vectors/text.npz")}


def test_a_directory_without_datasets_uses_ours(tmp_path: Path) -> None:
    experiment = {"mine": {"model": "DIN_SE_MHTA", "dataset_id": "MicroLens_1M_x1"}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(experiment))
    assert merged("mine", tmp_path)["data_format"] == "parquet"


def test_the_dataset_can_be_replaced() -> None:
    assert merged("DIN_SE_MHTA_MMCTR", dataset_id="MMCTR_demo")["dataset_id"] == "MMCTR_demo"


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
        (
            {"learning_rate": "1e-3"},
            r"key 'learning_rate' of .*: YAML reads 1e-3 as text; write it with a point",
        ),
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
        shipped(**change)


def test_a_key_of_the_other_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"key 'use_se' .* is not read by Transformer_DCNv2"):
        shipped(use_se=True)


def test_user_errors_end_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info, user_errors():
        raise ConfigError("one sentence.")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: one sentence.\n"


# Each of them trained, or ended in a traceback after the features had been built.
WRONG_VALUES: list[tuple[str, Any, str]] = [
    ("epochs", 0, "found 0; at least 1 is expected"),
    ("epochs", 1.5, "found 1.5; a whole number is expected"),
    ("epochs", "2", "found '2'; a whole number is expected"),
    ("batch_size", True, "found True; a whole number is expected"),
    ("max_gradient_norm", -1, "found -1; more than 0 is expected"),
    ("learning_rate", -0.1, "found -0.1; at least 0 is expected"),
    ("learning_rate", float("nan"), "found nan; a finite number is expected"),
    ("monitor_mode", "MAX", "found 'MAX'; one of 'max' or 'min' is expected"),
    ("shuffle", "yes", "found 'yes'; True or False is expected"),
    ("metrics", "AUC", "found 'AUC'; a list is expected"),
    ("metrics", [], "a list of at least 1"),
    (
        "embedding_regularizer",
        "1e-6",
        "YAML reads 1e-6 as text; write it with a point, e.g. 1.0e-3",
    ),
    ("net_regularizer", "l3(0.1)", "found 'l3(0.1)'; a number or l1(x), l2(x) or l1_l2(x,y) is expected"),
    ("loss", "mse", "found 'mse'; one of 'binary_crossentropy', 'binary_cross_entropy' or 'bce' is expected"),
    ("eval_steps", 0, "found 0; at least 1 is expected"),
    ("seed", -1, "found -1; at least 0 is expected"),
    ("data_format", "csv", "found 'csv'; one of 'parquet' is expected"),
    ("use_features", "item_id", "found 'item_id'; a list is expected"),
    ("modality_data", ["a"], "found ['a']; a mapping is expected"),
    ("checkpoint_steps", 2.5, "found 2.5; a whole number is expected"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), WRONG_VALUES)
def test_a_value_that_its_reader_does_not_take(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"key {key!r} of experiment Transformer_DCNv2_MMCTR: ")) as error:
        shipped(**{key: value})
    assert sentence in str(error.value)


def test_an_experiment_does_not_change() -> None:
    first = shipped()
    second = first.but(seed=7)
    assert (first["seed"], second["seed"]) == (20242025, 7)
    with pytest.raises(TypeError):
        first.params["seed"] = 8  # type: ignore[index]
    columns = [*first["feature_cols"]]
    changed = first.but(feature_cols=columns)
    columns[0]["name"] = "other"
    assert changed["feature_cols"][0]["name"] == "user_id"
    assert pickle.loads(pickle.dumps(second)).params == second.params


def test_another_model_is_checked_by_its_own_keys() -> None:
    with pytest.raises(ConfigError, match=r"key 'transformer_layers' of experiment .* is not read by DIN_SE_MHTA"):
        shipped().but(model="DIN_SE_MHTA")


def test_what_decides_a_run_is_its_identity() -> None:
    first = shipped()
    assert identity(first.params) == identity(first.but(gpu=3, verbose=0, num_workers=9, train_data="x").params)
    assert identity(first.params) != identity(first.but(seed=1).params)
    assert not {key for key in identity(first.params) if KEYS.get(key) and KEYS[key].machine}


def test_every_key_is_of_one_half() -> None:
    """Those that describe the data set, told from the rest without a second list."""
    assert {"train_data", "feature_cols", "group_id"} <= shipped().dataset_keys
    assert not shipped().dataset_keys & {"epochs", "model", "dataset_id", "max_len"}
