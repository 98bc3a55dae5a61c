"""DIN with squeeze-and-excitation and multi-head target attention (arXiv 2504.18961)."""

from collections.abc import Sequence
from typing import Any

import torch
from fuxictr.pytorch.layers import DIN_Attention, MLP_Block, MultiHeadTargetAttention

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import BiasedDotProductAttention, FieldExcitation
from fuxictr_mm.models.base import MultimodalRankModel

__all__ = ["DIN_SE_MHTA"]

ATTENTIONS = ("mhta", "din")


class DIN_SE_MHTA(MultimodalRankModel):
    """The target attends to the history, every field is weighed by squeeze-and-excitation, an MLP scores.

    The paper gives neither widths nor the place of the excitation exactly; the defaults here are ours: one excitation
    over the fields of the target and of the attended history together, before the MLP.

    Args:
        feature_map: the host's ``FeatureMap``.
        dnn_hidden_units, dnn_activations, net_dropout, batch_norm: of the MLP.
        attention: ``"mhta"`` (the host's ``MultiHeadTargetAttention``) or ``"din"`` (its ``DIN_Attention``).
        num_heads, attention_dim, attention_dropout: heads, their total width (default: the width of an item, rounded
            up to a multiple of ``num_heads``), and dropout of the attention.
        attention_hidden_units, attention_hidden_activations, din_use_softmax: of ``attention: din``.
        interest_product: the products of target and attended history, element by element, are fields as well: what a
            matrix factorisation scores by, which an MLP learns slowly from the two side by side (Rendle et al. 2020,
            "Neural Collaborative Filtering vs. Matrix Factorization Revisited").
        use_se: weigh the fields.
        se_reduction_ratio, se_activation: see :class:`~fuxictr_mm.layers.FieldExcitation`.
        kwargs: see :class:`~fuxictr_mm.models.base.MultimodalRankModel`.
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "DIN_SE_MHTA",
        dnn_hidden_units: Sequence[int] = (512, 256, 128),
        dnn_activations: str = "ReLU",
        attention: str = "mhta",
        num_heads: int = 4,
        attention_dim: int | None = None,
        attention_dropout: float = 0.0,
        attention_hidden_units: Sequence[int] = (64,),
        attention_hidden_activations: str = "Dice",
        din_use_softmax: bool = False,
        interest_product: bool = False,
        use_se: bool = True,
        se_reduction_ratio: float = 3,
        se_activation: str = "Sigmoid",
        net_dropout: float = 0.2,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, model_id=model_id, **kwargs)
        if attention not in ATTENTIONS:
            raise ConfigError(f"attention={attention!r} must be one of {list(ATTENTIONS)}.")
        is_biased = self.similarity is not None and self.similarity.weight_M is not None
        if attention == "mhta":
            width = attention_dim or -(-self.item_dim // num_heads) * num_heads
            if width % num_heads:
                raise ConfigError(f"num_heads={num_heads} must divide attention_dim={width}.")
            self.attention_layer = MultiHeadTargetAttention(self.item_dim, width, num_heads, attention_dropout)
            if is_biased:
                self.attention_layer.dot_attention = BiasedDotProductAttention(attention_dropout)
        elif is_biased:
            raise ConfigError("similarity_bias: True needs attention: mhta; DIN's attention has no logits to add to.")
        else:
            self.attention_layer = DIN_Attention(
                self.item_dim,
                attention_units=list(attention_hidden_units),
                hidden_activations=attention_hidden_activations,
                dropout_rate=attention_dropout,
                use_softmax=din_use_softmax,
            )
        self.interest_product = interest_product
        field_dims = (3 if interest_product else 2) * tuple(self.item_field_dims.values())
        self.field_excitation = FieldExcitation(field_dims, se_reduction_ratio, se_activation) if use_se else None
        self.dnn = MLP_Block(
            input_dim=self.context_dim + sum(field_dims),
            output_dim=1,
            hidden_units=list(dnn_hidden_units),
            hidden_activations=dnn_activations,
            output_activation=self.output_activation,
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )
        self.finish(kwargs["optimizer"], kwargs["loss"], learning_rate)

    def score(
        self,
        context_BC: torch.Tensor,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        bias_BL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # -1e9 as the host fills in where its mask is 0: an empty history gives equal shares of zeros, and no NaN.
        mask_BL = is_real_BL if bias_BL is None else bias_BL.masked_fill(~is_real_BL, -1e9)
        interest_BD = self.attention_layer(target_BD, history_BLD, mask_BL)
        parts = [target_BD, interest_BD]
        if self.interest_product:
            parts.append(target_BD * interest_BD)
        fields = torch.cat(parts, dim=-1)
        if self.field_excitation is not None:
            fields = self.field_excitation(fields)
        return self.head(self.dnn, torch.cat([context_BC, fields], dim=-1))
