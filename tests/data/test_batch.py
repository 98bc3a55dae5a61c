"""The ragged batch against its padded forms, and against batches made row by row."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fuxictr_mm import batch as batch_module
from fuxictr_mm.batch import ItemColumns, MultimodalBatch, RaggedBatch
from fuxictr_mm.data.loader import MMCTRDataLoader
from tests.synthetic import tiny_feature_map, tiny_item_table

N_ITEMS = 12
LENGTHS = {
    "mixed": [4, 0, 6, 1],
    "no padding": [3, 3],
    "no history": [0, 0],
    "one row": [5],
    "one row without history": [0],
}


def ragged(lengths: list[int], table: dict[str, torch.Tensor], width: int | None = None) -> RaggedBatch:
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(1, len(table["item_id"]), sum(lengths) + len(lengths)).astype(np.int32))
    counts = torch.tensor(lengths, dtype=torch.uint8)
    return RaggedBatch(
        {"label": torch.ones(len(lengths))}, ids, counts, width or max(1, *lengths, 1), ItemColumns(table)
    )


def padded(batch: RaggedBatch) -> tuple[list[list[int]], list[list[bool]]]:
    """Ids and mask by a loop."""
    ids, mask, at = [], [], 0
    for length in batch.lengths_B.tolist():
        row = batch.ids[at : at + length + 1].tolist()
        at += length + 1
        ids.append([0] * (batch.width - length) + row)
        mask.append([False] * (batch.width - length) + [True] * length)
    return ids, mask


def table_of(n_items: int) -> dict[str, torch.Tensor]:
    """A table that is large (looked up by sorting) or small (by marking) beside a batch."""
    rng = np.random.default_rng(1)
    table = {
        "item_id": torch.arange(n_items + 1, dtype=torch.int32),
        "item_emb": torch.from_numpy(rng.normal(size=(n_items + 1, 3)).astype(np.float32)),
    }
    table["item_emb"][0] = 0
    return table


@pytest.mark.parametrize("n_items", [12, 5000])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_padded_forms_against_a_loop(lengths: list[int], n_items: int) -> None:
    batch = ragged(lengths, table_of(n_items))
    ids, mask = padded(batch)
    assert batch.item_ids.tolist() == ids and batch.is_real_BL.tolist() == mask
    assert batch.item_index.dtype == torch.int64 and batch.is_real_BL.dtype == torch.bool
    found = batch.items["item_id"]
    assert found.tolist() == sorted({i for row in ids for i in row})
    assert found[batch.item_index].tolist() == ids
    assert torch.equal(batch.items["item_emb"][batch.item_index], table_of(n_items)["item_emb"][torch.tensor(ids)])


@pytest.mark.parametrize("fresh", [0, 1 << 40])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_the_challenges_tuple_is_what_the_distinct_items_say(
    lengths: list[int], fresh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "FRESH_BYTES", fresh)
    batch = ragged(lengths, table_of(N_ITEMS))
    context, items, mask = batch
    eager = MultimodalBatch(batch.context, batch.items, batch.item_index, batch.is_real_BL)
    assert list(context) == ["label"] and batch[0] is batch.context and len(batch) == 3
    assert torch.equal(mask, batch.is_real_BL.float()) and torch.equal(eager[2], mask)
    for name, values in eager[1].items():
        assert torch.equal(items[name], values) and items[name].dtype == values.dtype
    again = MultimodalBatch.from_inputs((context, items, mask))
    assert torch.equal(again.items["item_id"][again.item_index], batch.item_ids.int())
    assert MultimodalBatch.from_inputs(batch) is batch


def test_from_ids_gives_the_same_batch() -> None:
    table = tiny_item_table(tiny_feature_map())
    batch = ragged(LENGTHS["mixed"], table)
    eager = MultimodalBatch.from_ids(batch.context, batch.item_ids, batch.is_real_BL, table)
    assert torch.equal(eager.item_index, batch.item_index)
    assert all(torch.equal(eager.items[name], values) for name, values in batch.items.items())


@pytest.mark.parametrize("width", [255, 6])
def test_as_wide_as_a_length_can_say(width: int) -> None:
    batch = ragged([width, 0], table_of(N_ITEMS), width)
    assert batch.is_real_BL.sum(dim=1).tolist() == [width, 0]
    assert batch.item_ids.shape == (2, width + 1) and batch.item_ids[1, :-1].eq(0).all()


def test_columns_lie_on_a_device_once() -> None:
    columns = ItemColumns(table_of(N_ITEMS))
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert columns.on(cpu)["item_emb"] is columns.on(cpu)["item_emb"]
    assert columns.on(meta)["item_emb"] is columns.on(meta)["item_emb"]
    batch = ragged(LENGTHS["mixed"], table_of(N_ITEMS))
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert isinstance(moved, RaggedBatch) and moved.columns is batch.columns
    assert {moved.ids.device, moved.lengths_B.device, moved.context["label"].device} == {meta}


def test_ours_is_the_hosts_tuple(tmp_path: Path) -> None:
    """The same rows in the layout of the host's LongCTR loader, whose design the challenge's loader copied."""
    longctr = pytest.importorskip("model_zoo.LongCTR.longctr_dataloader")
    rng = np.random.default_rng(0)
    n, width = 30, 6
    lengths = rng.integers(1, width + 1, n)
    histories = [rng.integers(1, N_ITEMS + 1, length).tolist() for length in lengths]
    target = rng.integers(1, N_ITEMS + 1, n)
    same = {f"{name}_level": rng.integers(1, 11, n) for name in ("likes", "views")} | {"label": rng.integers(0, 2, n)}
    table = tiny_item_table(tiny_feature_map())
    items = {
        "item_tags": table["item_tags"].tolist(),
        "item_emb": pa.array(table["item_emb"].tolist(), pa.list_(pa.float32())),
    }
    files = {
        "train": {
            "user_id": np.arange(n),
            "item_seq": [[0] * (width - len(h)) + h for h in histories],
            "item_id": target,
        },
        "rows": {"user_index": np.arange(n), "seq_len": lengths, "item_index": target},
        "users": {"full_item_seq": [h + [0] * (width - len(h)) for h in histories]},
        "item_info": {"item_id": np.arange(N_ITEMS + 1), "item_index": np.arange(N_ITEMS + 1), **items},
    }
    for name, columns in files.items():
        extra = same if name in ("train", "rows") else {}
        pq.write_table(pa.table({**columns, **extra}), tmp_path / f"{name}.parquet")
    paths = {name: str(tmp_path / f"{name}.parquet") for name in files}

    names = ["user_index", "seq_len", "item_index", "likes_level", "views_level", *items]
    host_map = SimpleNamespace(features={name: {} for name in names}, labels=["label"])
    sources = (paths["rows"], paths["users"], paths["item_info"])
    theirs: Any = longctr.LongCTRDataLoader(host_map, *sources, batch_size=7, num_workers=0, max_len=width)
    ours = MMCTRDataLoader(tiny_feature_map(), paths["train"], paths["item_info"], batch_size=7, max_len=width)
    assert len(theirs) == len(ours) == 5
    for (context, item_dict, mask), batch in zip(theirs, ours, strict=True):
        our_context, our_items, our_mask = batch
        assert torch.equal(our_mask, mask)
        for name in items:
            assert torch.equal(our_items[name].to(item_dict[name].dtype), item_dict[name])
        for name in same:
            assert our_context[name].tolist() == context[name].tolist()
