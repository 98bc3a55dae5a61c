"""A cross network and an MLP over an input of which some columns are slots, absent ones zero: a CPU skips the zeros.

A row of Transformer_DCNv2 holds the last k outputs of its history side by side, and most histories are shorter than
k. What is absent is zero, stays zero in every cross layer, and needs no multiplication.
"""

from dataclasses import dataclass
from typing import Any

import torch
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn

from fuxictr_mm.layers.cross import LowRankCrossNet

__all__ = ["Slots"]

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
    """Give a cross network and an MLP the same input, without the slots that are absent.

    The gradient of a layer's weights is computed in the memory of its last gradient, once that has been taken away
    (``zero_grad``); copy a gradient that is to be kept beyond that. Fresh memory costs more than the arithmetic: at the
    paper's widths a gradient is 330 MB per cross layer.

    Args:
        width: columns D of the input.
        first: column where the oldest slot begins.
        slot_width: columns of one slot.
        count: number of slots, one behind the other, the latest last.
        min_width: narrower inputs are not sorted, because the calls would cost more than the arithmetic that they
            save; ``math.inf`` switches all skipping off.
    """

    def __init__(self, width: int, *, first: int, slot_width: int, count: int, min_width: float = 2048) -> None:
        super().__init__()
        self.width = width
        self.first = first
        self.slot_width = slot_width
        self.count = count
        self.min_width = min_width
        # Weights whose gradients are kept -> memory of the last one, None while it is in use.
        self._memory: dict[torch.Tensor, torch.Tensor | None] = {}

    def forward(
        self,
        x_BD: torch.Tensor,
        present_B: torch.Tensor | None,
        crossnet: CrossNetV2 | LowRankCrossNet | None,
        mlp: nn.Sequential,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return ``(crossnet(x), mlp(x))``; ``None`` for no ``crossnet``.

        Where slots are skipped, the gradient of an absent slot of ``x`` is left incomplete: it must be a constant.

        Args:
            x_BD: the input.
            present_B: (B,) int, how many of the latest slots of a row may differ from zero; None: all.
            crossnet: its ``cross_layers`` are linear layers, or pairs of them (low rank).
            mlp: begins with a linear layer.
        """
        if present_B is None or not self._pays(x_BD):
            deep = mlp(x_BD)  # first, as where slots are skipped: the order of the gradient's sum is in its last bits
            return None if crossnet is None else crossnet(x_BD), deep
        order_B = present_B.argsort(descending=True, stable=True)
        inverse_B = order_B.argsort()
        levels = self._levels(present_B[order_B])
        x_0 = x_BD[order_B]
        layer: Any = mlp[0]
        # Back in the batch's order before dropout, which draws row by row.
        deep = mlp[1:](self._linear(x_0, layer, levels, inputs=True)[inverse_B])
        if crossnet is None:
            return None, deep
        x_l = x_0
        for layer in crossnet.cross_layers:
            if isinstance(layer, nn.Linear):
                y = self._linear(x_l, layer, levels, inputs=True, outputs=True)
            else:
                y = self._linear(self._linear(x_l, layer[0], levels, inputs=True), layer[1], levels, outputs=True)
            x_l = torch.addcmul(x_l, x_0, y)  # zero wherever x_0 is
        return x_l[inverse_B], deep

    def _pays(self, x_BD: torch.Tensor) -> bool:
        # A compiled graph cannot follow the counts of one batch.
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        return self.count > 0 and self.width >= self.min_width and x_BD.device.type == "cpu"

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

    def _linear(
        self,
        x: torch.Tensor,
        layer: nn.Linear,
        levels: list[_Level],
        *,
        inputs: bool = False,
        outputs: bool = False,
    ) -> torch.Tensor:
        """``layer(x)`` for sorted rows; absent slots of the input (or output) are neither read nor written.

        Outputs at absent slots are the bias alone. The weight's gradient is that of ``layer(x)`` if the gradient at
        absent slots of the output is zero.

        Args:
            x: (B, layer.in_features) sorted rows.
            layer: the layer.
            levels: columns, and how many rows have them.
            inputs: the columns of x are the slots' input.
            outputs: the columns of the answer are.
        """
        blocks: _Blocks = []
        for level in levels:
            for own in level.own:
                if inputs and outputs:
                    blocks += [(level.rows, own, columns) for columns in level.own + level.before]
                    blocks += [(level.rows, columns, own) for columns in level.before]
                elif inputs:
                    blocks.append((level.rows, (0, layer.out_features), own))
                else:
                    blocks.append((level.rows, own, (0, layer.in_features)))
        answer: torch.Tensor = _BlockLinear.apply(x, layer.weight, layer.bias, blocks, self)
        return answer

    def gradient_memory(self, weight: torch.Tensor) -> torch.Tensor:
        """Return memory for the gradient of ``weight``, with old numbers in it."""
        if not weight.is_leaf:
            return torch.empty_like(weight)
        if weight not in self._memory:
            self._memory[weight] = None
            weight.register_post_accumulate_grad_hook(self._keep)
        memory = self._memory[weight]
        if memory is None or weight.grad is not None:  # gradients are being added up: the last one is still needed
            return torch.empty_like(weight)
        self._memory[weight] = None
        return memory

    def _keep(self, weight: torch.Tensor) -> None:
        self._memory[weight] = weight.grad

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": {}}  # a copied model has other weights, without hooks


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
        grad_weight = ctx.slots.gradient_memory(ctx.weight) if ctx.needs_input_grad[1] else None
        for rows, (low, high), (first, last) in ctx.blocks:
            if rows:
                grad_x[:rows, first:last].addmm_(grad[:rows, low:high], weight[low:high, first:last])
            if grad_weight is None:
                continue
            block = grad_weight[low:high, first:last]
            if rows:
                torch.mm(grad[:rows, low:high].t(), x[:rows, first:last], out=block)
            else:
                block.zero_()
        return grad_x, grad_weight, grad.sum(dim=0) if ctx.needs_input_grad[2] else None, None, None


def _filled(*ranges: _Range) -> list[_Range]:
    return [(low, high) for low, high in ranges if low < high]
