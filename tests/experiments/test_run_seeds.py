"""Comparisons over seeds: what is written, and that finished runs are not repeated."""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fuxictr_mm.config import REPOSITORY
from tests.synthetic import write_cluster_dataset
from tests.test_runner import BASE, EXPERIMENTS


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "experiments" / "run_seeds.py"), "--config", str(config)]
    return subprocess.run([*command, "--out", str(config / "out"), *arguments], capture_output=True, text=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    dataset = write_cluster_dataset(tmp_path, rows=600)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    arm = {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 1}
    models = {"Base": BASE, "with_se": arm, "without_se": {**arm, "use_se": False}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    return tmp_path


def test_table_csv_and_plot(config: Path) -> None:
    arguments = ("--expid", "with_se", "without_se", "--seeds", "1", "2", "--name", "se")
    ended = run(config, *arguments)
    assert ended.returncode == 0, ended.stderr
    out = config / "out"
    assert {path.name for path in out.iterdir()} == {"se.md", "se.csv", "se.png"}
    assert (out / "se.png").read_bytes().startswith(b"\x89PNG")
    rows = [row for row in csv.DictReader((out / "se.csv").open()) if row["split"] == "test"]
    assert [(row["expid"], row["seed"]) for row in rows] == [
        ("with_se", "1"),
        ("with_se", "2"),
        ("without_se", "1"),
        ("without_se", "2"),
    ]
    mean = statistics.mean(float(row["AUC"]) for row in rows[:2])
    assert f"| with_se | clusters | {mean:.4f} |" in (out / "se.md").read_text()

    logs = sorted((config / "checkpoints" / "clusters").glob("*.log"))
    before = [log.stat().st_mtime_ns for log in logs]
    assert len(logs) == 4
    assert run(config, *arguments).returncode == 0
    assert [log.stat().st_mtime_ns for log in logs] == before  # nothing has run again


def test_an_unknown_experiment_is_one_sentence(config: Path) -> None:
    ended = run(config, "--expid", "with_es", "--name", "se")
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("error: --expid with_es: no such experiment")
    assert "Traceback" not in ended.stderr
