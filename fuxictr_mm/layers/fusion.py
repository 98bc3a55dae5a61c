"""Fusions: what is done to the fields of a row before a network reads them side by side.

A new fusion is a class here whose constructor takes the widths of the fields, with an ``out_dim``, and an entry in
:data:`FUSIONS`, whose name is its word in a config: ``fusion: se``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from fuxictr.pytorch.layers import SqueezeExcitation
from torch import nn

__all__ = ["FUSIONS", "FieldExcitation", "Fusion"]


class FieldExcitation(SqueezeExcitation):
    """The host's squeeze-and-excitation for fields that cannot be stacked into one tensor.

    Each field is squeezed to its mean, the means pass a bottleneck, and every field is multiplied by its own answer
    (FiBiNET, arXiv 1905.09433, section 3.2; there the fields have one common width).

    Args:
        field_dims: width of each field.
        reduction_ratio: fields divided by this number is the width of the bottleneck (at least 1).
        excitation_activation: ``"Sigmoid"`` or ``"ReLU"``.
    """

    def __init__(
        self, field_dims: Sequence[int], reduction_ratio: float = 3, excitation_activation: str = "Sigmoid"
    ) -> None:
        super().__init__(len(field_dims), reduction_ratio, excitation_activation)
        self.field_dims = tuple(field_dims)
        self.out_dim = sum(field_dims)

    def forward(self, fields_BD: torch.Tensor) -> torch.Tensor:
        """(B, sum of field_dims) -> the same shape, each field scaled by one number per row."""
        fields = fields_BD.split(self.field_dims, dim=-1)
        squeezed_BF = torch.stack([field.mean(dim=-1) for field in fields], dim=-1)
        scale_BF = self.excitation(squeezed_BF)
        return torch.cat([field * scale_BF[:, i : i + 1] for i, field in enumerate(fields)], dim=-1)


FUSIONS: dict[str, type[nn.Module]] = {"se": FieldExcitation}
if TYPE_CHECKING:
    Fusion = str
else:
    Fusion = Literal[("none", *FUSIONS)]
