"""Small data whose shape or answer is known."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap

N_ITEMS = 12
N_TAGS = 6


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
        if spec["type"] == "embedding":
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


MODEL_KWARGS: dict[str, Any] = {
    "embedding_dim": 4,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC", "logloss"],
    "verbose": 0,
}
