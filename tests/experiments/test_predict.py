"""The command line that scores files: what it reads of an experiment, what it says, what it refuses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fuxictr_mm import cli
from fuxictr_mm.run import resolve_experiment, run_experiment
from tests import REPOSITORY
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

SCRIPT = REPOSITORY / "experiments" / "predict.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config directory whose experiment ``din`` is trained, and ``other`` is not; test.parquet has no labels."""
    folder = tmp_path_factory.mktemp("predict")
    dataset = write_cluster_dataset(folder, rows=600, test_labels=False)
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    experiment = {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 1}
    models = {"Base": BASE, "din": experiment, "other": experiment}
    (folder / "model_config.yaml").write_text(yaml.safe_dump(models))
    run_experiment(resolve_experiment("din", folder))
    return folder


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], None]:
    return lambda arguments: cli.main(["predict", *arguments])


def refused(main: Callable[[list[str]], None], capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    last: str = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_a_process_of_its_own(config: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--expid", "din"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=config)
    assert ended.returncode == 0, ended.stderr
    out = config / "checkpoints" / "clusters" / "din.test.predictions.parquet"
    table = pq.read_table(out)
    assert table.column_names == ["user_id", "item_id", "score"] and len(table) == 150
    assert "150 rows scored in" in ended.stdout and f"written: {out}" in ended.stdout
    assert "AUC" not in ended.stdout


def test_metrics_and_batch_sizes(config: Path, main: Callable[[list[str]], None], capsys: Any) -> None:
    common = ["--config", str(config), "--expid", "din", "--split", "valid"]
    valid = config / "checkpoints" / "clusters" / "din.valid.predictions.parquet"
    main([*common, "--metrics", "--batch_size", "7"])
    said = capsys.readouterr().out
    expected = yaml.safe_load((valid.with_name("din.result.json")).read_text())["valid"]
    assert set(expected) == {"AUC", "logloss", "gAUC"}
    said_values = dict(line.split(": ") for line in said.splitlines() if line.split(":")[0] in expected)
    assert {name: float(value) for name, value in said_values.items()} == pytest.approx(expected, abs=2e-6)
    scores = pq.read_table(valid)["score"].to_numpy()
    main(common)
    np.testing.assert_allclose(pq.read_table(valid)["score"].to_numpy(), scores, rtol=0, atol=1e-6)


def test_a_file_of_ones_own_with_new_items_and_foreign_weights(
    config: Path, main: Callable[[list[str]], None], tmp_path: Path
) -> None:
    rows = {"ID": [5], "user_id": [1], "item_seq": [[900, 3]], "item_id": [900], "likes_level": [4]}
    pq.write_table(pa.table(rows), tmp_path / "tomorrow.parquet")
    items = pq.read_table(config / "items.parquet").take([7]).to_pydict()
    pq.write_table(pa.table({**items, "item_id": [900]}), tmp_path / "new.parquet")
    arguments = ["--config", str(config), "--expid", "din", "--split", str(tmp_path / "tomorrow.parquet")]
    new = ["--item_info", str(tmp_path / "new.parquet")]
    main([*arguments, *new, "--out", str(tmp_path / "out.csv")])
    first, second = (tmp_path / "out.csv").read_text().splitlines()
    assert first == "ID,Task1" and second.startswith("5,0.")
    weights = config / "checkpoints" / "clusters" / "din.model"
    other = ["--config", str(config), "--expid", "other", *arguments[4:], *new, "--weights", str(weights)]
    main([*other, "--out", str(tmp_path / "other.csv")])
    assert (tmp_path / "other.csv").read_text() == (tmp_path / "out.csv").read_text()
    main([*arguments, *new])
    assert (config / "checkpoints" / "clusters" / "din.tomorrow.predictions.parquet").is_file()


def test_it_scores_as_the_model_was_trained(
    config: Path, main: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A YAML that has changed since does not change the scores."""
    arguments = ["--config", str(config), "--expid", "din", "--out"]
    main([*arguments, str(tmp_path / "before.parquet")])
    models = yaml.safe_load((config / "model_config.yaml").read_text())
    changed = {**models, "din": {**models["din"], "max_len": 1}}
    try:
        (config / "model_config.yaml").write_text(yaml.safe_dump(changed))
        main([*arguments, str(tmp_path / "after.parquet")])
    finally:
        (config / "model_config.yaml").write_text(yaml.safe_dump(models))
    before, after = (pq.read_table(tmp_path / f"{name}.parquet")["score"] for name in ("before", "after"))
    assert before.equals(after) and len(set(before.to_pylist())) > 10


def test_refusals(config: Path, main: Callable[[list[str]], None], capsys: Any, tmp_path: Path) -> None:
    din = ("--config", str(config), "--expid", "din")
    assert "no weights of experiment other on clusters; train it" in refused(main, capsys, *din[:3], "other")
    assert "nowhere.parquet: file not found" in refused(main, capsys, *din, "--split", "nowhere.parquet")
    assert "batch_size: found 0; at least 1" in refused(main, capsys, *din, "--batch_size", "0")
    assert "column 'label' is missing" in refused(main, capsys, *din, "--metrics")
    assert "column 'ID' is missing" in refused(main, capsys, *din, "--out", str(tmp_path / "answer.zip"))
    rows = {"user_id": [1], "item_seq": [[3]], "item_id": [900], "likes_level": [4]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    said = refused(main, capsys, *din, "--split", str(tmp_path / "x.parquet"), "--out", str(tmp_path / "y.parquet"))
    assert "column 'item_id', row 0 (counted from 0): found 900" in said and "--item_feature FILE" in said
    assert {path.name for path in tmp_path.iterdir()} == {"x.parquet"}
