"""Batches against a loop over the rows of the file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.config.keys import KEYS, annotations_of
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.columns import ItemColumn
from fuxictr_mm.features.table import ItemTable
from tests.synthetic import tiny_feature_map

ITEM_IDS = [3, 7, 20, 21, 50]
HISTORIES = [[3, 7], [], [50, 21, 20, 7, 3], [7], [20, 20, 3]]
TARGETS = [20, 3, 7, 50, 21]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A split and the challenge's ready-made item table, ids neither contiguous nor sorted."""
    rng = np.random.default_rng(0)
    rows = {
        "user_id": [10, 11, 12, 10, 11],
        "item_seq": [[0] * (5 - len(history)) + history for history in HISTORIES],
        "item_id": TARGETS,
        "likes_level": [1, 2, 3, 4, 5],
        "views_level": [5, 4, 3, 2, 1],
    }
    pq.write_table(pa.table({**rows, "label": [1, 0, 0, 1, 0]}), tmp_path / "train.parquet")
    pq.write_table(pa.table(rows), tmp_path / "test.parquet")
    order = [2, 0, 4, 1, 3]
    items = {
        "item_id": [ITEM_IDS[i] for i in order],
        "item_tags": [[0, 1, i + 1] for i in order],
        "item_emb": rng.normal(size=(5, 7)).astype(np.float32)[order].tolist(),
    }
    pq.write_table(pa.table({name: [0, *column] if name == "item_id" else
                             [[0] * len(column[0]), *column] for name, column in items.items()}),
                   tmp_path / "item_info.parquet")  # fmt: skip
    return tmp_path


def loader(files: Path, name: str = "train", **changes: Any) -> MMCTRDataLoader:
    arguments = {"split": name, "batch_size": 2, "max_len": 5, **changes}
    return MMCTRDataLoader(tiny_feature_map(), files / name, files / "item_info.parquet", **arguments)


def read_items(files: Path) -> dict[int, dict[str, Any]]:
    return {row["item_id"]: row for row in pq.read_table(files / "item_info.parquet").to_pylist()}


def test_what_is_only_compared_is_gathered_where_it_is_compared(files: Path) -> None:
    feature_map = tiny_feature_map(files)
    ids = np.array(sorted(read_items(files))[1:])
    columns = {"item_tags": np.zeros((len(ids) + 1, 3), np.int32)}
    columns |= {name: np.ones((len(ids) + 1, 7), np.float32) for name in ("item_emb", "far", "near")}
    table = ItemTable(ids, {name: ItemColumn(values) for name, values in columns.items()}).save(files)
    for name in ("far", "near"):
        feature_map.features[name] = {"type": "meta", "source": "item", "pretrain_dim": 7}
    feature_map.data_dir = str(files)
    feature_map.features["item_id"]["item_ids"] = table.path.name
    for name, column in table.stored.items():
        feature_map.features[name]["item_column"] = column.path.name
    arguments = {"split": "train", "batch_size": 2, "max_len": 5}
    for similarity, expected in ((), []), (["near"], ["near"]), (["near", "far"], ["far", "near"]):
        batches = MMCTRDataLoader(feature_map, files / "train", similarity=similarity, **arguments)
        found = set(next(iter(batches)).items) - {"item_id", "item_tags", "item_emb"}
        assert sorted(found) == expected


@pytest.mark.parametrize("max_len", [5, 2])
def test_batches_against_a_loop(files: Path, max_len: int) -> None:
    items = read_items(files)
    row = 0
    for batch in loader(files, max_len=max_len):
        context, item_dict, mask = batch
        length = mask.shape[1]
        rows_of_batch = range(row, row + len(mask))
        assert length == max(1, *(min(len(HISTORIES[r]), max_len) for r in rows_of_batch))
        at = 0
        for i, r in enumerate(rows_of_batch):
            history = HISTORIES[r][-max_len:]
            assert mask[i].tolist() == [0.0] * (length - len(history)) + [1.0] * len(history)
            assert context["likes_level"][i] == r + 1 and context["label"][i] == [1, 0, 0, 1, 0][r]
            for item in [0] * (length - len(history)) + history + [TARGETS[r]]:
                assert item_dict["item_id"][at] == (ITEM_IDS.index(item) + 1 if item else 0)
                assert item_dict["item_tags"][at].tolist() == items[item]["item_tags"]
                torch.testing.assert_close(item_dict["item_emb"][at], torch.tensor(items[item]["item_emb"]))
                at += 1
        row += len(mask)
    assert row == 5


def test_each_distinct_item_is_there_once(files: Path) -> None:
    for batch in loader(files, batch_size=5):
        assert isinstance(batch, MultimodalBatch)
        ids = batch.items["item_id"].tolist()
        assert ids == sorted(set(ids))


def test_what_the_host_asks(files: Path) -> None:
    train = loader(files)
    assert (train.num_samples, train.num_blocks, len(train), train.has_label) == (5, 1, 3, True)
    assert [len(batch.item_index) for batch in train] == [2, 2, 1]
    assert next(iter(train))[0]["user_id"].dtype == torch.int64


