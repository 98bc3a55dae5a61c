"""The batch that models see.

The challenge's loader gives ``(batch_dict, item_dict, mask)``, with one item row per history position. Ours keeps each
distinct item once and an index beside it, and still unpacks into the challenge's three parts, so that host models which
take that tuple (``model_zoo.LongCTR.*``) run on it unchanged.

Shapes: B = rows, L = history length, U = distinct items. Axis letters at the end of a name say its shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["MultimodalBatch"]


@dataclass(frozen=True)
class MultimodalBatch(Sequence):
    """B rows of a CTR dataset, each with one target item and up to L history items.

    Attributes:
        context: column name -> (B,) tensor: context fields, the group id and, where the data has it, the label.
        items: column name -> (U, ...) tensor: the item-table rows of the distinct items.
        item_index: (B, L + 1) int64: row of ``items`` for each history position, oldest first, target last.
        is_real_BL: (B, L) bool: True where the history position holds an item, False where it is padding.
    """

    context: Mapping[str, torch.Tensor]
    items: Mapping[str, torch.Tensor]
    item_index: torch.Tensor
    is_real_BL: torch.Tensor

    @classmethod
    def from_inputs(cls, inputs: Any) -> "MultimodalBatch":
        """Accept a :class:`MultimodalBatch` or the challenge's ``(batch_dict, item_dict, mask)``, 1 = real.

        ``mask`` may have one column less than the item rows per batch row suggest (the challenge's own form: the
        target is no history position). Nothing in ``inputs`` is changed.

        Raises:
            ValueError: the item rows do not divide into B rows of L + 1.
        """
        if isinstance(inputs, cls):
            return inputs
        context, items, mask = inputs
        batch_size, length = mask.shape
        n_rows = next(iter(items.values())).shape[0]
        if n_rows != batch_size * (length + 1):
            raise ValueError(
                f"item_dict holds {n_rows} rows but mask {tuple(mask.shape)} asks for "
                f"{batch_size} x ({length} history + 1 target) = {batch_size * (length + 1)}."
            )
        index = torch.arange(n_rows, device=mask.device).view(batch_size, length + 1)
        return cls(context, items, index, mask.bool())

    @classmethod
    def from_ids(
        cls,
        context: Mapping[str, torch.Tensor],
        ids: torch.Tensor,
        is_real_BL: torch.Tensor,
        table: Mapping[str, torch.Tensor],
    ) -> "MultimodalBatch":
        """Take the distinct items of a batch out of an item table.

        Args:
            context: see the class.
            ids: (B, L + 1) int, row of the table for each history position and for the target; padding is row 0.
            is_real_BL: see the class.
            table: column name -> (n_items + 1, ...), the item table.
        """
        n_rows = len(next(iter(table.values())))
        # Marking ids in an array of all items finds the distinct ones without a sort.
        is_used = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
        is_used[ids.flatten()] = True
        distinct = is_used.nonzero().squeeze(1)
        row_of = torch.empty(n_rows, dtype=torch.int64, device=ids.device)
        row_of[distinct] = torch.arange(len(distinct), device=ids.device)
        return cls(context, {name: column[distinct] for name, column in table.items()}, row_of[ids], is_real_BL)

    def to(self, device: torch.device | str) -> "MultimodalBatch":
        """Return the batch with every tensor on ``device`` (a new batch unless all are there already)."""
        if self.is_real_BL.device == torch.device(device):
            return self
        return MultimodalBatch(
            {name: value.to(device, non_blocking=True) for name, value in self.context.items()},
            {name: value.to(device, non_blocking=True) for name, value in self.items.items()},
            self.item_index.to(device, non_blocking=True),
            self.is_real_BL.to(device, non_blocking=True),
        )

    def _challenge_form(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        flat = self.item_index.reshape(-1)
        items = {name: value[flat] for name, value in self.items.items()}
        return dict(self.context), items, self.is_real_BL.float()

    def __getitem__(self, part: Any) -> Any:
        # Host models ask inputs[0] for labels and group ids: answer without gathering the items.
        return self.context if part == 0 else self._challenge_form()[part]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._challenge_form())

    def __len__(self) -> int:
        return 3
