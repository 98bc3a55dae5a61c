"""Logs of every kind against a loop over rows, what is refused, and what comes out of it trained on."""

import gzip
import json
import os
import re
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_mm.config.yaml_files import load_dataset
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.inspect.inspection import inspect_dataset
from fuxictr_mm.prepare.histories import (
    Clicks,
    cold_items,
    last_of_users,
    negatives,
    pairs,
    session_starts,
    split_by_time,
)
from fuxictr_mm.prepare.prepare import prepare
from fuxictr_mm.prepare.verb import main
from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from fuxictr_mm.serve.prediction import _looked_up, predict_file

SPLITS = ("train", "valid", "test")


def a_log(rows: int = 3000, seed: int = 0, users: int = 80, items: int = 40) -> pl.DataFrame:
    """Clicks of users who like one of two kinds of items; many equal times and repeated clicks."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    item = (rng.integers(0, items // 2, rows) * 2 + (user % 2)) % items
    names = [f"u{n:03d}-é" for n in user]
    return pl.DataFrame(
        {
            "who": names,
            "what": [f"sku/{n}" for n in item],
            "when": rng.integers(0, 300, rows),
            "hour": rng.integers(0, 24, rows),
        }
    )


def some_items(items: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    taste = np.arange(items) % 2
    vectors = (rng.normal(size=(2, 6))[taste] + 0.3 * rng.normal(size=(items, 6))).astype(np.float32)
    return pl.DataFrame(
        {
            "what": [f"sku/{n}" for n in range(items)],
            "title": [f"Thing number {n}" for n in range(items)],
            "kinds": [f"{'abc'[n % 3]}|{'xy'[n % 2]}" for n in range(items)],
            "price": rng.random(items),
            "text": list(vectors),
        },
        schema_overrides={"text": pl.List(pl.Float32)},
    )


def arguments(**changes: Any) -> dict[str, Any]:
    return {"user": "who", "item": "what", "time": "when", "n_negatives": 3, "max_len": 5, **changes}


def read(folder: Path) -> dict[str, pl.DataFrame]:
    return {split: pl.read_parquet(folder / f"{split}.parquet") for split in SPLITS}


def originals(folder: Path, name: str) -> dict[int, str]:
    return dict(pl.read_parquet(folder / f"{name}_ids.parquet").iter_rows())


def test_histories_against_a_loop(tmp_path: Path) -> None:
    log = a_log()
    made = prepare(log, tmp_path / "out", items=some_items(), **arguments())
    users, items = originals(made.folder, "user"), originals(made.folder, "item")
    clicks: dict[str, list[tuple[int, str]]] = {}
    for who, what, when, _ in log.iter_rows():
        clicks.setdefault(who, []).append((when, what))
    seen = 0
    for frame in read(made.folder).values():
        for row in frame.iter_rows(named=True):
            own = sorted(
                (pair for pair in clicks[users[row["user_id"]]] if pair[0] < row["timestamp"]), key=lambda p: p[0]
            )
            assert [items[item] for item in row["item_seq"]] == [what for _, what in own][-5:]
            is_click = (row["timestamp"], items[row["item_id"]]) in clicks[users[row["user_id"]]]
            assert row["label"] == is_click
            if not row["label"]:  # at no time, not only not then
                assert items[row["item_id"]] not in {what for _, what in clicks[users[row["user_id"]]]}
            seen += 1
    assert seen > 9_000 and seen == sum(made.rows.values())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_histories_of_any_log(rows: list[tuple[int, int, int]], max_len: int) -> None:
    user, item, time = (np.array(column) for column in zip(*rows))
    clicks = Clicks.of(user, item, time)
    first, end = clicks.before(user, time, max_len)
    offsets, values = clicks.lists(first, end)
    for at, (who, _, when) in enumerate(rows):
        before = sorted(
            (pair for pair in enumerate(rows) if pair[1][0] == who and pair[1][2] < when), key=lambda p: (p[1][2], p[0])
        )
        assert values[offsets[at] : offsets[at + 1]].tolist() == [row[1] for _, row in before][-max_len:]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=1, max_size=30), st.integers(0, 8))
def test_sessions_against_a_loop(rows: list[tuple[int, int]], gap: int) -> None:
    user, time = (np.array(column) for column in zip(*rows))
    for (who, when), start in zip(rows, session_starts(user, time, gap)):
        earlier = when
        while more := [t for u, t in rows if u == who and earlier - gap <= t < earlier]:
            earlier = min(more)
        assert start == earlier


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_clicks_of_users_against_a_loop(count: int) -> None:
    rng = np.random.default_rng(3)
    user, time, is_click = rng.integers(0, 9, 120), rng.integers(0, 40, 120), rng.random(120) < 0.6
    found = last_of_users(user, time, is_click, count)
    for who in range(9):
        rows = sorted(np.flatnonzero(user == who), key=lambda row: (time[row], row))
        left = 0
        for row in reversed(rows):
            left += is_click[row]
            assert found[row] == (2 if left <= count else 1 if left <= 2 * count else 0)


def test_times_are_split_by_shares_and_stay_together() -> None:
    time = np.repeat(np.arange(100), 3)
    split, bounds = split_by_time(np.random.default_rng(0).permutation(time), 0.1, 0.2)
    assert np.bincount(split).tolist() == [210, 30, 60] and bounds == [70.0, 80.0]


def test_held_out_items_are_unseen_in_training(tmp_path: Path) -> None:
    made = prepare(
        a_log(), tmp_path / "out", items=some_items(), **arguments(split="cold", valid_share=0.1, test_share=0.2)
    )
    frames = read(made.folder)
    targets = {split: set(frame["item_id"]) for split, frame in frames.items()}
    clicked = {split: set(frame.filter(pl.col("label") == 1)["item_id"]) for split, frame in frames.items()}
    assert targets["valid"] and not targets["valid"] & targets["train"] and not targets["test"] & targets["train"]
    assert not targets["valid"] & targets["test"] and clicked["test"] <= targets["test"]
    held_out = targets["valid"] | targets["test"]
    assert not held_out & set(frames["train"]["item_seq"].explode().drop_nulls())
    assert held_out & set(frames["test"]["item_seq"].explode().drop_nulls())
    assert any("are held out with every click" in note for note in made.notes)


def test_negatives_follow_popularity_and_the_seed(tmp_path: Path) -> None:
    user = np.repeat(np.arange(1, 2001), 5)
    weights = np.array([0.0, 8, 4, 2, 1, 0])
    row, item = negatives(user, pairs(np.array([1, 2]), np.array([1, 1]), 5), weights, 4, seed=3)
    assert np.bincount(row, minlength=len(user)).min() == 4 and not set(item) - {1, 2, 3, 4}
    assert not ((user[row] <= 2) & (item == 1)).any()
    shares = np.bincount(item[user[row] > 2], minlength=6)[1:5] / (user[row] > 2).sum()
    np.testing.assert_allclose(shares, [8 / 15, 4 / 15, 2 / 15, 1 / 15], atol=0.01)
    again = negatives(user, pairs(np.array([1, 2]), np.array([1, 1]), 5), weights, 4, seed=3)
    assert (again[1] == item).all() and (
        negatives(user, pairs(np.array([1]), np.array([1]), 5), weights, 4, seed=4)[1] != item
    ).any()
    # Who has clicked everything gets none.
    row, _ = negatives(np.array([7, 8]), pairs(np.full(4, 7), np.arange(1, 5), 5), weights, 2, seed=1)
    assert row.tolist() == [1, 1]
    assert cold_items(50, 0.2, 1).sum() == 10 and not cold_items(50, 0.2, 1)[0]


def test_a_log_trains_by_the_printed_command(tmp_path: Path) -> None:
    made = prepare(a_log(), tmp_path / "shop", items=some_items(), popularity=True, **arguments())
    config = tmp_path / "shop" / "config"
    commands = re.findall(r"fuxictr-mm (.*)", made.to_text())
    assert commands == [f"inspect --dataset shop --config {config}", f"run --expid DIN_SE_MHTA_shop --config {config}"]
    narrow = {"dcn_hidden_units": [32], "dim_feedforward": 16, "first_k_cols": 1}
    for model, changes in (("DIN_SE_MHTA", {}), ("Transformer_DCNv2", narrow)):
        experiment = resolve_experiment(f"{model}_shop", config, epochs=2, batch_size=256, verbose=0, **changes)
        result = run_experiment(experiment)
        assert result.valid["AUC"] > 0.8 and result.test["AUC"] > 0.8
    columns = {column["name"]: column for column in load_dataset("shop", config)["feature_cols"]}
    assert set(columns) == {
        "user_id", "hour", "item_id", "kinds", "price", "popularity", "item_emb", "item_vectors", "item_peers",
    }  # fmt: skip
    assert columns["kinds"]["type"] == "sequence" and columns["hour"]["type"] == "categorical"
    experiment = resolve_experiment("DIN_SE_MHTA_shop", config)
    predict_file(Trained.open(experiment), experiment["test_data"], tmp_path / "scores.parquet")
    scores, users, items = (
        pl.read_parquet(tmp_path / "scores.parquet"),
        originals(made.folder, "user"),
        originals(made.folder, "item"),
    )
    assert scores.columns == ["user_id", "item_id", "original_user_id", "original_item_id", "score"]
    assert scores["original_user_id"].to_list() == [users[n] for n in scores["user_id"]]
    assert scores["original_item_id"].to_list() == [items[n] for n in scores["item_id"]]
    later = _looked_up(pa.array([1, 3, 0]), pa.array(["a", "b"])).to_pylist()
    assert later == ["a", None, None]  # an item that came later has no number of its own
    findings = inspect_dataset(load_dataset("shop", config))
    assert "shop" in str(findings.to_dict()) or findings.to_table()
    popular = pl.read_parquet(made.folder / "items.parquet")["popularity"]
    assert popular.min() >= 1 and popular.max() == 10
    about = json.loads((made.folder / "prepared.json").read_text())
    assert about["values_of_ids"]["kinds"] == ["a", "b", "c", "x", "y"] and "title: kept as text" in str(about["notes"])


def forms(folder: Path, log: pl.DataFrame, items: pl.DataFrame) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """The same log and items in the forms that people have."""
    plain = items.drop("text").with_columns(pl.col("price").round(4))
    log.write_csv(folder / "log.csv")
    plain.write_csv(folder / "items.csv")
    log.write_csv(folder / "log.tsv", separator="\t")
    (folder / "log.csv.gz").write_bytes(gzip.compress((folder / "log.csv").read_bytes()))
    log.write_csv(folder / "bare.txt", separator=";", include_header=False)
    (folder / "parts").mkdir()
    for number in range(3):
        log[number * 1000 : (number + 1) * 1000].write_parquet(folder / "parts" / f"part-{number}.parquet")
    typed = log.rename({"who": "who:token", "what": "what:token", "when": "when:float", "hour": "hour:token"})
    typed.write_csv(folder / "shop.inter", separator="\t")
    of_items = plain.with_columns(pl.col("kinds").str.replace_all("|", " ", literal=True))
    of_items.rename(
        {"what": "what:token", "title": "title:token", "kinds": "kinds:token_seq", "price": "price:float"}
    ).write_csv(folder / "shop.item", separator="\t")
    return {
        "csv": (folder / "log.csv", folder / "items.csv", {}),
        "tsv": (str(folder / "log.tsv"), folder / "items.csv", {}),
        "gz": (folder / "log.csv.gz", folder / "items.csv", {}),
        "no header": (folder / "bare.txt", folder / "items.csv", {"names": ["who", "what", "when", "hour"]}),
        "parts": (folder / "parts", folder / "items.csv", {}),
        "two files": ([folder / "parts" / "part-0.parquet", folder / "parts" / "part-1.parquet"], plain, {}),
        "RecBole": (folder / "shop.inter", folder / "shop.item", {}),
        "polars": (log, plain, {}),
        "lazy": (log.lazy(), plain.lazy(), {}),
        "pandas": (log.to_pandas(), plain.to_pandas(), {}),
        "pyarrow": (log.to_arrow(), plain.to_arrow(), {}),
    }


def test_all_forms_give_the_same(tmp_path: Path) -> None:
    log, items = a_log(), some_items()
    found = {}
    for name, (source, table, more) in forms(tmp_path, log, items).items():
        made = prepare(source, tmp_path / f"out {name}", items=table, **arguments(name="shop", **more))
        found[name] = made
    whole = read(found["polars"].folder)
    for name, made in found.items():
        if name == "two files":
            continue
        frames = read(made.folder)
        for split in SPLITS:
            columns = ["user_id", "item_id", "item_seq", "label", "hour"]
            assert frames[split].select(columns).equals(whole[split].select(columns)), (name, split)
        ours, theirs = (pl.read_parquet(one.folder / "items.parquet") for one in (made, found["polars"]))
        assert ours["kinds"].to_list() == theirs["kinds"].to_list(), name


def test_mmrec_layout(tmp_path: Path) -> None:
    """Numbers from 0, a split column, vectors as .npy with a row per item."""
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {"userID": rng.integers(0, 60, 900), "itemID": rng.integers(0, 30, 900), "x_label": np.arange(900) % 3}
    )
    log = log.with_columns(timestamp=np.arange(900))
    log.write_csv(tmp_path / "baby.inter", separator="\t")
    for name, width in (("image", 12), ("text", 8)):
        np.save(tmp_path / f"{name}_feat.npy", rng.normal(size=(30, width)).astype(np.float32))
    items = pl.DataFrame({"itemID": np.arange(30)})
    main([
        "--interactions", str(tmp_path / "baby.inter"), "--user", "userID", "--item", "itemID", "--time", "timestamp",
        "--split", "column", "--split_column", "x_label", "--negatives", "2", "--out", str(tmp_path / "baby"),
        "--config", write_yaml(tmp_path / "p.yaml", {"items": "items.parquet"}, items),
        "--vectors", *(f"{name}={tmp_path / f'{name}_feat.npy'}" for name in ("image", "text")),
    ])  # fmt: skip
    frames = read(tmp_path / "baby")
    assert [frame.filter(pl.col("label") == 1).height for frame in frames.values()] == [300, 300, 300]
    assert originals(tmp_path / "baby", "item") == {n + 1: str(n) for n in range(30)}
    columns = load_dataset("baby", tmp_path / "baby" / "config")["feature_cols"]
    assert next(c["pca"] for c in columns if c["name"] == "item_emb") == {"image": 12, "text": 8}


def write_yaml(path: Path, content: dict[str, Any], items: pl.DataFrame) -> str:
    items.write_parquet(path.with_name("items.parquet"))
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("ids", "first"),
    [
        ([10**18, -5, 7], ["-5", "7", str(10**18)]),
        ([2**63 + 1, 2**63 + 7, 2**63], [str(2**63), str(2**63 + 1), str(2**63 + 7)]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["007", "7", "8"], ["007", "7", "8"]),
        ([3.0, 1.0, 2.0], ["1", "2", "3"]),
        (["6f9619ff-8b86-d011-b42d-00cf4fc964ff", "b", "a"], ["6f9619ff-8b86-d011-b42d-00cf4fc964ff", "a", "b"]),
    ],
)
def test_ids_of_any_kind(ids: list[Any], first: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = pl.Series([ids[n] for n in rng.integers(0, 3, 300)], dtype=pl.UInt64 if 2**63 in ids else None)
    log = pl.DataFrame({"u": rng.integers(1, 30, 300), "i": items, "t": np.arange(300), "y": rng.integers(0, 2, 300)})
    made = prepare(log, tmp_path / "out", user="u", item="i", time="t", label="y")
    assert list(originals(made.folder, "item").values()) == first


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01 10:00:00", "2024-01-02 09:00:00", "2024-01-03 00:00:00"],
        ["2024-01-01T10:00:00Z", "2024-01-02T09:00:00Z", "2024-01-03T00:00:00Z"],
        ["1.5", "2", "3e1"],
        [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)],
        [datetime(2024, 1, 1, 1), datetime(2024, 1, 1, 2), datetime(2024, 1, 1, 3)],
        [-1, 0, 5],
    ],
)
def test_times_in_many_forms(times: list[Any], tmp_path: Path) -> None:
    column = pl.Series([times[n // 100] for n in range(300)])
    log = pl.DataFrame({"u": np.arange(300) % 30, "i": np.arange(300) % 7, "t": column, "y": np.arange(300) // 3 % 2})
    made = prepare(log, tmp_path / "out", user="u", item="i", time="t", label="y", valid_share=0.3, test_share=0.3)
    assert [made.rows[split] for split in SPLITS] == [100, 100, 100]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": (
        {"user": "whom"},
        r"the log has no column 'whom' \(user\); found \['who', 'what', 'when', 'hour'\]",
    ),
    "one class": ({"n_negatives": 0}, "train would have label 1 only; a log of clicks needs negatives"),
    "both": ({"label": "hour", "rating": "hour"}, "label and rating are both given"),
    "labels": ({"label": "hour"}, r"column 'hour': labels are 0 and 1, found \[0.0, 1.0, 2.0, 3.0, 4.0\]"),
    "time": ({"time": "what"}, "column 'what', row 0: 'sku/.*' is no time \\(3,000 such rows\\)"),
    "empty": ({"valid_share": 0.0}, "valid would have none of 12,000 rows"),
    "shares": ({"valid_share": 0.6, "test_share": 0.5}, "are 1.1 together"),
    "split column": ({"split": "column"}, "split: column and split_column"),
    "no split": ({"split": "column", "split_column": "what"}, "column 'what', row 0: 'sku/.*' is no split"),
    "negatives": ({"n_negatives": -1}, "key 'n_negatives': found -1; at least 0"),
    "split": ({"split": "random"}, "key 'split': found 'random'"),
    "name": ({"name": "../x"}, "name.*found '../x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_prepared_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    changes, sentence = WRONG[case]
    with pytest.raises((ConfigError, DataError), match=sentence):
        prepare(a_log(), tmp_path / "out", items=some_items(), **arguments(**changes))
    assert not list(tmp_path.iterdir())


def test_items_that_do_not_fit(tmp_path: Path) -> None:
    log, items, out = a_log(), some_items(), tmp_path / "out"
    with pytest.raises(DataError, match=r"the item table has no column 'what'.*; found \['sku'"):
        prepare(log, out, items=items.rename({"what": "sku"}), **arguments())
    with pytest.raises(
        DataError, match=r"no item of the log is in the item table: the log has 'sku/\d+', the table 'x"
    ):
        prepare(log, out, items=items.with_columns(what=pl.lit("x") + pl.col("what")), **arguments())
    numbered = log.with_columns(what=pl.col("what").str.slice(4).cast(pl.Int64))
    with pytest.raises(DataError, match=r"items are text in the item table \('sku/0'\) and numbers in the log"):
        prepare(numbered, out, items=items, **arguments())
    twice = pl.concat([items, items[:1].with_columns(price=pl.lit(0.5))])
    with pytest.raises(DataError, match=r"item 'sku/0' has several rows of different content"):
        prepare(log, out, items=twice, **arguments())
    assert not list(tmp_path.iterdir())
    made = prepare(log, out, items=pl.concat([items[:30], items[:2]]), **arguments())
    notes = " ".join(made.notes)
    assert "2 rows of the item table repeat others" in notes
    assert re.search(
        r"of 3,000 rows name 10 items that the item table lacks \('sku/3\d', \.\.\.\) and are dropped", notes
    )
    with pytest.raises(DataError, match=r"v.npy: float64 of shape \(3, 2\); \(40, width\) is expected"):
        np.save(tmp_path / "v.npy", np.ones((3, 2)))
        prepare(log, out, items=items, vectors={"v": str(tmp_path / "v.npy")}, **arguments())


def test_rows_without_ids_are_dropped_and_named(tmp_path: Path) -> None:
    log = a_log().with_columns(who=pl.when(pl.col("when") == 3).then(None).otherwise(pl.col("who")))
    made = prepare(log, tmp_path / "out", **arguments())
    assert re.match(r"\d+ of 3,000 rows have no user or no item and are dropped", made.notes[0])
    assert sum(made.rows.values()) == 4 * log["who"].is_not_null().sum()


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"out: has files that were not written by prepare"):
        prepare(a_log(), tmp_path / "out", **arguments())
    (tmp_path / "out" / "mine.txt").unlink()
    first = prepare(a_log(), tmp_path / "out", **arguments())
    again = prepare(a_log(), tmp_path / "out", **arguments())
    assert first.rows == again.rows and sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "a.csv: its first line is empty"),
        ("a.csv", b"who\n1\n", "a.csv: one column only"),
        ("a.csv", b"who,what\n", "a.csv: no rows"),
        ("a.csv", b"who,what\n\xff,1\n" * 2, "a.csv: (is no UTF-8 text|cannot be read)"),
        ("a.csv.gz", b"no gzip", "a.csv.gz"),
        ("a.parquet", b"no parquet", "a.parquet: not a whole parquet file"),
        ("a.inter", b"who:token\twhat:token\twhen:float\n1\t2\tx\n", "a.inter: (a cell|cannot be read)"),
    ],
)
def test_files_that_are_no_tables(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, OSError), match=sentence):
        prepare(tmp_path / name, tmp_path / "out", user="who", item="what", n_negatives=1)
    with pytest.raises(DataError, match=r"absent.csv: file not found"):
        prepare(tmp_path / "absent.csv", tmp_path / "out", user="who", item="what")


def test_the_command_needs_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prepare needs --interactions"):
        main(["--out", str(tmp_path / "out")])
    (tmp_path / "p.yaml").write_text("usr: 1")
    with pytest.raises(ConfigError, match=r"p.yaml: key 'usr' is no argument of prepare"):
        main(["--config", str(tmp_path / "p.yaml")])
    with pytest.raises(ConfigError, match=r"NAME=FILE.npy is expected"):
        main(["--vectors", "x.npy"])
    pd.DataFrame({"u": [1], "i": [2]}).to_parquet(tmp_path / "x.parquet")
    pq.write_table(pa.table({"u": [1]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"y.parquet: has the columns \['u'\], but .*x.parquet has \['u', 'i'\]"):
        main(["--interactions", str(tmp_path / "x.parquet"), str(tmp_path / "y.parquet"), "--user", "u", "--item", "i",
              "--out", str(tmp_path / "out")])  # fmt: skip


@pytest.mark.real_data
def test_ml100k_from_its_raw_log(tmp_path: Path) -> None:
    """The same targets and histories as the set that was made of it elsewhere, with that set's own split."""
    data = Path(os.environ.get("FUXICTR_MM_REAL_DATA", ""))
    if not (data / "ml100k_raw").is_dir() or not (data / "ml100k").is_dir():
        pytest.skip("needs ml100k and ml100k_raw in FUXICTR_MM_REAL_DATA")
    theirs = {split: pl.read_parquet(data / "ml100k" / f"{split}.parquet") for split in SPLITS}
    names = ["user_id", "item_id", "rating", "timestamp"]
    log = pl.read_csv(data / "ml100k_raw" / "u.data", separator="\t", has_header=False, new_columns=names)
    splits = pl.concat([frame.select("user_id", "item_id", split=pl.lit(name)) for name, frame in theirs.items()])
    log = log.join(splits, on=["user_id", "item_id"], how="left")
    made = prepare(
        log.with_columns(split=pl.col("split").fill_null("train")), tmp_path / "ml100k", user="user_id", item="item_id",
        time="timestamp", rating="rating", split="column", split_column="split", max_len=64,
    )  # fmt: skip
    when = {(user, item): time for user, item, _, time in log.select(names).iter_rows()}
    equal = 0
    for split, frame in read(made.folder).items():
        both = frame.join(theirs[split], on=["user_id", "item_id"], suffix="_theirs")
        assert both.height == theirs[split].height and (both["label"] == both["label_theirs"]).all()
        for row in both.iter_rows(named=True):
            other = [item for item in row["item_seq_theirs"] if item]
            # That set counts clicks of the row's own second that come before it in the file; here they are not earlier.
            earlier = [item for item in other if when[row["user_id"], item] < row["timestamp"]]
            equal += len(earlier) < len(other)
            ours = row["item_seq"]
            assert ours[len(ours) - len(earlier) :] == earlier and (len(ours) == len(earlier) or len(other) == 64)
    assert 0 < equal < 0.4 * sum(frame.height for frame in theirs.values())