def test_the_suffix_may_be_left_out_and_a_list_of_one_batch(files: Path) -> None:
    whole = MMCTRDataLoader(tiny_feature_map(), str(files / "train"), str(files / "item_info.parquet"), batch_size=100)
    assert len(whole) == 1 and len(next(iter(whole)).item_index) == 5


def test_the_challenges_positional_arguments(files: Path) -> None:
    challenge = MMCTRDataLoader(
        tiny_feature_map(), files / "train.parquet", files / "item_info.parquet", 2, False, 4, 3
    )
    assert (challenge.batch_size, challenge.shuffle, challenge.max_len, len(challenge)) == (2, False, 3, 3)


def test_order_follows_from_the_seed_and_the_epoch(files: Path) -> None:
    def epochs(seed: int, count: int = 6) -> list[list[int]]:
        shuffled = loader(files, shuffle=True, seed=seed, batch_size=1)
        return [[int(batch.context["likes_level"]) for batch in shuffled] for _ in range(count)]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    assert len({tuple(epoch) for epoch in epochs(1)}) > 1
    assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in epochs(1))
    assert [int(batch.context["likes_level"]) for batch in loader(files, batch_size=1)] == [1, 2, 3, 4, 5]


def context_of(batches: Iterable[MultimodalBatch]) -> list[list[int]]:
    return [batch.context["likes_level"].tolist() for batch in batches]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_rest_of_an_epoch_is_what_the_whole_epoch_gives(files: Path, shuffle: bool) -> None:
    whole = loader(files, shuffle=shuffle)
    epochs = [context_of(whole) for _ in range(4)]
    assert whole.epoch == 4 and all(len(epoch) == 3 for epoch in epochs)
    resumed = loader(files, shuffle=shuffle)
    for epoch in (2, 0, 3):
        for start in range(4):
            resumed.epoch = epoch
            assert context_of(resumed.iterate(start)) == epochs[epoch][start:]
            assert resumed.epoch == epoch + 1
    resumed.epoch = 1
    assert context_of(resumed.iterate(2)) + context_of(resumed) == epochs[1][2:] + epochs[2]


def test_the_fingerprint_is_that_of_the_data(files: Path) -> None:
    train = loader(files)
    assert len(train.fingerprint) == 32 and int(train.fingerprint, 16) >= 0
    assert loader(files, batch_size=1, shuffle=True, seed=7).fingerprint == train.fingerprint
    assert loader(files, max_len=2).fingerprint != train.fingerprint
    path = files / "train.parquet"
    rows = pq.read_table(path)
    moved = [HISTORIES[0][:1], HISTORIES[0][1:], *HISTORIES[2:]]  # the same items in all, another row's
    changes: dict[str, Any] = {
        "item_id": [20, 3, 7, 50, 20],
        "item_seq": moved,
        "likes_level": [1, 2, 3, 4, 6],
        "label": [1, 0, 0, 1, 1],
    }
    seen = {train.fingerprint}
    for name, values in changes.items():
        pq.write_table(rows.set_column(rows.column_names.index(name), name, pa.array(values)), path)
        seen.add(loader(files).fingerprint)
    assert len(seen) == 1 + len(changes)
    pq.write_table(rows.drop_columns(["label"]), files / "test.parquet")
    assert loader(files, "test").fingerprint not in seen


def test_untrimmed_batches_have_max_len(files: Path) -> None:
    assert {batch.is_real_BL.shape[1] for batch in loader(files, max_len=9, trim=False)} == {9}


def test_only_a_test_split_may_lack_labels(files: Path) -> None:
    test = loader(files, "test")
    assert not test.has_label
    assert all("label" not in batch.context for batch in test)
    with pytest.raises(DataError, match=r"test.parquet.*label"):
        loader(files, "test", split="valid")


def test_without_an_item_table_there_is_nothing_to_load(files: Path) -> None:
    with pytest.raises(ConfigError, match="the feature map names no item table and 'item_info' is not set"):
        MMCTRDataLoader(tiny_feature_map(), files / "train.parquet")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("stream", "yes", "found 'yes'; True or False is expected"),
        ("length_buckets", 1, "found 1; True or False is expected"),
        ("trim", None, "found None; True or False is expected"),
        ("shuffle", "no", "found 'no'; True or False is expected"),
        ("batch_size", 0, "found 0; at least 1 is expected"),
        ("max_len", 2.5, "found 2.5; a whole number is expected"),
        ("seed", -1, "found -1; at least 0 is expected"),
        ("similarity", "item_emb", "a list, not text, is expected"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_sentence(files: Path, key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"key '{key}': .*{expected}"):
        loader(files, **{key: value})


def test_the_keys_of_an_experiment_have_the_types_of_the_arguments() -> None:
    types = annotations_of(MMCTRDataLoader.__init__)
    keys = {name for name in types if name in KEYS and KEYS[name].reader == "loader"} | {"seed", "gpu"}
    assert keys == {
        "num_workers",
        "batch_size",
        "shuffle",
        "max_len",
        "trim",
        "stream",
        "length_buckets",
        "seed",
        "gpu",
    }
    assert {name: types[name] for name in keys} == {name: KEYS[name].type for name in keys}
