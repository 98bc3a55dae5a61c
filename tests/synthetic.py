"""Small data whose shape or answer is known."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuxictr.features import FeatureMap

N_ITEMS = 12
N_TAGS = 6


def write_parquet(table: pa.Table, path: Path, **options: Any) -> Path:
    """Write a parquet file; skips the test where this pyarrow (below 22) cannot write fixed-size lists with nulls."""
    try:
        pq.write_table(table, path, **options)
    except pa.ArrowNotImplementedError as err:
        pytest.skip(f"pyarrow {pa.__version__}: {err}")
    return path


def tiny_feature_map(
    data_dir: str | Path = "unused", *, vectors: bool = True, second_vector: bool = False
) -> FeatureMap:
    """A feature map as ``MultimodalFeatureProcessor`` would leave it: two context fields, three or four item fields."""
    feature_map = FeatureMap("tiny", str(data_dir))
    feature_map.labels = ["label"]
    feature_map.group_id = "user_id"
    features: OrderedDict[str, dict[str, Any]] = OrderedDict()
    features["user_id"] = {"type": "meta"}
    features["likes_level"] = {"type": "categorical", "source": "", "vocab_size": 11, "padding_idx": 0}
    features["views_level"] = {"type": "categorical", "source": "", "vocab_size": 11, "padding_idx": 0}
    features["item_id"] = {"type": "categorical", "source": "item", "vocab_size": N_ITEMS + 1, "padding_idx": 0}
    features["item_tags"] = {
        "type": "sequence",
        "source": "item",
        "vocab_size": N_TAGS,
        "padding_idx": 0,
        "max_len": 3,
        "feature_encoder": "layers.MaskedAveragePooling()",
    }
    if vectors:
        features["item_emb"] = {"type": "embedding", "source": "item", "embedding_dim": 5, "pretrain_dim": 7}
    if second_vector:
        features["image_emb"] = {"type": "embedding", "source": "item", "embedding_dim": 3, "pretrain_dim": 4}
    feature_map.features = features
    return feature_map


def tiny_item_table(feature_map: FeatureMap, seed: int = 0) -> dict[str, torch.Tensor]:
    """Item columns with row 0 as padding."""
    generator = torch.Generator().manual_seed(seed)
    table: dict[str, torch.Tensor] = {"item_id": torch.arange(N_ITEMS + 1)}
    table["item_tags"] = torch.randint(0, N_TAGS, (N_ITEMS + 1, 3), generator=generator)
    for name, spec in feature_map.features.items():
        if "pretrain_dim" in spec:
            table[name] = torch.randn(N_ITEMS + 1, spec["pretrain_dim"], generator=generator)
    for column in table.values():
        column[0] = 0
    return table


def tiny_challenge_batch(
    feature_map: FeatureMap, lengths: tuple[int, ...] = (4, 0, 6, 1), width: int = 6, seed: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """``(batch_dict, item_dict, mask)`` as the challenge's loader gives it: left-padded, 1 = real, target last."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(lengths)
    mask = torch.zeros(rows, width)
    ids = torch.zeros(rows, width + 1, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1
        ids[row, width - length :] = torch.randint(1, N_ITEMS + 1, (length + 1,), generator=generator)
    table = tiny_item_table(feature_map)
    batch_dict = {
        "user_id": torch.arange(rows),
        "likes_level": torch.randint(1, 11, (rows,), generator=generator),
        "views_level": torch.randint(1, 11, (rows,), generator=generator),
        "label": torch.tensor([row % 2 for row in range(rows)], dtype=torch.float64),
    }
    return batch_dict, {name: column[ids.flatten()] for name, column in table.items()}, mask


def move_weights(model: torch.nn.Module, scale: float) -> None:
    """Add noise to all weights, more to embeddings, so that scores differ; the padding row stays zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_embedding = "embedding_layers" in name
            change = (0.2 if is_embedding else scale) * torch.randn_like(parameter)
            if is_embedding:
                change[0] = 0  # padding
            parameter.add_(change)


MODEL_KWARGS: dict[str, Any] = {
    "embedding_dim": 4,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC", "logloss"],
    "verbose": 0,
}


# What FuxiCTR and the models need besides a dataset.
RUN_PARAMS: dict[str, Any] = {
    "verbose": 0,
    "metrics": ["AUC", "logloss", "gAUC"],
    "loss": "binary_crossentropy",
    "optimizer": "adam",
    "embedding_dim": 8,
    "max_len": 5,
    "batch_size": 128,
    "learning_rate": 0.005,
}


def write_cluster_dataset(folder: Path, *, seed: int = 0, rows: int = 3000, test_labels: bool = True) -> dict[str, Any]:
    """A click happens exactly if the target shares the cluster of the latest history item; vectors show the cluster.

    Returns:
        the dataset's FuxiCTR parameters, with paths relative to ``folder``.
    """
    rng = np.random.default_rng(seed)
    n_items, n_clusters = 40, 4
    cluster = np.arange(n_items + 1) % n_clusters
    centres = rng.normal(size=(n_clusters, 6))
    vectors = (centres[cluster[1:]] + 0.05 * rng.normal(size=(n_items, 6))).astype(np.float32)
    items = {
        "item_id": list(range(1, n_items + 1)),
        "item_tags": [[0, 0, 1 + int(c)] for c in cluster[1:]],
        "likes_level": rng.integers(1, 11, n_items).tolist(),
        "text": vectors.tolist(),
        "image": (20 * vectors[:, :5] + rng.normal(size=(n_items, 5))).astype(np.float32).tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(items), folder / "items.parquet")
    for split, count in (("train", rows), ("valid", rows // 4), ("test", rows // 4)):
        length = rng.integers(0, 7, count)
        length[0] = 0  # one empty history in each split
        history = [rng.integers(1, n_items + 1, n).tolist() for n in length]
        target = rng.integers(1, n_items + 1, count)
        wanted = np.array([cluster[h[-1]] if h else 0 for h in history])
        alike = cluster[target] == wanted
        swap = ~alike & (rng.random(count) < 0.4)  # more clicks than the quarter that chance gives
        target[swap] = [rng.choice(np.flatnonzero(cluster[1:] == w) + 1) for w in wanted[swap]]
        columns = {
            "user_id": (np.arange(count) // 5).tolist(),
            "item_seq": history,
            "item_id": target.tolist(),
            "likes_level": rng.integers(1, 11, count).tolist(),
        }
        if split != "test" or test_labels:
            columns["label"] = (cluster[target] == wanted).astype(int).tolist()
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return {
        "data_root": "processed",
        "data_format": "parquet",
        "rebuild_dataset": False,
        **{f"{split}_data": f"{split}.parquet" for split in ("train", "valid", "test")},
        "item_info": "items.parquet",
        "group_id": "user_id",
        "feature_cols": [
            {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
            {"name": "likes_level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 11},
            {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
            {
                "name": "item_tags",
                "active": True,
                "dtype": "int",
                "type": "sequence",
                "source": "item",
                "feature_encoder": "layers.MaskedAveragePooling()",
            },
            {
                "name": "item_emb",
                "active": True,
                "dtype": "float",
                "type": "embedding",
                "source": "item",
                "embedding_dim": 8,
                "pca": {"text": 4, "image": 3},
            },
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }
