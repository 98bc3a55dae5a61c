"""From a tuner YAML to experiments: names that stay, variants that do not share, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.run import resolve_experiment
from fuxictr_mm.study import tuner, vary
from fuxictr_mm.study.runs import Variant
from fuxictr_mm.study.tuner import read_tuner, tuner_variants, write_configs
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

PCA = "feature_cols.item_emb.pca"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path, rows=8)
    dataset["feature_cols"][1]["name"] = ["likes_level", "views_level"]
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": {**dataset, "min_categr_count": 1}}))
    models = {"Base": {**BASE, "num_workers": 1}, "din": {**EXPERIMENTS["din"], "dataset_id": "clusters"}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    return tmp_path


def enumerate_space(folder: Path, space: dict[str, Any]) -> list[Variant]:
    file = folder / "sweep.yaml"
    content = {"base_config": ".", "base_expid": "din", "tuner_space": space}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return tuner_variants(read_tuner(file), resolve_experiment("din", folder))


def test_every_combination_once_and_as_load_experiment_reads_it(folder: Path) -> None:
    pca = [{"text": 4, "image": 2}, {"text": 2, "image": 4}, {"image": 4, "text": 2}, {"text": None}]
    space = {"num_heads": [1, 2], PCA: pca, "learning_rate": [1e-5, 0.001], "epochs": 1}
    variants = enumerate_space(folder, space)
    assert len({variant.name for variant in variants}) == 16
    assert len({variant.experiment.dataset_id for variant in variants}) == 4
    assert [list(variant.changes) for variant in variants] == [list(space)] * 16
    combinations = {str(variant.changes) for variant in variants}
    assert combinations == {
        str({"num_heads": heads, PCA: one, "learning_rate": rate, "epochs": 1})
        for heads in (1, 2)
        for one in pca
        for rate in (1e-5, 0.001)
    }

    write_configs(read_tuner(folder / "sweep.yaml"), variants)
    for variant in variants:
        loaded = resolve_experiment(variant.name, folder / "sweep").params
        assert str(sorted(loaded.items())) == str(sorted(variant.experiment.params.items()))
        assert loaded["num_heads"] == variant.changes["num_heads"]
        assert loaded["feature_cols"][-1]["pca"] == variant.changes[PCA]
    text = (folder / "sweep" / "model_config.yaml").read_text()
    write_configs(read_tuner(folder / "sweep.yaml"), enumerate_space(folder, space))
    assert (folder / "sweep" / "model_config.yaml").read_text() == text


def test_names_stay_when_the_grid_grows_and_when_the_place_changes(folder: Path) -> None:
    space: dict[str, Any] = {PCA: [{"text": 4}], "num_heads": [1, 2]}
    before = {str(variant.changes): variant.name for variant in enumerate_space(folder, space)}
    larger = enumerate_space(folder, {PCA: [{"text": 2}, {"text": 4}], "num_heads": [4, 2, 1]})
    after = {str(variant.changes): variant.name for variant in larger}
    assert len(after) == 6 and before.items() <= after.items()

    models = yaml.safe_load((folder / "model_config.yaml").read_text())
    models["Base"] |= {"model_root": "elsewhere", "num_workers": 3}
    (folder / "model_config.yaml").write_text(yaml.safe_dump(models))
    assert [e.name for e in enumerate_space(folder, space)] == list(before.values())
    models["din"]["net_dropout"] = 0.5
    (folder / "model_config.yaml").write_text(yaml.safe_dump(models))
    assert not {e.name for e in enumerate_space(folder, space)} & set(before.values())


def test_a_sweep_of_model_keys_keeps_the_dataset(folder: Path) -> None:
    one, two = enumerate_space(folder, {"use_se": [True, False]})
    assert one.experiment.dataset_id == two.experiment.dataset_id == "clusters"
    assert one.experiment.dataset == two.experiment.dataset
    assert "use_se" not in resolve_experiment("din", folder).params  # swept although no YAML has it


def test_what_belongs_to_the_dataset_makes_a_variant(folder: Path) -> None:
    # max_len stands in the model's half here, where it changes neither feature map nor item table.
    assert {e.experiment.dataset_id for e in enumerate_space(folder, {"max_len": [3, 5]})} == {"clusters"}
    # min_categr_count stands in the dataset's, modality_data nowhere yet.
    variants = enumerate_space(folder, {"min_categr_count": [1, 2]})
    assert [e.experiment["min_categr_count"] for e in variants] == [1, 2]
    assert len({e.experiment.dataset_id for e in variants} - {"clusters"}) == 2
    files = enumerate_space(folder, {"modality_data": [{"text": "a.npz"}, {"text": "b.npz"}]})
    assert [e.experiment.dataset["modality_data"] for e in files] == [{"text": str(folder / f"{x}.npz")} for x in "ab"]
    assert len({e.experiment.dataset_id for e in files}) == 2


def test_one_column_of_an_entry_with_several_names(folder: Path) -> None:
    variants = enumerate_space(folder, {"feature_cols.views_level.active": [True, False]})
    assert [column["name"] for column in variants[1].experiment.dataset["feature_cols"]] == [
        "user_id",
        "likes_level",
        "views_level",
        "item_id",
        "item_tags",
        "item_emb",
    ]
    assert [column["active"] for column in variants[1].experiment.dataset["feature_cols"]] == [
        True,
        True,
        False,
        *3 * [True],
    ]
    assert all(column["active"] for column in variants[0].experiment.dataset["feature_cols"])


REFUSED: list[tuple[Any, str]] = [
    ({"num_heads": []}, "'num_heads' has no values"),
    ({"num_heads": [1, 2, 1]}, "'num_heads' lists 1 twice"),
    ({"dataset_id": ["a", "b"]}, "'dataset_id' cannot be varied"),
    ({"gpu": [0, 1]}, "'gpu' cannot be varied"),
    ({"dnn_hidden_units": [32, 16]}, r"has the value 32, but the base experiment has the list \[32, 16\]"),
    ({"feature_cols.item_embb.pca": [None]}, "no column 'item_embb'; nearest: item_emb"),
    ({"feature_cols.pca": [None]}, r"must be feature_cols.<column>.<key>; columns: \['user_id'"),
    (["num_heads"], r"key 'tuner_space': found \['num_heads'\]; a mapping is expected"),
    ({}, "key 'tuner_space' is missing or empty"),
]


@pytest.mark.parametrize(("space", "message"), REFUSED)
def test_a_space_that_cannot_be_meant_is_refused(folder: Path, space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        enumerate_space(folder, space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_expid: [", "not valid YAML"),
        ("- base_expid", "a mapping with the keys base_config, base_expid, dataset_id, tuner_space"),
        ("", "a mapping with the keys"),
        ("base_expid: din\ntuner_spaces: {a: [1]}", "key 'tuner_spaces' is not read; nearest: tuner_space"),
        ("tuner_space: {a: [1]}", "key 'base_expid' is missing or empty"),
    ],
)
def test_a_file_that_is_no_tuner_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tuner(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("missing.yaml", "", "no_suffix"):
        (tmp_path / "no_suffix").touch()
        with pytest.raises(ConfigError, match="no such tuner file"):
            read_tuner(tmp_path / name)


def test_config_files_of_somebody_else_are_left_alone(folder: Path) -> None:
    variants = enumerate_space(folder, {"num_heads": [1, 2]})
    (folder / "sweep").mkdir()
    (folder / "sweep" / "model_config.yaml").write_text("mine: {}\n")
    with pytest.raises(ConfigError, match=r"no sweep has written it; rename the tuner file sweep\.yaml"):
        write_configs(read_tuner(folder / "sweep.yaml"), variants)
    assert (folder / "sweep" / "model_config.yaml").read_text() == "mine: {}\n"
    assert not (folder / "sweep" / "dataset_config.yaml").exists()


def test_ids_that_meet_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tuner, vary):
        monkeypatch.setattr(module, "digest", lambda values: "0")
    with pytest.raises(ConfigError, match="two combinations have the id din_0"):
        enumerate_space(folder, {"num_heads": [1, 2]})
    with pytest.raises(ConfigError, match="two dataset variants have the id clusters_0"):
        enumerate_space(folder, {PCA: [{"text": 2}, {"text": 4}]})
