"""Arranged rows: their types and bytes, whether they fit, and the batches that are gathered from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pandas.util import hash_array

from fuxictr_mm.batch import ItemColumns
from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.data import contract, gather
from fuxictr_mm.data import rows as rows_module
from fuxictr_mm.data.gather import BatchGatherer
from fuxictr_mm.data.rows import Rows, read_rows
from fuxictr_mm.errors import ConfigError

N = 50
ITEM_IDS = np.arange(1, 13)


def make_schema(max_len: int = 20, group: str | None = "user_id") -> DatasetSchema:
    columns = (
        Column("likes_level", "categorical", vocab_size=11),
        Column("city", "categorical", vocab_size=300),
        Column("shop", "categorical", vocab_size=100_000),
        Column("unlimited", "categorical"),
        Column("price", "numeric"),
        Column("item_id", "categorical", source="item"),
    )
    return DatasetSchema("item_id", "item_seq", "label", group, columns, max_len)


def make_columns(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "user_id": rng.integers(0, 10, N),
        "item_seq": [rng.integers(1, 13, length).tolist() for length in rng.integers(0, 9, N)],
        "item_id": rng.integers(1, 13, N),
        "likes_level": rng.integers(0, 11, N),
        "city": rng.integers(0, 300, N),
        "shop": rng.integers(0, 100_000, N),
        "unlimited": rng.integers(0, 2**31 - 1, N),
        "price": rng.normal(size=N).astype(np.float32),
        "label": rng.integers(0, 2, N),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(pa.table(make_columns()), tmp_path / "train.parquet", row_group_size=20)
    return tmp_path / "train.parquet"


def read(path: Path, **changes: Any) -> Rows:
    return read_rows(path, make_schema(**changes), ITEM_IDS, require_label=True)


def test_arrays_are_narrow(path: Path) -> None:
    rows = read(path)
    kinds = {name: values.dtype for name, values in rows.columns.items()}
    assert kinds == {
        "likes_level": torch.uint8,
        "city": torch.int16,
        "shop": torch.int32,
        "unlimited": torch.int32,
        "price": torch.float32,
        "user_id": torch.int32,
        "label": torch.uint8,
    }
    assert (rows.items.dtype, rows.end.dtype, rows.lengths.dtype) == (torch.int32, torch.int32, np.uint8)
    history = sum(map(len, make_columns()["item_seq"]))
    assert rows.nbytes == 4 * (history + N) + N * (4 + 1 + 1 + 2 + 4 + 4 + 4 + 4 + 1)
    assert read(path, max_len=300).lengths.dtype == np.int16


def test_groups_that_need_it_stay_wide(path: Path) -> None:
    pq.write_table(pa.table({**make_columns(), "user_id": np.arange(N) + 2**31}), path)
    assert read(path).columns["user_id"].tolist() == (np.arange(N) + 2**31).tolist()
    pq.write_table(pa.table({**make_columns(), "user_id": [f"u{i % 3}" for i in range(N)]}), path)
    hashes = hash_array(np.array(["u0", "u1", "u2"], object)).view(np.int64).tolist()
    assert read(path).columns["user_id"].tolist() == [hashes[i % 3] for i in range(N)]
    assert read(path, group=None).group is None


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("max_len", [20, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_batches_against_a_loop(
    path: Path, batch_size: int, max_len: int, trim: bool, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(gather, "ROWS_AT_ONCE", 16)  # two batches of 7 at a time
    rows, columns, schema = read(path, max_len=max_len), make_columns(), make_schema(max_len)
    gatherer = BatchGatherer(ItemColumns({"item_id": torch.arange(13)}), schema, trim=trim)
    order = np.random.default_rng(3).integers(0, N, 38)
    batches = list(gatherer.batches(rows, order, batch_size))
    assert len(batches) == -(-38 // batch_size)
    for batch, start in zip(batches, range(0, 38, batch_size)):
        chosen = order[start : start + batch_size]
        histories = [columns["item_seq"][row][-max_len:] for row in chosen]
        width = max(1, *map(len, histories)) if trim else max_len
        expected = [[0] * (width - len(h)) + h + [columns["item_id"][row]] for h, row in zip(histories, chosen)]
        assert batch.item_ids.tolist() == expected
        assert batch.is_real_BL.sum(dim=1).tolist() == [len(h) for h in histories]
        for name, kind in (
            ("likes_level", torch.int32), ("city", torch.int32), ("shop", torch.int32), ("unlimited", torch.int32),
            ("price", torch.float32), ("user_id", torch.int64), ("label", torch.float32),
        ):  # fmt: skip
            assert batch.context[name].dtype == kind
            np.testing.assert_array_equal(batch.context[name], columns[name][chosen])


def test_rows_may_have_no_columns(path: Path) -> None:
    schema = DatasetSchema("item_id", "item_seq", "label", None, (Column("item_id", "categorical", source="item"),), 20)
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    rows = read_rows(path, schema, ITEM_IDS, require_label=False)
    batches = BatchGatherer(ItemColumns({"item_id": torch.arange(13)}), schema).batches(rows, np.arange(N), 20)
    assert [(batch.context, len(batch.lengths_B)) for batch in batches] == [({}, 20), ({}, 20), ({}, 10)]


def test_the_group_stays_on_the_cpu(path: Path) -> None:
    moved = read(path).to(torch.device("meta"))
    devices = {name: values.device.type for name, values in moved.columns.items()}
    assert devices.pop("user_id") == "cpu" and set(devices.values()) == {"meta"}
    assert {moved.items.device.type, moved.end.device.type, moved.lengths_on_device.device.type} == {"meta"}


def test_rows_that_do_not_fit_are_refused_before_they_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "available_memory", lambda: 1000)
    monkeypatch.setattr(rows_module, "iter_whole_split", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(ConfigError, match=r"train\.parquet: 50 rows need about .* GB .* available; set stream: True"):
        read(path)


def test_stored_padding_is_not_counted_as_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = make_columns()
    columns["item_seq"] = [[0] * (200 - len(history)) + history for history in columns["item_seq"]]
    before = read(path)
    pq.write_table(pa.table(columns), path, row_group_size=20)
    monkeypatch.setattr(rows_module, "available_memory", lambda: 4000)  # stored: 40,000 bytes
    assert torch.equal(read(path).items, before.items)
    monkeypatch.setattr(rows_module, "_mean_length", lambda *_: 0.1)  # too small: the room has to grow
    assert torch.equal(read(path).items, before.items)
    assert read(path).fingerprint == before.fingerprint
