"""The low-rank cross network of DCN-V2; the full-rank one is the host's ``CrossNetV2``."""

import torch
from torch import nn

from fuxictr_mm.errors import ConfigError

__all__ = ["LowRankCrossNet"]


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
