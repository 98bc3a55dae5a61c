"""Item files with missing vectors: which are missing, what stays, and refusals."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests import REPOSITORY
from tests.experiments.scripts import load_script
from tests.synthetic import write_cluster_dataset

hide_vectors = load_script("hide_vectors")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    params = {**write_cluster_dataset(tmp_path, rows=40), "dataset_id": "clusters"}
    params["item_info"] = str(tmp_path / "items.parquet")
    monkeypatch.setattr(hide_vectors, "load_dataset", lambda name: params)
    hide_vectors.main(["--dataset", "clusters", "--shares", "0", "0.25", "0.5", "--out", str(tmp_path / "hidden")])
    return tmp_path / "hidden"


def missing(file: Path, column: str) -> set[int]:
    values = pq.read_table(file)[column].to_pylist()
    return {row for row, vector in enumerate(values) if vector is None}


def test_shares(out: Path) -> None:
    whole = pq.read_table(out.parent / "items.parquet")
    assert pq.read_table(out / "clusters_0.parquet").equals(whole)
    for column in ("text", "image"):
        few, many = (missing(out / f"clusters_{share}.parquet", column) for share in (25, 50))
        assert len(few) == 10 and len(many) == 20 and few < many
        kept = pq.read_table(out / "clusters_50.parquet")[column].to_pylist()
        before = whole[column].to_pylist()
        assert all(kept[row] == before[row] for row in set(range(40)) - many)
    assert missing(out / "clusters_50.parquet", "text") != missing(out / "clusters_50.parquet", "image")
    others = ["item_id", "item_tags", "likes_level"]
    assert pq.read_table(out / "clusters_50.parquet").select(others).equals(whole.select(others))


def test_refuses_a_share_of_all(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hide_vectors.main(["--dataset", "clusters", "--shares", "1.0", "--out", str(out)])
    assert "--shares 1.0: a share of the items is at least 0 and less than 1." in capsys.readouterr().err


def test_refuses_vectors_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_cluster_dataset(tmp_path, rows=40)
    items = pq.read_table(tmp_path / "items.parquet")
    pq.write_table(items.drop_columns(["text"]), tmp_path / "items.parquet")
    pq.write_table(items.select(["item_id", "text"]), tmp_path / "text.parquet")
    params |= {"item_info": tmp_path / "items.parquet", "modality_data": {"text": tmp_path / "text.parquet"}}
    monkeypatch.setattr(hide_vectors, "load_dataset", lambda name: params)
    with pytest.raises(SystemExit):
        hide_vectors.main(["--dataset", "clusters", "--out", str(tmp_path / "hidden")])
    sentence = (
        r"--dataset clusters: its vectors are in \['.*items.parquet', '.*text.parquet'\]; one parquet file of items"
    )
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "hidden").exists()


def test_its_study_names_files_of_its_own() -> None:
    file = REPOSITORY / "experiments" / "studies" / "missing_vectors.yaml"
    variants = yaml.safe_load(file.read_text(encoding="utf-8"))["variants"]
    named = {int(path.rpartition("_")[2].removesuffix(".parquet")) for v in variants.values() for path in v.values()}
    np.testing.assert_array_equal(sorted(named), [100 * share for share in hide_vectors.SHARES])
