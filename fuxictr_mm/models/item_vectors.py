"""The vectors of items as they are stored: which modalities lie in which column, left out at random, and compared.

Nothing here is learned, and nothing is embedded.
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

    Both views are the same but for expected clicks. False where an item has no vector.
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
            are one block: expected ones hold the vectors of targets, then those of histories, own ones the folds.
        compared: as given.
        own_clicks: those of ``compared`` that hold items' own clicks.
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
        if any(name not in self.blocks for name in compared):
            raise ConfigError(
                f"similarity={compared!r} must be a list of item columns of 'type: embedding' or 'type: meta'; found "
                f"{sorted(self.blocks)}."
            )
        self.compared = list(compared)
        self._clicks = {name: feature_map.features[name].get("click_vectors") for name in self.blocks}
        self.own_clicks = [name for name in self.compared if self._clicks[name] == "own"]
        folds = {feature_map.features[name].get("click_folds", 0) for name in self.compared}
        self._folds = max(folds, default=0)  # of users; own clicks of every column have the same
        self._group_id = feature_map.group_id
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

    def without_own_clicks(self, batch: MultimodalBatch, is_known_U1: torch.Tensor) -> MultimodalBatch:
        """Zero the own clicks of the items that are not known, (U, 1) bool: an item that is new has none."""
        own = {name: batch.items[name] * is_known_U1 for name in self.own_clicks if name in batch.items}
        return MultimodalBatch(batch.context, {**batch.items, **own}, batch.item_index, batch.is_real_BL)

    def units(self, items: Mapping[str, torch.Tensor]) -> list[ComparedVectors]:
        """The vectors of ``items``, for each block that is compared; own clicks are those of all users."""
        return [vectors for name in self.compared for vectors in self._units_of(name, items)]

    def compare(self, batch: MultimodalBatch, training: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare each target with its history, but not with itself: a log that holds the click would give it away.

        In ``training``, own clicks are those of the other users' folds, for the same reason.

        Returns:
            (B, L, M) cosines, and (B, L, M) bool: False at padding, where the history item is the target, and where
            either vector is missing.

        Raises:
            ConfigError: in training, the batch does not say whose row is whose.
        """
        index = batch.item_index
        is_other_BL = batch.is_real_BL & (index[:, :-1] != index[:, -1:])
        if self.item_col in batch.items:  # the challenge's batch has a row of items for every position
            ids = batch.items[self.item_col][index]
            # 0: items that training did not know have no id of their own.
            is_other_BL = is_other_BL & ((ids[:, :-1] != ids[:, -1:]) | (ids[:, -1:] == 0))
        rows_of_folds = self._rows_of_folds(batch) if training and self._folds else None
        found, known = [], []
        for name in self.compared:
            if rows_of_folds is None or name not in self.own_clicks:
                parts = [_compared(vectors, index) for vectors in self._units_of(name, batch.items)]
            else:
                cosine_BL = torch.zeros(is_other_BL.shape, device=index.device)
                is_known_BL = torch.zeros_like(is_other_BL)
                for fold, rows in enumerate(rows_of_folds):
                    if len(rows):
                        (vectors,) = self._units_of(name, batch.items, 1 + fold)
                        cosine_BL[rows], is_known_BL[rows] = _compared(vectors, index[rows])
                parts = [(cosine_BL, is_known_BL)]
            found += [cosine_BL for cosine_BL, _ in parts]
            known += [is_known_BL & is_other_BL for _, is_known_BL in parts]
        return torch.stack(found, dim=-1), torch.stack(known, dim=-1)

    def _units_of(self, name: str, items: Mapping[str, torch.Tensor], view: int = 0) -> list[ComparedVectors]:
        """The vectors of one column; of own clicks those of all users, or of all but the users of fold ``view`` - 1."""
        if name not in items:
            raise ConfigError(
                f"the batch has no item column {name!r}, which is compared; found {sorted(items)}. Give the loader "
                "the model's 'similarity' too."
            )
        values = items[name].float()
        if self._clicks[name] == "expected":
            target, history = values.chunk(2, dim=-1)
            return [ComparedVectors(*unit_rows(target), *unit_rows(history))]
        if name in self.own_clicks:
            blocks = [values.chunk(1 + self._folds, dim=-1)[view]]
        else:
            blocks = list(values.split([width for _, width in self.blocks[name]], dim=-1))
        return [ComparedVectors(*unit, *unit) for unit in map(unit_rows, blocks)]

    def _rows_of_folds(self, batch: MultimodalBatch) -> list[torch.Tensor]:
        """For each fold of users, the rows of the batch that are theirs."""
        if self._group_id is None or self._group_id not in batch.context:
            raise ConfigError(
                f"similarity of own clicks: training needs the user of each row, group_id={self._group_id!r}, and the "
                f"batch has {sorted(batch.context)}; name the users' column in the dataset's 'group_id'."
            )
        fold_B = batch.context[self._group_id].to(batch.item_index.device).remainder(self._folds)
        return [(fold_B == fold).nonzero().squeeze(1) for fold in range(self._folds)]


def _compared(vectors: ComparedVectors, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L) cosines of the targets with their histories, and whether both vectors are known."""
    is_known_target_B1 = vectors.is_known_target_U[index[:, -1:]]
    is_known_BL = vectors.is_known_history_U[index[:, :-1]] & is_known_target_B1
    return cosines(vectors.target_UW, vectors.history_UW, index), is_known_BL
