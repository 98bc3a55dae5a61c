"""Transformer + DCNv2, first place of the WWW 2025 multimodal CTR challenge (arXiv 2505.03543)."""

from typing import Any, Literal

import torch
from fuxictr.pytorch.layers import CrossNetV2, MLP_Block

from fuxictr_mm.config.keys import Activations, NonNegative, Positive, Rate, Share, Widths
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import HistoryEncoder, LowRankCrossNet, Slots
from fuxictr_mm.layers.activations import checked_activations
from fuxictr_mm.layers.history import PaddingMask, Position
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.history_attention import HistoryAttention, listen

__all__ = ["Transformer_DCNv2"]


class Transformer_DCNv2(MultimodalRankModel):
    """A Transformer reads the history beside the target, a cross network and an MLP read everything.

    ``f = [context | target | history]``, ``y = MLP([CrossNetV2(f) | MLP(f)])``; arXiv 2505.03543, section 3. Parameter
    names are those of the published checkpoint.

    Args:
        feature_map: the host's ``FeatureMap``.
        hidden_activations: of both MLPs.
        dcn_cross_layers, dcn_hidden_units: cross layers, and hidden units of the MLP beside them.
        mlp_hidden_units: hidden units of the last MLP.
        num_heads, transformer_layers, transformer_dropout, dim_feedforward, first_k_cols, concat_max_pool, position,
            padding_mask, use_transformer, target_concat: see :class:`~fuxictr_mm.layers.HistoryEncoder`.
        cross: ``"full"`` (the paper's), ``"low_rank"`` (DCN-V2's cheaper form) or ``"none"``.
        cross_rank: inner width of ``"low_rank"``; default a quarter of the width of f, as DCN-V2 advises.
        net_dropout, batch_norm: of the MLP beside the cross network.
        max_len: longest history; only ``position: learned`` needs it.
        kwargs: see :class:`~fuxictr_mm.models.base.MultimodalRankModel`.
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "Transformer_DCNv2",
        hidden_activations: Activations = "ReLU",
        dcn_cross_layers: NonNegative = 3,
        dcn_hidden_units: Widths = (1024, 512, 256),
        mlp_hidden_units: Widths = (64, 32),
        num_heads: Positive = 1,
        transformer_layers: Positive = 2,
        transformer_dropout: Share = 0.2,
        dim_feedforward: Positive = 256,
        first_k_cols: NonNegative = 16,
        concat_max_pool: bool = True,
        use_transformer: bool = True,
        target_concat: bool = True,
        position: Position = "none",
        padding_mask: PaddingMask = "correct",
        cross: Literal["full", "low_rank", "none"] = "full",
        cross_rank: Positive | None = None,
        net_dropout: Share = 0.2,
        batch_norm: bool = False,
        learning_rate: Rate = 5e-4,
        max_len: Positive = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.transformer_encoder = HistoryEncoder(
            self.item_dim,
            max_len,
            target_concat=target_concat,
            use_transformer=use_transformer,
            transformer_layers=transformer_layers,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            transformer_dropout=transformer_dropout,
            first_k_cols=first_k_cols,
            concat_max_pool=concat_max_pool,
            position=position,
            padding_mask=padding_mask,
        )
        before = self.context_dim + self.item_dim
        f_dim = before + self.transformer_encoder.out_dim
        self.slots = Slots(f_dim, first=before, slot_width=self.transformer_encoder.token_dim, count=first_k_cols)
        self.crossnet: CrossNetV2 | LowRankCrossNet | None = None
        if cross == "full":
            self.crossnet = CrossNetV2(f_dim, dcn_cross_layers)
        elif cross == "low_rank":
            self.crossnet = LowRankCrossNet(f_dim, dcn_cross_layers, cross_rank or max(1, f_dim // 4))
        self.parallel_dnn = MLP_Block(
            input_dim=f_dim,
            hidden_units=list(dcn_hidden_units),
            hidden_activations=checked_activations("hidden_activations", hidden_activations, dcn_hidden_units),
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )
        self.mlp = MLP_Block(
            input_dim=dcn_hidden_units[-1] + (f_dim if self.crossnet is not None else 0),
            output_dim=1,
            hidden_units=list(mlp_hidden_units),
            hidden_activations=checked_activations("hidden_activations", hidden_activations, mlp_hidden_units),
            output_activation=self.output_activation,
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
        user = self.transformer_encoder(target_BD, history_BLD, is_real_BL, bias_BL)
        f = torch.cat([context_BC, target_BD, user], dim=-1)
        present_B = self.transformer_encoder.present_slots(is_real_BL)
        crossed, deep = self.slots(f, present_B, self.crossnet, self.parallel_dnn.mlp)
        return self.head(self.mlp, deep if crossed is None else torch.cat([crossed, deep], dim=-1))

    def attention_weights(self, inputs: Any) -> HistoryAttention:
        """See :func:`~fuxictr_mm.models.history_attention.history_attention`; the queries are the history itself.

        Raises:
            ConfigError: ``use_transformer: False``.
        """
        with self.transformer_encoder.giving_weights() as layers:
            if not layers:
                raise ConfigError(
                    "use_transformer: False: this Transformer_DCNv2 has no attention over the history; explain an "
                    "experiment that has it."
                )
            weights, is_real_BL, score_B = listen(self, inputs, layers)
        return HistoryAttention(tuple(weights), is_real_BL, is_real_BL, score_B)
