"""Cross networks of DCN-V2: the host's full-rank one without work on absent history, and the low-rank one."""

from typing import Any

import torch
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn

from fuxictr_mm.errors import ConfigError

__all__ = ["LowRankCrossNet", "SlotCrossNet"]

# Narrower inputs gain nothing: there the calls cost more than the arithmetic that they save.
MIN_WIDTH = 2048
# Slots are skipped a quarter of them at a time: fewer, larger matrix products waste some zeros and are still faster.
LEVELS = 4
_Range = tuple[int, int]
# Rows that reach a level, its own columns, and the columns of all levels before it.
_Level = tuple[int, list[_Range], list[_Range]]


class SlotCrossNet(CrossNetV2):
    """The host's ``CrossNetV2`` for an input of which some columns are slots, latest last, absent ones zero.

    ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`` (DCN-V2, arXiv 2008.13535, equation 1). Where x_0 is zero, every x_l is
    zero as well. Told how many slots each row has, a CPU multiplies only with the weights between present columns;
    the outputs are the same, and so are the gradients of all weights. The gradient of the zeros is left incomplete.

    Args:
        input_dim: width D of the input and of the output.
        num_layers: number of cross layers.
        first_slot: column where the oldest slot begins.
        slot_width: columns of one slot.
        n_slots: number of slots, one behind the other.
    """

    def __init__(self, input_dim: int, num_layers: int, *, first_slot: int, slot_width: int, n_slots: int) -> None:
        super().__init__(input_dim, num_layers)
        self.input_dim = input_dim
        self.first_slot = first_slot
        self.slot_width = slot_width
        self.n_slots = n_slots
        self._spare: dict[int, torch.Tensor] = {}  # layer -> memory of a past gradient of its weight

    def forward(self, X_0: torch.Tensor, present_B: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) -> (B, D). ``present_B``: (B,) int, how many of the latest slots may differ from zero; None: all."""
        skips = present_B is not None and X_0.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not skips or torch.compiler.is_compiling() or self.input_dim < MIN_WIDTH or not self.n_slots:
            return super().forward(X_0)
        assert present_B is not None
        order_B = present_B.argsort(descending=True, stable=True)
        levels = self._levels(present_B[order_B])
        x_0 = X_0[order_B]
        x_l = x_0
        for number, layer in enumerate(self.cross_layers):
            x_l = _CrossLayer.apply(x_0, x_l, layer.weight, layer.bias, levels, self._spare, number)
        return x_l[order_B.argsort()]

    def recycle_gradients(self) -> None:
        """Take the weights' gradients away, and compute the next ones in the same memory.

        Fresh memory costs more than the arithmetic: at the paper's widths a gradient is 330 MB per layer.
        """
        for number, layer in enumerate(self.cross_layers):
            if layer.weight.grad is not None:
                self._spare[number] = layer.weight.grad
                layer.weight.grad = None

    def _levels(self, present_B: torch.Tensor) -> list[_Level]:
        """Split the columns: those that every row has, then the slots from the latest on; most slots first in (B,)."""
        end = self.first_slot + self.n_slots * self.slot_width
        always = [(low, high) for low, high in ((0, self.first_slot), (end, self.input_dim)) if low < high]
        levels: list[_Level] = [(len(present_B), always, [])]
        step = -(-self.n_slots // LEVELS)
        for slots in range(0, self.n_slots, step):
            rows = int((present_B > slots).sum())
            own = (end - min(slots + step, self.n_slots) * self.slot_width, end - slots * self.slot_width)
            before = [(0, self.first_slot), (own[1], self.input_dim)]
            levels.append((rows, [own], [(low, high) for low, high in before if low < high]))
        return levels


class _CrossLayer(torch.autograd.Function):
    """``x_0 * (W x_l + b) + x_l`` for rows sorted by their number of slots.

    Level by level, the blocks of W between its columns and all columns before them meet the rows that reach it: every
    block is read or written once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_0: torch.Tensor,
        x_l: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        levels: list[_Level],
        spare: dict[int, torch.Tensor],
        number: int,
    ) -> torch.Tensor:
        y = bias.repeat(len(x_0), 1)
        for rows, low, high, first, last in _blocks(levels):
            y[:rows, low:high].addmm_(x_l[:rows, first:last], weight[low:high, first:last].t())
        ctx.save_for_backward(x_0, x_l, weight, y)
        ctx.levels, ctx.spare, ctx.number = levels, spare, number
        return torch.addcmul(x_l, x_0, y)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_0, x_l, weight, y = ctx.saved_tensors
        grad_y = grad * x_0
        grad_l = grad.clone()
        spare = ctx.spare.pop(ctx.number, None)
        grad_weight = torch.empty_like(weight) if spare is None else spare
        for rows, low, high, first, last in _blocks(ctx.levels):
            block = grad_weight[low:high, first:last]
            if not rows:
                block.zero_()
                continue
            grad_l[:rows, first:last].addmm_(grad_y[:rows, low:high], weight[low:high, first:last])
            torch.mm(grad_y[:rows, low:high].t(), x_l[:rows, first:last], out=block)
        return grad * y, grad_l, grad_weight, grad_y.sum(dim=0), None, None, None


def _blocks(levels: list[_Level]) -> list[tuple[int, int, int, int, int]]:
    """Rows, output columns and input columns of every block of the weight; together they cover it once."""
    blocks = []
    for rows, own, before in levels:
        for low, high in own:
            blocks += [(rows, low, high, first, last) for first, last in own + before]
            blocks += [(rows, first, last, low, high) for first, last in before]
    return blocks


class LowRankCrossNet(nn.Module):
    """``x_{l+1} = x_0 * (U_l V_l^T x_l + b_l) + x_l``, DCN-V2 (arXiv 2008.13535), equation 2.

    Args:
        input_dim: width D of the input and of the output.
        num_layers: number of cross layers.
        rank: inner width r of every layer; 2 D r weights instead of D^2.

    Raises:
        ConfigError: ``rank`` is not between 1 and ``input_dim``.
    """

    def __init__(self, input_dim: int, num_layers: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= input_dim:
            raise ConfigError(f"cross_rank={rank} must be between 1 and the width of the cross network, {input_dim}.")
        self.out_dim = input_dim
        self.cross_layers = nn.ModuleList(
            nn.Sequential(nn.Linear(input_dim, rank, bias=False), nn.Linear(rank, input_dim)) for _ in range(num_layers)
        )

    def forward(self, x_0: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, D)."""
        x_l = x_0
        for layer in self.cross_layers:
            x_l = x_0 * layer(x_l) + x_l
        return x_l
