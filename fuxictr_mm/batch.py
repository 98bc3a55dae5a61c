"""The batch that models see.

The challenge's loader gives ``(batch_dict, item_dict, mask)``, with one item row per history position. Ours carries ids
alone; the item columns lie on the device once, and when a model embeds, the distinct items of the batch are found and
gathered there. It still unpacks into the challenge's three parts, so that host models which take that tuple
(``model_zoo.LongCTR.*``) run on it unchanged.

Shapes: B = rows, L = history length, U = distinct items. Axis letters at the end of a name say its shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

__all__ = ["ItemColumns", "MultimodalBatch", "RaggedBatch"]

# From this size on, glibc takes memory for every array anew from the system and does not reuse its own.
FRESH_BYTES = 32 << 20


class MultimodalBatch(Sequence):
    """B rows of a CTR dataset, each with one target item and up to L history items.

    Attributes:
        context: column name -> (B,) tensor: context fields, the group id and, where the data has it, the label.
        items: column name -> (U, ...) tensor: the item-table rows of the distinct items.
        item_index: (B, L + 1) int64: row of ``items`` for each history position, oldest first, target last.
        is_real_BL: (B, L) bool: True where the history position holds an item, False where it is padding.
    """

    def __init__(
        self,
        context: Mapping[str, torch.Tensor],
        items: Mapping[str, torch.Tensor],
        item_index: torch.Tensor,
        is_real_BL: torch.Tensor,
    ) -> None:
        self.context = context
        self.items = items
        self.item_index = item_index
        self.is_real_BL = is_real_BL

    @classmethod
    def from_inputs(cls, inputs: Any) -> "MultimodalBatch":
        """Accept a :class:`MultimodalBatch` or the challenge's ``(batch_dict, item_dict, mask)``, 1 = real.

        ``mask`` may have one column less than the item rows per batch row suggest (the challenge's own form: the
        target is no history position). Nothing in ``inputs`` is changed.

        Raises:
            ValueError: the item rows do not divide into B rows of L + 1.
        """
        if isinstance(inputs, MultimodalBatch):
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
        return MultimodalBatch(context, items, index, mask.bool())

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
        distinct, index = torch.unique(ids, return_inverse=True)
        items = {name: column.index_select(0, distinct) for name, column in table.items()}
        return MultimodalBatch(context, items, index, is_real_BL)

    def to(self, device: torch.device | str) -> "MultimodalBatch":
        """Return the batch with every tensor on ``device`` (a new batch unless all are there already)."""
        if self.is_real_BL.device == torch.device(device):
            return self
        return MultimodalBatch(
            _moved(self.context, device),
            _moved(self.items, device),
            self.item_index.to(device, non_blocking=True),
            self.is_real_BL.to(device, non_blocking=True),
        )

    def _challenge_form(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        flat = self.item_index.reshape(-1)
        items = {name: value.index_select(0, flat) for name, value in self.items.items()}
        return dict(self.context), items, self.is_real_BL.float()

    def __getitem__(self, part: Any) -> Any:
        # Host models ask inputs[0] for labels and group ids: answer without gathering the items.
        return self.context if part == 0 else self._challenge_form()[part]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._challenge_form())

    def __len__(self) -> int:
        return 3


class ItemColumns:
    """The columns of an item table, at most once on each device.

    A column is as long as the model's own embedding of the item id, and not wider than that with its optimizer state:
    where the model fits, so do they.

    Args:
        columns: column name -> (n_items + 1, ...) on the CPU; row 0 is padding and holds zeros.
    """

    def __init__(self, columns: Mapping[str, torch.Tensor]) -> None:
        self._on = {torch.device("cpu"): dict(columns)}
        self.n_rows = len(next(iter(columns.values())))

    def on(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Column name -> the column on ``device``, copied there the first time."""
        if device not in self._on:
            self._on[device] = _moved(self._on[torch.device("cpu")], device)
        return self._on[device]


