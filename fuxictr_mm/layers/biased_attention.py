"""The host's dot-product attention with a bias instead of a mask."""

import torch
from fuxictr.pytorch.layers import ScaledDotProductAttention

__all__ = ["BiasedDotProductAttention"]


class BiasedDotProductAttention(ScaledDotProductAttention):
    """Adds what it is given as ``mask`` to the logits; the host's fills them with -1e9 where the mask is 0.

    Args:
        dropout_rate: of the attention weights.
    """

    def forward(
        self,
        Q: torch.Tensor,
        K: torch.Tensor,
        V: torch.Tensor,
        scale: float | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(..., Lq, D), (..., Lk, D), (..., Lk, D), bias (..., Lq, Lk) -> (..., Lq, D) and weights (..., Lq, Lk)."""
        logits = Q @ K.transpose(-1, -2) / (scale or 1.0)
        weights = (logits if mask is None else logits + mask).softmax(dim=-1)
        if self.dropout is not None:
            weights = self.dropout(weights)
        return weights @ V, weights
