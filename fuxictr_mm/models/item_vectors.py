"""The vectors of items as they are stored: which modalities lie in which column, left out at random, and compared.

Nothing here is learned, and nothing is embedded.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.folds import FOLDS, PAIRS, fold_of, view_of_fold, view_of_pair
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
            are one block.
        compared: as given.
        own_clicks: those of ``compared`` that hold items' own clicks.
        count: number M of blocks that are compared.
        names: of those, ``column`` or, where a column has several, ``column.modality``.

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
        self._click_width = {name: feature_map.features[name].get("click_width") for name in self.blocks}
        self._group_id = feature_map.group_id
        self.item_col = item_col
        self.names = [
            name if len(self.blocks[name]) == 1 else f"{name}.{modality}"
            for name in self.compared
            for modality, _ in self.blocks[name]
        ]
        self.count = len(self.names)

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

        In ``training``, click vectors are those of a view which the row's user has no part in, for the same reason
        (:mod:`fuxictr_mm.features.derive.folds`); one of own clicks is drawn at random.

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
        found, known = [], []
        for vectors, index_of_view in self._blocks_of(batch, training):
            found.append(cosines(vectors.target_UW, vectors.history_UW, index_of_view))
            is_known_target_B1 = vectors.is_known_target_U[index_of_view[:, -1:]]
            known.append(vectors.is_known_history_U[index_of_view[:, :-1]] & is_known_target_B1 & is_other_BL)
        return torch.stack(found, dim=-1), torch.stack(known, dim=-1)

    def known_targets(self, batch: MultimodalBatch, training: bool = False) -> torch.Tensor:
        """(B, M) bool: which targets have a vector to be compared by, where ``compare`` would look for one."""
        found = [part.is_known_target_U[index[:, -1]] for part, index in self._blocks_of(batch, training)]
        return torch.stack(found, dim=-1)

    def _blocks_of(self, batch: MultimodalBatch, training: bool) -> Iterator[tuple[ComparedVectors, torch.Tensor]]:
        """For each block, the vectors of items, and (B, L + 1) the rows of them that the batch compares."""
        for name in self.compared:
            if training and self._clicks[name]:
                views, vectors = self._views(name, batch.items)
                view_B = self._view_of_rows(name, batch)
                yield vectors, batch.item_index * views + view_B.unsqueeze(1)
            else:
                yield from ((vectors, batch.item_index) for vectors in self._units_of(name, batch.items))

    def _units_of(self, name: str, items: Mapping[str, torch.Tensor]) -> list[ComparedVectors]:
        """The vectors of one column; of clicks those of all users."""
        values, width = self._values(name, items), self._click_width[name]
        if self._clicks[name] == "expected":
            target, history = values[:, : 2 * width].chunk(2, dim=-1)
            return [ComparedVectors(*unit_rows(target), *unit_rows(history))]
        if self._clicks[name] == "own":
            parts = [values[:, :width]]
        else:
            parts = list(values.split([size for _, size in self.blocks[name]], dim=-1))
        return [ComparedVectors(*unit, *unit) for unit in map(unit_rows, parts)]

    def _views(self, name: str, items: Mapping[str, torch.Tensor]) -> tuple[int, ComparedVectors]:
        """The vectors of a column of clicks in all views, (U V, W), and the number V of views."""
        values, width = self._values(name, items), self._click_width[name]
        if self._clicks[name] == "expected":
            target, history = values.view(-1, 2 * width).chunk(2, dim=-1)
            return 1 + FOLDS, ComparedVectors(*unit_rows(target), *unit_rows(history))
        unit = unit_rows(values.view(-1, width))
        return 1 + len(PAIRS), ComparedVectors(*unit, *unit)

    def _view_of_rows(self, name: str, batch: MultimodalBatch) -> torch.Tensor:
        """(B,) the view of a column of clicks that each training row is compared in."""
        if self._group_id is None or self._group_id not in batch.context:
            raise ConfigError(
                f"similarity of {name}: training needs the user of each row, group_id={self._group_id!r}, and the "
                f"batch has {sorted(batch.context)}; name the users' column in the dataset's 'group_id'."
            )
        fold_B = fold_of(batch.context[self._group_id].to(batch.item_index.device).long())
        if self._clicks[name] == "expected":
            return view_of_fold(fold_B)
        return view_of_pair(fold_B, torch.randint_like(fold_B, 1, FOLDS))

    def _values(self, name: str, items: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if name not in items:
            raise ConfigError(
                f"the batch has no item column {name!r}, which is compared; found {sorted(items)}. Give the loader "
                "the model's 'similarity' too."
            )
        return items[name].float()
