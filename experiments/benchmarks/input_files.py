"""Files of the input benchmark: the same rows in the challenge's layout and in that of FuxiCTR's LongCTR loader.

They are made once and then read by many processes.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import N_ITEMS, draw_lengths
from tqdm import tqdm

__all__ = ["N_TAGS", "STORED_WIDTH", "host_feature_map", "our_feature_map", "write_files", "write_ragged"]

STORED_WIDTH = {"challenge": 64, "long": 100}
N_TAGS = 11_740
ROWS_PER_USER = 4  # one positive, three negatives
PART = 1 << 18  # rows written at once


def write_files(folder: Path, kind: str, rows: int) -> None:
    """Write ``train`` (ours), ``rows`` and ``users`` (LongCTR's) and ``item_info`` (both).

    Items are drawn uniformly: more distinct items per batch than real data have, so that the arms which gather them
    once gain least.
    """
    rng = np.random.default_rng(0)
    width = STORED_WIDTH[kind]
    rng_items = np.random.default_rng(1)
    vectors = rng_items.normal(size=(N_ITEMS + 1, 128)).astype(np.float32)
    tags = rng_items.integers(1, N_TAGS, (N_ITEMS + 1, 5))
    vectors[0] = tags[0] = 0
    index = np.arange(N_ITEMS + 1)
    items = {"item_index": index, "item_id": index, "item_tags": _lists(tags), "item_emb_d128": _lists(vectors)}
    pq.write_table(pa.table(items), folder / "item_info.parquet")
    writers: dict[str, pq.ParquetWriter] = {}
    with tqdm(total=rows, desc=f"files, {kind} histories", unit=" rows", disable=None) as bar:
        for start in range(0, rows, PART):
            count = min(PART, rows - start)
            for name, table in _part(rng, kind, width, start, count).items():
                if name not in writers:
                    writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
                writers[name].write_table(table)
            bar.update(count)
    for writer in writers.values():
        writer.close()


def _part(rng: np.random.Generator, kind: str, width: int, start: int, count: int) -> dict[str, pa.Table]:
    users = -(-count // ROWS_PER_USER)
    lengths = draw_lengths(kind, rng, users)
    latest_last = rng.integers(1, N_ITEMS + 1, (users, width))
    latest_last[np.arange(width) < (width - lengths)[:, None]] = 0
    from_left = np.zeros_like(latest_last)
    from_left[np.arange(width) < lengths[:, None]] = latest_last[latest_last > 0]
    user = np.arange(count) // ROWS_PER_USER
    target = rng.integers(1, N_ITEMS + 1, count)
    same = {f"{name}_level": rng.integers(1, 11, count) for name in ("likes", "views")}
    same["label"] = (np.arange(count) % ROWS_PER_USER == 0).astype(np.int64)
    user_id = start // ROWS_PER_USER + user
    ours = {"user_id": user_id, "item_seq": _lists(latest_last[user]), "item_id": target, **same}
    theirs = {"user_index": user_id, "seq_len": lengths[user], "item_index": target, **same}
    return {"train": pa.table(ours), "rows": pa.table(theirs), "users": pa.table({"full_item_seq": _lists(from_left)})}


def write_ragged(path: Path, rows: int) -> None:
    """Write the challenge's layout without padding, in row groups of 262,144."""
    rng = np.random.default_rng(0)
    writer = None
    with tqdm(total=rows, desc=path.name, unit=" rows", disable=None) as bar:
        for start in range(0, rows, PART):
            count = min(PART, rows - start)
            lengths = draw_lengths("challenge", rng, count)
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            columns = {
                "user_id": np.arange(start, start + count) // ROWS_PER_USER,
                "item_seq": pa.ListArray.from_arrays(offsets, rng.integers(1, N_ITEMS + 1, lengths.sum())),
                "item_id": rng.integers(1, N_ITEMS + 1, count),
                "likes_level": rng.integers(1, 11, count),
                "views_level": rng.integers(1, 11, count),
                "label": rng.integers(0, 2, count),
            }
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            bar.update(count)
    if writer is not None:
        writer.close()


def _lists(values: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def our_feature_map(folder: Path) -> Any:
    """What our loader asks of a ``FeatureMap``."""
    level = {"type": "categorical", "vocab_size": 11}
    features = {
        "user_id": {"type": "meta"},
        "likes_level": level,
        "views_level": level,
        "item_id": {"type": "categorical", "source": "item", "vocab_size": N_ITEMS + 1},
        "item_tags": {"type": "sequence", "source": "item", "vocab_size": N_TAGS, "max_len": 5},
        "item_emb_d128": {"type": "embedding", "source": "item", "embedding_dim": 128},
    }
    return SimpleNamespace(features=features, labels=["label"], group_id="user_id", data_dir=str(folder))


def host_feature_map(*names: str) -> Any:
    """What the host's loaders ask of a ``FeatureMap``."""
    return SimpleNamespace(features={name: {} for name in names}, labels=["label"])
