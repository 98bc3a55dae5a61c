"""Cross networks of DCN-V2 that can skip absent slots: the host's full-rank one, and the low-rank one."""

from typing import Any

import torch
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers.slots import SortedRows

__all__ = ["LowRankCrossNet", "SlotCrossNet"]


class SlotCrossNet(CrossNetV2):
    """The host's ``CrossNetV2``: ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``, DCN-V2 (arXiv 2008.13535), equation 1."""

    def forward(self, X_0: torch.Tensor, rows: SortedRows | None = None) -> torch.Tensor:
        """(B, D) -> (B, D). Where x_0 is zero every x_l is, so with ``rows`` absent slots are skipped."""
        if rows is None:
            return super().forward(X_0)
        X_i = X_0
        for layer in self.cross_layers:
            X_i = torch.addcmul(X_i, X_0, rows.linear(X_i, layer, inputs=True, outputs=True))
        return X_i


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

    def forward(self, x_0: torch.Tensor, rows: SortedRows | None = None) -> torch.Tensor:
        """(B, D) -> (B, D); ``rows`` as in :class:`SlotCrossNet`."""
        x_l = x_0
        layer: Any
        for layer in self.cross_layers:
            if rows is None:
                y = layer(x_l)
            else:
                y = rows.linear(rows.linear(x_l, layer[0], inputs=True), layer[1], outputs=True)
            x_l = x_0 * y + x_l
        return x_l
