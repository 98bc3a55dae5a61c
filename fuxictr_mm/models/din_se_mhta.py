"""DIN with squeeze-and-excitation and multi-head target attention (arXiv 2504.18961)."""

from typing import Any, Literal

import torch
from fuxictr.pytorch.layers import DIN_Attention, MLP_Block, MultiHeadTargetAttention

from fuxictr_mm.config.keys import Activations, Positive, PositiveNumber, Rate, Share, Widths
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import BiasedDotProductAttention
from fuxictr_mm.layers.activations import checked_activations
from fuxictr_mm.layers.fusion import FUSIONS, Fusion
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.history_attention import HistoryAttention, listen

__all__ = ["DIN_SE_MHTA"]


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
        fusion: what is done to the fields before the MLP, one of :data:`~fuxictr_mm.layers.fusion.FUSIONS`, or
            ``"none"``; default ``"se"``.
        use_se: the same switch for ``"se"`` and ``"none"`` alone.
        se_reduction_ratio, se_activation: of ``fusion: se``, see :class:`~fuxictr_mm.layers.FieldExcitation`.
        kwargs: see :class:`~fuxictr_mm.models.base.MultimodalRankModel`.
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "DIN_SE_MHTA",
        dnn_hidden_units: Widths = (512, 256, 128),
        dnn_activations: Activations = "ReLU",
        attention: Literal["mhta", "din"] = "mhta",
        num_heads: Positive = 4,
        attention_dim: Positive | None = None,
        attention_dropout: Share = 0.0,
        attention_hidden_units: Widths = (64,),
        attention_hidden_activations: Activations = "Dice",
        din_use_softmax: bool = False,
        interest_product: bool = False,
        fusion: Fusion | None = None,
        use_se: bool | None = None,
        se_reduction_ratio: PositiveNumber = 3,
        se_activation: Literal["Sigmoid", "ReLU"] = "Sigmoid",
        net_dropout: Share = 0.2,
        batch_norm: bool = False,
        learning_rate: Rate = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, model_id=model_id, **kwargs)
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
                hidden_activations=checked_activations(
                    "attention_hidden_activations", attention_hidden_activations, attention_hidden_units
                ),
                dropout_rate=attention_dropout,
                use_softmax=din_use_softmax,
            )
        self.interest_product = interest_product
        field_dims = (3 if interest_product else 2) * tuple(self.item_field_dims.values())
        # Named after the first fusion there was, as in checkpoints that were trained with it.
        self.field_excitation: Any = None
        fused_dim = sum(field_dims)
        if (name := _fusion(fusion, use_se)) != "none":
            options: tuple[Any, ...] = (se_reduction_ratio, se_activation) if name == "se" else ()
            self.field_excitation = FUSIONS[name](field_dims, *options)
            fused_dim = self.field_excitation.out_dim
        self.dnn = MLP_Block(
            input_dim=self.context_dim + fused_dim,
            output_dim=1,
            hidden_units=list(dnn_hidden_units),
            hidden_activations=checked_activations("dnn_activations", dnn_activations, dnn_hidden_units),
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

    def attention_weights(self, inputs: Any) -> HistoryAttention:
        """See :func:`~fuxictr_mm.models.history_attention.history_attention`; the one query is the target."""
        layer = self.attention_layer
        if isinstance(layer, DIN_Attention):
            (scores,), is_real_BL, score_B = listen(self, inputs, [layer.attention_layer])
            weights = _din_weights(scores, is_real_BL, layer.use_softmax)
        else:
            (weights,), is_real_BL, score_B = listen(self, inputs, [layer.dot_attention])
        return HistoryAttention((weights,), is_real_BL.any(dim=1, keepdim=True), is_real_BL, score_B)


def _fusion(fusion: str | None, use_se: bool | None) -> str:
    """The one word that ``fusion`` and its older switch ``use_se`` say together."""
    if use_se is None:
        return fusion or "se"
    wanted = "se" if use_se else "none"
    if fusion not in (None, wanted):
        raise ConfigError(f"fusion: {fusion} and use_se: {use_se} contradict each other; leave use_se out.")
    return wanted


def _din_weights(scores: torch.Tensor, is_real_BL: torch.Tensor, use_softmax: bool) -> torch.Tensor:
    """(B L, 1) scores of DIN's MLP -> (B, 1, 1, L) shares; padding has none, as in the host's layer."""
    scores_BL = scores.view(is_real_BL.shape)
    if use_softmax:
        weights_BL = scores_BL.masked_fill(~is_real_BL, -1e9).softmax(dim=1)
    else:
        absolute_BL = scores_BL.abs().masked_fill(~is_real_BL, 0.0)
        weights_BL = absolute_BL / absolute_BL.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return weights_BL[:, None, None]
