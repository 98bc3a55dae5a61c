"""Findings on hand-made data whose every number is known."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.inspect.findings import Findings, LevelFindings
from fuxictr_mm.inspect.inspection import inspect_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
# Items 1..4 with one level each; item 3 has no image vector and item 4 no text vector.
LEVELS = {1: 1, 2: 2, 3: 1, 4: 3}
ITEMS: dict[str, Any] = {
    "item_id": [4, 3, 2, 1],
    "likes_level": [3, 1, 2, 1],
    "txt": [None, [3.0, 4.0], [0.0, 1.0], [0.0, 0.0]],
    "img": [[2.0] * 4, None, [1.0] * 4, [3.0] * 4],
}
TRAIN: dict[str, Any] = {
    "user_id": [1, 1, 2, 2],
    "item_seq": [[0, 0, 3], [0, 1, 3], [0, 0, 0], [1, 2, 3]],
    "item_id": [1, 2, 1, 2],
    "likes_level": [1, 2, 1, 2],
    "label": [1, 0, 1, 0],
}
TEST: dict[str, Any] = {
    "user_id": [2, 3, 4],
    "item_seq": [[1], [2], [4, 1]],
    "item_id": [4, 4, 3],
    "likes_level": [3, 1, 1],
}


def make_params(folder: Path, train: Any = None, test: Any = None, items: Any = None, **changes: Any) -> dict[str, Any]:
    """Write the files, some columns replaced or (``None``) left out; returns dataset parameters."""
    for name, columns, new in (("train", TRAIN, train), ("test", TEST, test), ("items", ITEMS, items)):
        merged = {**columns, **(new or {})}
        pq.write_table(pa.table({n: c for n, c in merged.items() if c is not None}), folder / f"{name}.parquet")
    return {
        "train_data": str(folder / "train.parquet"),
        "test_data": str(folder / "test.parquet"),
        "item_feature": str(folder / "items.parquet"),
        "group_id": "user_id",
        "max_len": 2,
        "feature_cols": [
            {"name": "user_id", "type": "meta"},
            {"name": "likes_level", "type": "categorical", "vocab_size": 11},
            {"name": "item_id", "type": "categorical", "source": "item"},
            {"name": "emb", "type": "embedding", "source": "item", "pca": {"txt": 1, "img+txt": 2}},
        ],
        "label_col": {"name": "label", "dtype": "float"},
        **changes,
    }


def level(findings: Findings, split: str = "train", *columns: str) -> LevelFindings:
    wanted = columns or ("likes_level",)
    (found,) = [one for one in findings.levels if one.split == split and one.columns == wanted]
    return found


def test_splits(tmp_path: Path) -> None:
    findings = inspect_dataset(make_params(tmp_path))
    train, test = findings.splits["train"], findings.splits["test"]
    assert (train.rows, train.label_share, train.users, train.items) == (4, 0.5, 2, 2)
    # Longer than max_len: findings show the file, not what a model would keep of it.
    assert train.history == {"min": 0, "median": 1, "mean": 1.5, "p90": 3, "max": 3, "empty_share": 0.25}
    assert (train.cold_items, train.cold_rows) == (0, 0.0)
    assert (test.rows, test.label_share, test.users, test.items) == (3, None, 3, 2)
    # Item 3 is in histories of train, item 4 is nowhere in it.
    assert (test.cold_items, test.cold_rows) == (1, 2 / 3)
    assert train.target_counts.tolist() == [0, 2, 2, 0, 0]
    assert findings.n_items == 4
    assert findings.shared_users == {("train", "test"): 1}


def test_text_users_are_compared_by_name(tmp_path: Path) -> None:
    train = {"user_id": ["b", "a", "a", "c"]}
    test = {"user_id": pa.array(["d", "b", "c"]).dictionary_encode()}
    findings = inspect_dataset(make_params(tmp_path, train, test))
    assert findings.splits["train"].users == 3
    assert findings.shared_users == {("train", "test"): 2}
    with pytest.raises(DataError, match="users are large_string in train but int64 in test; one type is expected"):
        inspect_dataset(make_params(tmp_path, train))


def test_without_a_group_column_users_are_not_counted(tmp_path: Path) -> None:
    findings = inspect_dataset(make_params(tmp_path, group_id=None))
    assert findings.splits["train"].users is None and not findings.shared_users
    assert "Users in several splits" not in findings.to_table()


def test_modalities(tmp_path: Path) -> None:
    modalities = inspect_dataset(make_params(tmp_path)).modalities
    assert list(modalities) == ["txt", "img"]
    assert modalities["txt"].to_dict() == {
        "dimension": 2, "rows": 3, "missing": 1, "zero": 1, "mean_norm": 2.0,
        "std_norm": pytest.approx(np.std([5, 1, 0])), "duplicated": 0.0, "near_mean": 0.0,
        # The shares of variance of (3, 4), (0, 1), (0, 0) are 0.9861 and 0.0139.
        "effective_rank": pytest.approx(1.0771, abs=1e-4),
    }  # fmt: skip
    assert modalities["img"].norms.tolist() == [4.0, 2.0, 6.0] and modalities["img"].dimension == 4


def test_ready_made_vectors_are_a_modality_too(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    params["feature_cols"][-1] = {"name": "img", "type": "embedding", "source": "item", "pretrain_dim": 4}
    assert list(inspect_dataset(params).modalities) == ["img"]


def test_vectors_of_padding_and_of_other_items_do_not_count(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    np.savez(tmp_path / "txt.npz", key=np.array([0, 2, 99]), value=np.full((3, 9), 2.0))
    params["modality_data"] = {"txt": str(tmp_path / "txt.npz")}
    txt = inspect_dataset(params).modalities["txt"]
    assert (txt.dimension, txt.missing, txt.norms.tolist()) == (9, 3, [6.0])


def test_clean_levels(tmp_path: Path) -> None:
    found = level(inspect_dataset(make_params(tmp_path)))
    assert (found.rows, found.agreement, found.by_label, found.auc, found.is_leak) == (4, 1.0, (1.0, 1.0), 0.5, False)
    assert found.verdict == "fine: says nothing about the label"


def test_leaky_levels(tmp_path: Path) -> None:
    findings = inspect_dataset(make_params(tmp_path, {"likes_level": [1, 1, 1, 1]}))
    found = level(findings)
    assert (found.agreement, found.by_label, found.auc, found.is_leak) == (0.5, (0.0, 1.0), 1.0, True)
    assert found.verdict.startswith("LEAK: gives the label away")
    (line,) = [line for line in findings.to_table().splitlines() if line.startswith("train  likes_level")]
    assert line.split()[2:] == ["4", "50.00", "%", "0.00", "%", "100.00", "%", "1.0000", *found.verdict.split()]
    inverse = level(inspect_dataset(make_params(tmp_path, {"likes_level": [2, 2, 2, 2]})))
    assert inverse.auc == 0.0 and inverse.is_leak


def test_without_labels_agreement_is_told_but_not_judged(tmp_path: Path) -> None:
    found = level(inspect_dataset(make_params(tmp_path)), "test")
    assert (found.agreement, found.by_label, found.auc, found.is_leak) == (2 / 3, None, None, False)
    assert found.verdict == "cannot be judged without both labels"
    alike = inspect_dataset(make_params(tmp_path, {"label": [1, 1, 1, 1]}))
    assert level(alike).auc is None


def test_agreement_against_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 500
    items, levels, price = rng.integers(1, 5, n), rng.integers(1, 4, n), rng.choice([0.1, 0.7], n)
    own_level, own_price = np.array([1, 2, 1, 3]), np.array([0.1, 0.7, np.nan, 0.1])
    label = rng.integers(0, 2, n)
    train = {
        "user_id": np.arange(n), "item_seq": [[1]] * n, "item_id": items, "likes_level": levels, "price": price,
        "label": label,
    }  # fmt: skip
    test = {"price": [0.1, 0.1, 0.1]}
    params = make_params(tmp_path, train, test, {"price": own_price[::-1]})
    params["feature_cols"].append({"name": "price", "type": "numeric"})
    findings = inspect_dataset(params)
    same_level, same_price = levels == own_level[items - 1], price == own_price[items - 1]
    known = items != 3  # item 3 has no price of its own
    for columns, agrees, rows in (
        (("likes_level",), same_level, np.ones(n, bool)),
        (("price",), same_price, known),
        (("likes_level", "price"), same_level & same_price, known),
    ):
        found = level(findings, "train", *columns)
        assert found.rows == rows.sum() and found.agreement == agrees[rows].mean()
        assert found.auc == pytest.approx(roc_auc_score(label[rows], agrees[rows]))


@pytest.mark.parametrize("own", [None, ["a", "b", "c", "d"], [[1], [1], [1], [1]]])
def test_only_numbers_of_the_items_are_compared(tmp_path: Path, own: Any) -> None:
    findings = inspect_dataset(make_params(tmp_path, items={"likes_level": own}))
    assert not findings.levels and "own value" not in findings.to_table()
    findings.plot(tmp_path / "plot.png")


def test_the_dict_is_json_and_the_table_is_aligned(tmp_path: Path) -> None:
    findings = inspect_dataset(make_params(tmp_path))
    record = json.loads(json.dumps(findings.to_dict(), allow_nan=False))
    assert record["splits"]["test"]["cold_items"] == 1 and record["shared_users"] == {"train, test": 1}
    assert record["levels"][0]["by_label"] == {"0": 1.0, "1": 1.0}
    lines = findings.to_table().splitlines()
    assert lines[1:4] == [
        "split  rows  label 1  users  items  cold items  cold rows  min  median   mean  p90  max    empty",
        "train     4  50.00 %      2      2           0     0.00 %    0       1  1.500    3    3  25.00 %",
        "test      3        -      3      2           1    66.67 %    1       1  1.333    2    2   0.00 %",
    ]
    assert "Users in several splits: train and test: 1" in lines


def test_plot(tmp_path: Path) -> None:
    findings = inspect_dataset(make_params(tmp_path))
    findings.plot(tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
    findings.plot(tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {word} -->" in drawn for word in ("train", "test", "txt (2)", "img (4)", "AUC 0.500", "label 1"))


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = inspect_dataset(make_params(tmp_path))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib; run: pip install 'fuxictr_mm\[plot\]'\."):
        findings.plot(tmp_path / "plot.png")


def test_train_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'train_data' is not set"):
        inspect_dataset(make_params(tmp_path, train_data=None))


def test_bad_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.parquet: column 'item_id', row 1 .*found 9"):
        inspect_dataset(make_params(tmp_path, test={"item_id": [4, 9, 3]}))


def test_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"hand_made": make_params(tmp_path)}
    (tmp_path / "dataset_config.yaml").write_text(json.dumps(config))  # JSON is YAML

    def run(dataset: str) -> None:
        where = ["--config", str(tmp_path), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["inspect_data.py", "--dataset", dataset, *where])
        runpy.run_path(str(REPOSITORY / "experiments" / "inspect_data.py"), run_name="__main__")

    run("hand_made")
    printed = capsys.readouterr().out
    assert "cold rows" in printed and "written: " in printed
    assert json.loads((tmp_path / "out" / "hand_made.json").read_text())["n_items"] == 4
    assert (tmp_path / "out" / "hand_made.png").stat().st_size > 0

    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    for dataset, sentence in (("hand_made", "test.parquet: not a whole parquet file"), ("hand_mad", "hand_made")):
        with pytest.raises(SystemExit) as ended:
            run(dataset)
        message = capsys.readouterr().err
        assert ended.value.code == 2 and sentence in message and len(message.splitlines()) == 1


@pytest.mark.real_data
def test_real_cold_items(real_data: Path) -> None:
    folder = real_data / "lfm2k_cold"
    params = {f"{name}_data": folder / f"{name}.parquet" for name in ("train", "valid", "test")}
    columns = [
        {"name": ["likes_level", "views_level"], "type": "categorical", "vocab_size": 11},
        {"name": "item_id", "type": "categorical", "source": "item"},
        {"name": "emb", "type": "embedding", "source": "item", "pca": {"txt_emb_MiniLM": 16, "aud_emb_Whisper": 16}},
    ]
    findings = inspect_dataset(
        {**params, "item_info": folder / "item_feature.parquet", "feature_cols": columns, "group_id": "user_id"}
    )
    for name in ("valid", "test"):
        assert (findings.splits[name].cold_items, findings.splits[name].cold_rows) == (213, 1.0)
    assert not any(found.is_leak for found in findings.levels) and len(findings.levels) == 9
    assert findings.modalities["txt_emb_MiniLM"].norms.mean() == pytest.approx(1.0, abs=0.01)
    assert findings.modalities["aud_emb_Whisper"].norms.mean() == pytest.approx(16.6, abs=0.1)
