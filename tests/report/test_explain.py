"""The command line that shows what a trained model looks at."""

import json
import re
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

from fuxictr_mm import MMCTRDataLoader, cli
from fuxictr_mm.report.records import Explanation
from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from tests import REPOSITORY
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

SCRIPT = REPOSITORY / "experiments" / "explain.py"
MAX_LEN = BASE["max_len"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained: ``transformer`` and ``no_target`` on items with titles, ``din`` on others without and without labels."""
    folder = tmp_path_factory.mktemp("explain")
    dataset = write_cluster_dataset(folder, rows=600)
    plain = {**dataset, "test_data": "unlabelled.parquet"}
    pq.write_table(pq.read_table(folder / "test.parquet").drop_columns(["label"]), folder / "unlabelled.parquet")
    titles = ["Price $5 and $6", None, *(f"Title {item} {'which is long ' * 5}" for item in range(3, 41))]
    pq.write_table(pa.table({"item_title": titles, "item_id": range(1, 41)}), folder / "titles.parquet")
    datasets = {"clusters": {**dataset, "item_feature": "titles.parquet"}, "plain": plain}
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump(datasets))
    transformer = {**EXPERIMENTS["transformer"], "num_heads": 2, "transformer_layers": 2, "epochs": 1}
    models = {
        "Base": BASE,
        "transformer": {**transformer, "dataset_id": "clusters"},
        "no_target": {**transformer, "dataset_id": "clusters", "target_concat": False},
        "din": {**EXPERIMENTS["din"], "dataset_id": "plain", "attention": "din", "epochs": 1},
        "untrained": {**transformer, "dataset_id": "clusters"},
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(models))
    for expid in ("transformer", "no_target", "din"):
        run_experiment(resolve_experiment(expid, folder))
    return folder


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], None]:
    return lambda arguments: cli.main(["explain", *arguments])


def explained(main: Callable[[list[str]], None], config: Path, expid: str, out: Path, *arguments: str) -> Any:
    main(["--config", str(config), "--expid", expid, "--out", str(out), "--batches", "2", *arguments])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(out.read_text())


def test_two_experiments_on_the_same_rows(
    config: Path, main: Callable[[list[str]], None], tmp_path: Path, capsys: Any
) -> None:
    arguments = ("--rows", "17", "0", "5", "--compare", "no_target")
    record = explained(main, config, "transformer", tmp_path / "new" / "x.json", *arguments)
    said = capsys.readouterr().out
    assert (record["kind"], record["expid"], record["dataset_id"]) == ("explanation", "transformer", "clusters")
    assert record["command"].startswith("python explain.py --config ") and record["command"].endswith("no_target")
    assert record["commit"] and "cores" in record["machine"] and record["date"]

    test = pq.read_table(config / "test.parquet").to_pydict()
    items = pq.read_table(config / "titles.parquet").to_pydict()
    titles = dict(zip(items["item_id"], items["item_title"]))
    trained = Trained.open(resolve_experiment("transformer", config))
    model, feature_map = trained.model, trained.feature_map
    loader = MMCTRDataLoader(feature_map, config / "test.parquet", split="test", max_len=MAX_LEN, batch_size=64)
    scores = model.predict(loader)
    assert len(test["item_seq"][0]) == 0 < len(test["item_seq"][5])
    for row, number in zip(record["rows"], (17, 0, 5), strict=True):
        names = [titles[item] or str(item) for item in (*test["item_seq"][number], test["item_id"][number])]
        history = names[:-1][-MAX_LEN:]
        assert (row["row"], row["split"], row["label"]) == (number, "test", test["label"][number])
        assert (row["target"], row["history"]) == (names[-1], history)
        assert row["score"] == pytest.approx(scores[number], abs=1e-6)
        shares = np.array(row["attention"])
        assert shares.shape == (2, 2, len(history))
        np.testing.assert_allclose(shares.sum(axis=-1), float(bool(history)), rtol=0, atol=1e-6)

    assert [(head["layer"], head["head"]) for head in record["summary"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    other = record["compared_with"]
    assert (other["expid"], [row["row"] for row in other["rows"]]) == ("no_target", [17, 0, 5])
    with_history = sum(map(bool, test["item_seq"]))
    for head, without in zip(record["summary"], other["summary"], strict=True):
        assert head["rows"] == without["rows"] == with_history  # two batches hold the whole split
        assert head["share_on_padding"] <= 1e-6
        assert head["moved_by_target"] > 0 == without["moved_by_target"]
        for expid, line in (("transformer", head), ("no_target", without)):
            assert re.search(rf"{expid} +{line['entropy']:.4f} +{line['entropy_uniform']:.4f} ", said)
    assert f"written: {tmp_path / 'new' / 'x.json'} and x.png" in said
    read = Explanation.read(tmp_path / "new" / "x.json")
    assert [one.expid for one in read.experiments] == ["transformer", "no_target"]
    cli.main(["report", str(tmp_path / "new"), "--out", str(tmp_path / "page.html")])
    assert "Attention of transformer and no_target on clusters" in (tmp_path / "page.html").read_text()


def test_a_sample_is_the_same_each_time_and_has_a_choice_to_make(
    config: Path, main: Callable[[list[str]], None], tmp_path: Path
) -> None:
    first, again = (
        explained(main, config, "transformer", tmp_path / name, "--split", "valid", "--sample", "3")
        for name in ("1.json", "2.json")
    )
    assert first["rows"] == again["rows"] and first["summary"] == again["summary"]
    assert len({row["row"] for row in first["rows"]}) == 3
    assert all(len(row["history"]) > 1 for row in first["rows"])
    assert "compared_with" not in first
    assert [one.expid for one in Explanation.read(tmp_path / "1.json").experiments] == ["transformer"]


def test_a_process_of_its_own_on_items_without_titles_and_rows_without_labels(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--expid", "din", "--rows", "3", "149"]
    ended = subprocess.run([*command, "--out", str(tmp_path / "din.json")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "din: attention: din without din_use_softmax gives signed scores" in ended.stdout
    test = pq.read_table(config / "unlabelled.parquet").to_pydict()
    for row, number in zip(json.loads((tmp_path / "din.json").read_text())["rows"], (3, 149), strict=True):
        assert row["label"] is None and row["target"] == str(test["item_id"][number])
        assert row["history"] == [str(item) for item in test["item_seq"][number]][-MAX_LEN:]


def test_refusals(config: Path, main: Callable[[list[str]], None], capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.json"

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), "--out", str(out), *arguments])
        assert ended.value.code == 2
        said: str = capsys.readouterr().err.strip().splitlines()[-1]
        return said

    transformer = ("--expid", "transformer")
    assert "--rows 150: " in (said := refused(*transformer, "--rows", "3", "150"))
    assert "test.parquet has 150 rows, counted from 0" in said
    assert "--rows -1: " in refused(*transformer, "--rows", "-1")
    assert "no weights of experiment untrained on clusters; train it" in refused("--expid", "untrained")
    assert "no weights of experiment untrained on clusters" in refused(*transformer, "--compare", "untrained")
    assert "invalid choice: 'tset'" in refused(*transformer, "--split", "tset")
    assert "--sample 0: at least 1" in refused(*transformer, "--sample", "0")
    assert "--batches 0: at least 1" in refused(*transformer, "--batches", "0")
    assert "a .json file is expected" in refused(*transformer, "--out", str(tmp_path / "x.png"))
    said = refused(*transformer, "--compare", "din")
    assert "--compare din: its test split is " in said and "compare experiments on the same rows" in said
    assert not list(tmp_path.iterdir())
