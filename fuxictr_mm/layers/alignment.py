"""Maps from a stored multimodal vector to a field of the model; the host's default is a bare ``nn.Linear``."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

__all__ = ["ALIGNMENTS", "Alignment", "GatedAlignment", "MLPAlignment"]


class MLPAlignment(nn.Module):
    """Two linear maps with a ReLU between them: ``W2 relu(W1 x + b1)``.

    The second map has no bias, but ``b1`` still gives the zero vector a non-zero image; models mask padding, not zeros.

    Args:
        in_dim: width of the stored vector.
        out_dim: width of the field.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.hidden = nn.Linear(in_dim, out_dim)
        self.output = nn.Linear(out_dim, out_dim, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        return self.output(torch.relu(self.hidden(vectors)))


class GatedAlignment(nn.Module):
    """A linear map whose every output is let through to a learned degree: ``sigmoid(G x + g) * (W x)``.

    Args:
        in_dim: width of the stored vector.
        out_dim: width of the field.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.value = nn.Linear(in_dim, out_dim, bias=False)
        self.gate = nn.Linear(in_dim, out_dim)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        return torch.sigmoid(self.gate(vectors)) * self.value(vectors)


# A new alignment is a class ``(in_dim, out_dim)`` and an entry here, whose name is its word in a config.
ALIGNMENTS: dict[str, type[nn.Module]] = {"mlp": MLPAlignment, "gated": GatedAlignment}
if TYPE_CHECKING:
    Alignment = str
else:
    Alignment = Literal[("none", "linear", *ALIGNMENTS)]
