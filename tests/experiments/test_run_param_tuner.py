"""Sweeps: what is written, what is skipped, how it is ranked, and what is refused."""

import csv
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuxictr_mm.cli import main
from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.features.columns import ItemColumn
from fuxictr_mm.models.registry import register
from fuxictr_mm.run.run import Result
from fuxictr_mm.study import tune as verb
from fuxictr_mm.study.tuner import read_tuner, tuner_variants
from tests import REPOSITORY
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

PCA = "feature_cols.item_emb.pca"


def tune(file: Path, *arguments: str) -> None:
    """The verb, with FuxiCTR's results file beside the tuner YAML."""
    main(["tune", "--csv_dir", str(file.parent), "--config", str(file), *arguments])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a tuner YAML over a small data set; returns its path."""
    dataset = write_cluster_dataset(tmp_path, rows=600)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    din = {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 1}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, "din": din}))

    def write(space: Any, **changes: Any) -> Path:
        file = tmp_path / "sweep.yaml"
        content = {"base_config": ".", "base_expid": "din", "tuner_space": space, **changes}
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


def read_summary(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((file.with_suffix("") / "summary.csv").open()))


def test_every_combination_is_run_once_and_ranked(
    write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pca = [{"text": 4, "image": 2}, {"text": 2, "image": 4}]
    file = write({"use_se": [True, False], PCA: pca, "epochs": 1})
    tune(file)

    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 4
    rows = read_summary(file)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["state"] for row in rows} == {"finished"}
    auc = [float(row["valid AUC"]) for row in rows]
    assert auc == sorted(auc, reverse=True)
    assert {(row["use_se"], row["item_emb.pca"]) for row in rows} == {
        (use_se, value) for use_se in ("True", "False") for value in ("text: 4, image: 2", "text: 2, image: 4")
    }
    assert "epochs" not in rows[0]  # one value: not swept
    best = rows[0]
    line = f"| 1 | {best['expid']} | {best['dataset']} | {best['use_se']} | {best['item_emb.pca']} | {auc[0]:.4f} |"
    assert line in (tmp_path / "sweep" / "summary.md").read_text()
    assert line in capfd.readouterr().out
    assert (tmp_path / "sweep" / "summary.png").read_bytes().startswith(b"\x89PNG")

    variants = {row["dataset"] for row in rows}
    assert len(variants) == 2 and all(variant.startswith("clusters_") for variant in variants)
    widths = []
    for variant in variants:
        (path,) = (tmp_path / "processed" / variant).glob("item_emb-*.safetensors")
        features = json.loads((path.parent / "feature_map.json").read_text())["features"]
        assert [one["item_emb"]["item_column"] for one in features if "item_emb" in one] == [path.name]
        report = ItemColumn.load(path).info["reports"]
        widths.append([(entry["modality"], entry["width"]) for entry in report])
    assert sorted(widths) == [[("text", 2), ("image", 4)], [("text", 4), ("image", 2)]]
    assert not list(tmp_path.rglob("*.tmp"))

    # Once more: nothing has to run. With one more value only that one.
    checkpoints = tmp_path / "checkpoints"
    before = {log: log.stat().st_mtime_ns for log in checkpoints.rglob("*.log")}
    assert len(before) == 4
    tune(file)
    assert {log: log.stat().st_mtime_ns for log in checkpoints.rglob("*.log")} == before
    write({"use_se": [True, False], PCA: [*pca, {"text": None}], "epochs": 1})
    tune(file, "--summary")
    assert [row["state"] for row in read_summary(file)] == 4 * ["finished"] + 2 * ["not started"]

    # Other data under the same names: nothing that was found on the old files counts.
    write_cluster_dataset(tmp_path, seed=1, rows=600)
    tune(file, "--summary")
    assert [row["state"] for row in read_summary(file)] == 2 * ["not started"] + 4 * ["unfinished"]


def test_an_experiment_that_fails_is_named_at_the_end(
    write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write({"num_heads": [2, 3], "attention_dim": 10})
    with pytest.raises(SystemExit) as ended:
        tune(file)
    assert ended.value.code == 1
    done, failed = read_summary(file)
    assert (done["num_heads"], done["state"], done["rank"]) == ("2", "finished", "1")
    assert (failed["num_heads"], failed["state"], failed["rank"]) == ("3", "unfinished", "")
    log = tmp_path / "checkpoints" / "clusters" / f"{failed['expid']}.log"
    out, err = capfd.readouterr()
    assert err.splitlines()[-1] == f"error: {failed['expid']}: num_heads=3 must divide attention_dim=10."
    assert "num_heads=3 must divide" in log.read_text()
    assert "1 finished, 1 unfinished" in out
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("monitor", "mode", "order"),
    [("AUC", "max", [4, 2, 8, 1]), ("logloss", "min", [2, 4, 8, 1]), ({"AUC": 1, "logloss": -1}, "max", [2, 4, 8, 1])],
)
def test_the_summary_is_sorted_by_the_monitored_value_on_valid(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    monitor: Any,
    mode: str,
    order: list[int],
) -> None:
    valid = {2: {"AUC": 0.7, "logloss": 0.1}, 4: {"AUC": 0.8, "logloss": 0.3}, 8: {"AUC": 0.6, "logloss": 0.4}}

    def finished(experiment: Experiment) -> Result | None:
        heads = experiment["num_heads"]
        if heads not in valid:
            return None
        return Result(experiment.expid, "clusters", valid[heads], {}, {}, 12_345, 6.7, tmp_path / "x.model", "c0ffee")

    monkeypatch.setattr(verb, "finished_result", finished)
    space = {"num_heads": [1, 2, 4, 8], "monitor": [monitor], "monitor_mode": mode, "dnn_hidden_units": [[8, 4]]}
    file = write(space)
    tune(file, "--summary")
    rows = read_summary(file)
    assert [int(row["num_heads"]) for row in rows] == order
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    assert {row["test AUC"] for row in rows} == {""}
    text = (tmp_path / "sweep" / "summary.md").read_text()
    assert f"| - | {rows[3]['expid']} | clusters | 1 | - | - | - | - | - | - | not started |" in text
    assert "12,345" in text and "3 finished, 1 not started" in text


@pytest.mark.parametrize("ended", [0, 1])
def test_a_summary_of_nothing_swept_or_nothing_finished(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    result = Result(
        "din", "clusters", {"AUC": 0.7, "logloss": 0.3, "gAUC": 0.6}, {}, {}, 1, 1.0, tmp_path / "x.model", "c0ffee"
    )
    monkeypatch.setattr(verb, "finished_result", lambda params: result if ended else None)
    file = write({"num_heads": 2})
    tune(file, "--summary")
    assert len(read_summary(file)) == 1
    assert (tmp_path / "sweep" / "summary.png").exists() == bool(ended)


def test_without_matplotlib_nothing_starts(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as ended:
        tune(write({"use_se": [True, False]}))
    assert ended.value.code == 2
    assert "pip install 'fuxictr_mm[plot]'" in capfd.readouterr().err
    assert not (tmp_path / "sweep").exists()


REFUSED: dict[str, tuple[Any, list[str], str]] = {
    "unknown key": ({"dnn_hidden_unit": [[8]]}, [], "key 'dnn_hidden_unit' of experiment din is not read"),
    "unknown column key": ({"feature_cols.item_emb.pcaa": [None]}, [], "key 'pcaa' of column 'item_emb'"),
    "unknown column": ({"feature_cols.item_embb.pca": [None]}, [], "no column 'item_embb'; nearest: item_emb"),
    "bad pca in one of the variants": (
        {PCA: [{"text": 4}, {"text": 0}]},
        [],
        "pca: found {'text': 0}; at least 1 at 'text'",
    ),
    "text for a number": ({"learning_rate": [0.1, "0.01"]}, [], "key 'learning_rate' of experiment din: found '0.01'"),
    "unknown model": ({"model": ["DIN_SE_MHTA", "DIN_SE"]}, [], "model: 'DIN_SE' is not a registered model"),
    "tag without match": ({"use_se": [True, False]}, ["--tag", "xyz"], "--tag xyz: in none of the 2 ids"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_one_sentence_before_anything_runs(
    write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    space, arguments, message = REFUSED[case]
    with pytest.raises(SystemExit) as ended:
        tune(write(space), *arguments)
    assert ended.value.code == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "checkpoints").exists()


def test_a_path_may_have_blanks(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "with blank").mkdir()
    file = write({"num_heads": [1]}, base_config="..").rename(tmp_path / "with blank" / "sweep.yaml")
    tune(file)
    assert [row["state"] for row in read_summary(file)] == ["finished"]


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "experiments" / "tuner_config").glob("*.yaml")), ids=lambda file: file.stem
)
def test_our_tuner_files_give_what_their_first_line_says(file: Path) -> None:
    tuner = read_tuner(file)
    register(import_module("model_zoo"))
    base = Experiment.load(tuner.base_expid, tuner.base_config, tuner.dataset_id)
    variants = tuner_variants(tuner, base)
    assert f"= {len(variants)} experiments" in file.read_text().splitlines()[0]
