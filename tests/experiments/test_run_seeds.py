"""Comparisons over seeds: what is written, and that finished runs are not repeated."""

import csv
import statistics
from pathlib import Path

import pytest
import yaml

from fuxictr_mm.cli import main
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset


def run(config: Path, *arguments: str) -> None:
    main(["seeds", "--config", str(config), "--out", str(config / "out"), *arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path, rows=600)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    arm = {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 1}
    models = {"Base": BASE, "with_se": arm, "without_se": {**arm, "use_se": False}, "typo": {**arm, "use_es": False}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    return tmp_path


def test_table_csv_and_plot(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--expid", "with_se", "without_se", "--seeds", "1", "2", "--name", "se")
    run(config, *arguments)
    out = config / "out"
    assert {path.name for path in out.glob("[!.]*")} == {"se.md", "se.csv", "se.png"}
    assert (out / "se.png").read_bytes().startswith(b"\x89PNG")
    rows = [row for row in csv.DictReader((out / "se.csv").open()) if row["split"] == "test"]
    assert [(row["expid"], row["dataset_id"], row["seed"]) for row in rows] == [
        ("with_se", "clusters", "1"),
        ("with_se", "clusters", "2"),
        ("without_se", "clusters", "1"),
        ("without_se", "clusters", "2"),
    ]
    auc = [float(row["AUC"]) for row in rows]
    figures = f"{statistics.mean(auc[2:]):.4f} | {statistics.stdev(auc[2:]):.4f} | "
    text = (out / "se.md").read_text()
    assert f"| without_se | {figures}{statistics.mean(auc[2:]) - statistics.mean(auc[:2]):.4f} | " in text
    assert "| clusters | unknown |" in text
    assert text in capsys.readouterr().out

    logs = sorted((config / "checkpoints" / "clusters").glob("*.log"))
    before = [log.stat().st_mtime_ns for log in logs]
    assert len(logs) == 4
    run(config, *arguments)
    assert [log.stat().st_mtime_ns for log in logs] == before  # nothing has run again


@pytest.mark.parametrize(
    ("expids", "sentence"),
    [
        (["with_es"], "error: --expid with_es: no such experiment"),
        (["with_se", "typo"], "error: key 'use_es' of experiment typo is not read by DIN_SE_MHTA"),
    ],
)
def test_an_experiment_that_cannot_run_is_one_sentence_before_any_runs(
    config: Path, capsys: pytest.CaptureFixture[str], expids: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(config, "--expid", *expids, "--name", "se")
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(sentence) and len(err.splitlines()) == 1
    assert not (config / "checkpoints").exists()
