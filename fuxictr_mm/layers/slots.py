"""Linear layers over an input of which some columns are slots, absent ones zero: a CPU skips the zeros.

A row of Transformer_DCNv2 holds the last k outputs of its history side by side, and most histories are shorter than
k. What is absent is zero, stays zero in every cross layer, and needs no multiplication.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Slots", "SortedRows"]

# Narrower inputs gain nothing: there the calls cost more than the arithmetic that they save.
MIN_WIDTH = 2048
# Slots are skipped an eighth of them at a time: beyond that, smaller matrix products cost more than they save.
LEVELS = 8
_Range = tuple[int, int]
_Blocks = list[tuple[int, _Range, _Range]]  # rows, output columns, input columns


@dataclass(frozen=True)
class _Level:
    """Columns that the first ``rows`` rows have, and the columns of all levels before it."""

    rows: int
    own: list[_Range]
    before: list[_Range]


class Slots(nn.Module):
    """Where the slots of an input lie, and the memory of past gradients.

    Args:
        width: columns D of the input.
        first: column where the oldest slot begins.
        slot_width: columns of one slot.
        count: number of slots, one behind the other, the latest last.
    """

    def __init__(self, width: int, *, first: int, slot_width: int, count: int) -> None:
        super().__init__()
        self.width = width
        self.first = first
        self.slot_width = slot_width
        self.count = count
        self._used: set[torch.Tensor] = set()  # weights that a gradient was computed for
        self._spare: dict[torch.Tensor, torch.Tensor] = {}  # weight -> memory of a past gradient of it

    def sort(self, x_BD: torch.Tensor, present_B: torch.Tensor | None) -> "SortedRows | None":
        """Return the order of rows, most slots first, in which zeros can be skipped; None: it would not pay.

        Args:
            x_BD: the input, for its device only.
            present_B: (B,) int, how many of the latest slots of a row may differ from zero; None: all.
        """
        pays = present_B is not None and self.count and self.width >= MIN_WIDTH and x_BD.device.type == "cpu"
        # A compiled graph cannot follow the counts of one batch.
        if not pays or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return None
        assert present_B is not None
        order_B = present_B.argsort(descending=True, stable=True)
        return SortedRows(self, order_B, order_B.argsort(), self._levels(present_B[order_B]))

    def recycle_gradients(self) -> None:
        """Take the gradients of the weights away, and compute the next ones in the same memory.

        Fresh memory costs more than the arithmetic: at the paper's widths a gradient is 330 MB per cross layer.
        """
        for weight in self._used:
            if weight.grad is not None:
                self._spare[weight] = weight.grad
                weight.grad = None

    def gradient_memory(self, weight: torch.Tensor) -> torch.Tensor:
        """Return memory for the gradient of ``weight``, with old numbers in it."""
        self._used.add(weight)
        spare = self._spare.pop(weight, None)
        return torch.empty_like(weight) if spare is None else spare

    def _levels(self, present_B: torch.Tensor) -> list[_Level]:
        """Split the columns: those that every row has, then the slots from the latest on; most slots first in (B,)."""
        end = self.first + self.count * self.slot_width
        levels = [_Level(len(present_B), _filled((0, self.first), (end, self.width)), [])]
        step = -(-self.count // LEVELS)
        for slots in range(0, self.count, step):
            rows = int((present_B > slots).sum())
            low = end - min(slots + step, self.count) * self.slot_width
            high = end - slots * self.slot_width
            levels.append(_Level(rows, [(low, high)], _filled((0, self.first), (high, self.width))))
        return levels


@dataclass(frozen=True)
class SortedRows:
    """Rows of a batch, most slots first.

    Attributes:
        slots: what they are rows of.
        order_B: (B,) number of each sorted row in the batch.
        inverse_B: (B,) place of each row of the batch among the sorted ones.
        levels: columns, and how many rows have them.
    """

    slots: Slots
    order_B: torch.Tensor
    inverse_B: torch.Tensor
    levels: list[_Level]

    def linear(self, x: torch.Tensor, layer: nn.Linear, *, inputs: bool = False, outputs: bool = False) -> torch.Tensor:
        """``layer(x)`` for sorted rows, where it is needed.

        Outputs at absent slots are the bias alone. The weight's gradient is that of ``layer(x)`` if the gradient at
        absent slots of the output is zero; the gradient of absent slots of the input is left incomplete.

        Args:
            x: (B, layer.in_features) sorted rows.
            layer: the layer.
            inputs: the columns of x are the slots' input.
            outputs: the columns of the answer are.
        """
        blocks: _Blocks = []
        for level in self.levels:
            for own in level.own:
                if inputs and outputs:
                    blocks += [(level.rows, own, columns) for columns in level.own + level.before]
                    blocks += [(level.rows, columns, own) for columns in level.before]
                elif inputs:
                    blocks.append((level.rows, (0, layer.out_features), own))
                else:
                    blocks.append((level.rows, own, (0, layer.in_features)))
        answer: torch.Tensor = _BlockLinear.apply(x, layer.weight, layer.bias, blocks, self.slots)
        return answer


class _BlockLinear(torch.autograd.Function):
    """``x W^T + b`` by blocks of W that meet the first rows of x only; together they cover W at most once."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, blocks: _Blocks, slots: Slots
    ) -> torch.Tensor:
        y = x.new_zeros(len(x), len(weight)) if bias is None else bias.repeat(len(x), 1)
        for rows, (low, high), (first, last) in blocks:
            y[:rows, low:high].addmm_(x[:rows, first:last], weight[low:high, first:last].t())
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.blocks, ctx.slots = weight, blocks, slots
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        grad_weight = ctx.slots.gradient_memory(ctx.weight)
        for rows, (low, high), (first, last) in ctx.blocks:
            block = grad_weight[low:high, first:last]
            if rows:
                grad_x[:rows, first:last].addmm_(grad[:rows, low:high], weight[low:high, first:last])
                torch.mm(grad[:rows, low:high].t(), x[:rows, first:last], out=block)
            else:
                block.zero_()
        return grad_x, grad_weight, grad.sum(dim=0) if ctx.needs_input_grad[2] else None, None, None


def _filled(*ranges: _Range) -> list[_Range]:
    return [(low, high) for low, high in ranges if low < high]