class RaggedBatch(MultimodalBatch):
    """A batch of ids; its other forms are made when somebody asks, on the device where the ids are.

    Args:
        context: see :class:`MultimodalBatch`.
        ids: (S,) int32, the items of row 0 (its history, oldest first, then its target), those of row 1, and so on.
        lengths_B: (B,) whole numbers of any type, history length of each row, at most ``width``; S is their sum + B.
        width: L of the padded forms, at least 1.
        columns: what the ids are rows of.
    """

    def __init__(
        self,
        context: Mapping[str, torch.Tensor],
        ids: torch.Tensor,
        lengths_B: torch.Tensor,
        width: int,
        columns: ItemColumns,
    ) -> None:
        self.context = context
        self.ids = ids
        self.lengths_B = lengths_B
        self.width = width
        self.columns = columns

    @cached_property
    def is_real_BL(self) -> torch.Tensor:  # type: ignore[override]
        return self._is_filled[:, :-1]

    @cached_property
    def item_ids(self) -> torch.Tensor:
        """(B, L + 1) int64: row of the item table for each history position, oldest first, target last; 0 = padding."""
        return self._padded(self.ids)

    @cached_property
    def items(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        distinct, _ = self._distinct
        return {name: column.index_select(0, distinct) for name, column in self._table.items()}

    @cached_property
    def item_index(self) -> torch.Tensor:  # type: ignore[override]
        return self._padded(self._distinct[1])

    def to(self, device: torch.device | str) -> MultimodalBatch:
        """See :meth:`MultimodalBatch.to`; what moves are the ids."""
        if self.ids.device == torch.device(device):
            return self
        ids, lengths_B = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.lengths_B))
        return RaggedBatch(_moved(self.context, device), ids, lengths_B, self.width, self.columns)

    @property
    def _table(self) -> dict[str, torch.Tensor]:
        return self.columns.on(self.ids.device)

    @cached_property
    def _is_filled(self) -> torch.Tensor:
        """(B, L + 1) bool: history items and targets."""
        kind = self.lengths_B.dtype
        position = torch.arange(self.width + 1, dtype=kind, device=self.ids.device)
        return position >= (self.width - self.lengths_B).unsqueeze(1)

    @cached_property
    def _distinct(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct rows of the table, ascending, with 0 in front if there is padding; place in them of each id."""
        has_padding = len(self.ids) < len(self.lengths_B) * (self.width + 1)
        if self.ids.device.type == "cpu" and self.columns.n_rows < 32 * len(self.ids):
            return _marked(self.ids, self.columns.n_rows, has_padding)
        distinct, place = torch.unique(self.ids, return_inverse=True)
        if has_padding:
            distinct, place = torch.cat([distinct.new_zeros(1), distinct]), place + 1
        return distinct, place

    def _padded(self, values: torch.Tensor) -> torch.Tensor:
        """Spread (S,) over (B, L + 1) int64 with 0 at padding."""
        is_filled = self._is_filled
        if is_filled.device.type == "cpu":  # four times as fast as torch's masked_scatter_
            array = np.zeros(is_filled.shape, np.int64)
            array[is_filled.numpy()] = values.numpy()
            return torch.from_numpy(array)
        padded = torch.zeros(is_filled.shape, dtype=torch.int64, device=values.device)
        return padded.masked_scatter_(is_filled, values.long())

    def _challenge_form(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        items = {name: self._spread(column) for name, column in self._table.items()}
        return dict(self.context), items, self.is_real_BL.float()

    def _spread(self, column: torch.Tensor) -> torch.Tensor:
        """(B (L + 1), ...): the rows of a column for every position."""
        nbytes = self._is_filled.numel() * column[0].nbytes
        if column.device.type != "cpu" or nbytes < FRESH_BYTES:
            return column.index_select(0, self.item_ids.view(-1))
        # Most positions are padding, and the system hands out zeros: what nobody writes to costs nothing.
        spread = torch.from_numpy(np.zeros((self._is_filled.numel(), *column.shape[1:]), column.numpy().dtype))
        filled = torch.from_numpy(np.flatnonzero(self._is_filled.numpy()))
        return spread.index_copy_(0, filled, column.index_select(0, self.ids))


def _marked(ids: torch.Tensor, n_rows: int, has_padding: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct ids and place of each in them, by marking in an array of all items: no sort, but a look at each item."""
    where = ids.numpy().astype(np.int64)
    is_used = np.zeros(n_rows, bool)
    is_used[where] = True
    if has_padding:
        is_used[0] = True
    distinct = np.flatnonzero(is_used)
    place_of = np.empty(n_rows, np.int64)
    place_of[distinct] = np.arange(len(distinct))
    return torch.from_numpy(distinct), torch.from_numpy(place_of[where])


def _moved(tensors: Mapping[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
