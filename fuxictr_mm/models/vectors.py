"""The vectors of items as they are stored: which modalities stand in which column, left out at random, and compared.

Apart from the base of our models because nothing here is learned, and nothing is embedded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import cosines, unit_rows

__all__ = ["ComparedVectors", "ItemVectors"]


class ComparedVectors(NamedTuple):
    """One modality of U items, as targets and as items of a history: (U, W) rows of norm 1, and (U,) bool.

    Both views are the same but for click vectors. False where an item has no vector.
    """

    target_UW: torch.Tensor
    is_known_target_U: torch.Tensor
    history_UW: torch.Tensor
    is_known_history_U: torch.Tensor


class ItemVectors:
    """What a feature map says about the vector columns of items.

    Args:
        feature_map: the host's ``FeatureMap``; a column that names no ``modalities`` is one, under its own name.
        compared: columns in which targets are compared with histories.
        item_col: the item id column.

    Attributes:
        blocks: column -> its modalities and their widths, in the order in which they stand side by side. Click vectors
            are one block: the vectors of targets, then those of histories.
        compared: as given.
        count: number M of blocks that are compared.

    Raises:
        ConfigError: ``compared`` is no list of such columns.
    """

    def __init__(self, feature_map: Any, compared: Sequence[str], item_col: str) -> None:
        self.blocks: dict[str, list[tuple[str, int]]] = {}
        for name, spec in feature_map.features.items():
            width = spec.get("pretrain_dim", spec.get("embedding_dim"))
            if spec.get("source") == "item" and spec["type"] in ("embedding", "meta") and width:
                self.blocks[name] = [(modality, size) for modality, size in spec.get("modalities", [(name, width)])]
        if isinstance(compared, str) or any(name not in self.blocks for name in compared or ()):
            raise ConfigError(
                f"similarity={compared!r} must be a list of item columns of 'type: embedding' or 'type: meta'; found "
                f"{sorted(self.blocks)}."
            )
        self.compared = list(compared or ())
        self._clicks = {name for name in self.blocks if feature_map.features[name].get("is_click_vector")}
        self.item_col = item_col
        self.count = sum(len(self.blocks[name]) for name in self.compared)

    def drop(self, batch: MultimodalBatch, share: float) -> MultimodalBatch:
        """Zero each modality of a random ``share`` of the distinct items, the same items in all its columns."""
        items = dict(batch.items)
        is_kept: dict[str, torch.Tensor] = {}
        for name, blocks in self.blocks.items():
            if name not in items:
                continue
            parts = items[name].split([width for _, width in blocks], dim=-1)
            for modality, _ in blocks:
                if modality not in is_kept:
                    is_kept[modality] = torch.rand(len(items[name]), 1, device=items[name].device) >= share
            items[name] = torch.cat([part * is_kept[modality] for part, (modality, _) in zip(parts, blocks)], dim=-1)
        return MultimodalBatch(batch.context, items, batch.item_index, batch.is_real_BL)

    def units(self, items: Mapping[str, torch.Tensor]) -> list[ComparedVectors]:
        """The vectors of ``items``, for each block that is compared."""
        blocks: list[ComparedVectors] = []
        for name in self.compared:
            if name not in items:
                raise ConfigError(f"the batch has no item column {name!r}, which is compared; found {sorted(items)}.")
            if name in self._clicks:
                target, history = items[name].float().chunk(2, dim=-1)
                blocks.append(ComparedVectors(*unit_rows(target), *unit_rows(history)))
                continue
            for block in items[name].float().split([width for _, width in self.blocks[name]], dim=-1):
                unit = unit_rows(block)
                blocks.append(ComparedVectors(*unit, *unit))
        return blocks

    def compare(self, batch: MultimodalBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare each target with its history, but not with itself: a log that holds the click would give it away.

        Returns:
            (B, L, M) cosines, and (B, L, M) bool: False at padding, where the history item is the target, and where
            either vector is missing.
        """
        index = batch.item_index
        is_other_BL = batch.is_real_BL & (index[:, :-1] != index[:, -1:])
        if self.item_col in batch.items:  # the challenge's batch has a row of items for every position
            ids = batch.items[self.item_col][index]
            # 0: items that training did not know have no id of their own.
            is_other_BL = is_other_BL & ((ids[:, :-1] != ids[:, -1:]) | (ids[:, -1:] == 0))
        found, known = [], []
        for vectors in self.units(batch.items):
            found.append(cosines(vectors.target_UW, vectors.history_UW, index))
            is_known_target_B1 = vectors.is_known_target_U[index[:, -1:]]
            known.append(is_other_BL & vectors.is_known_history_U[index[:, :-1]] & is_known_target_B1)
        return torch.stack(found, dim=-1), torch.stack(known, dim=-1)
