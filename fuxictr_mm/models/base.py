"""What every ranking model of ours owes the host; the models themselves hold only architecture.

Axis letters: B = rows, U = distinct items, L = history length, D = width of one item, C = width of the context.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.config.code import check_metric
from fuxictr_mm.config.keys import KEYS, Positive, Rate, Regularizer, Share, check_arguments, check_value
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import HistorySimilarity
from fuxictr_mm.layers.alignment import Alignment
from fuxictr_mm.models.item_encoder import ItemEncoder
from fuxictr_mm.models.item_vectors import ItemVectors
from fuxictr_mm.training.loop import ResumableModel
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = ["MultimodalRankModel"]


class MultimodalRankModel(ResumableModel):
    """Base of models that score a target item against a history of items with multimodal vectors.

    A subclass builds its layers from :attr:`context_dim`, :attr:`item_dim` and :attr:`item_field_dims`, ends its
    constructor with :meth:`finish`, and implements :meth:`score`. Its file in ``fuxictr_mm/models/`` is all that a new
    model needs: see :func:`~fuxictr_mm.models.registry.registered_models`. The annotations of its constructor are the
    types of its YAML keys, and a constructor that is called with another value refuses it. A model whose attention over
    the history can be read has a method ``attention_weights``, see
    :func:`~fuxictr_mm.models.history_attention.history_attention`.

    Inputs are a :class:`MultimodalBatch` or the challenge's ``(batch_dict, item_dict, mask)`` with 1 = real; the answer
    is the same.

    Args:
        feature_map: the host's ``FeatureMap``.
        embedding_dim: width of an embedding whose column does not set its own.
        embedding_std: standard deviation of id embeddings before training; FuxiCTR's 1e-4 by default. Products of two
            embeddings of that size have next to no gradient, so models that multiply them start slowly.
        alignment: how an ``embedding`` column becomes a field, unless the column sets ``feature_encoder``: ``"linear"``
            (the host's ``nn.Linear`` without bias), ``"none"`` (as stored), ``"mlp"`` or ``"gated"``.
        similarity: item columns of vectors whose cosines between target and history are a part of the context, per
            modality; columns of ``type: meta`` are compared only, those of ``type: embedding`` are fields as well.
        similarity_top_k, similarity_bias: see :class:`~fuxictr_mm.layers.HistorySimilarity`.
        id_dropout: share of the distinct items of a training batch that are treated as if training did not know them:
            their id embedding is zero, the offset of their trained vectors, and their own clicks in ``similarity``.
            The rest of the model learns to score items that have nothing but vectors.
        modality_dropout: share of the distinct items of a training batch that miss a modality, for each modality; a
            missing vector is zero, as in the item table (what training has added to it stays).
        item_col: the item id column.
        kwargs: see :class:`~fuxictr_mm.training.loop.ResumableModel`, and the host's ``BaseModel`` arguments
            (``model_id``, ``gpu``, ``metrics``, ``model_root``, ...).

    Attributes:
        embedding_layer: the :class:`~fuxictr_mm.models.item_encoder.ItemEncoder`.
        vectors: the :class:`~fuxictr_mm.models.item_vectors.ItemVectors`.
        item_field_dims: item field -> its width; :attr:`item_dim` is their sum, D.
        context_dim: C.

    Raises:
        ConfigError: an argument has a wrong value, or a column cannot be embedded as it is described.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = check_arguments(cls.__init__)  # type: ignore[method-assign]

    @check_arguments
    def __init__(
        self,
        feature_map: Any,
        model_id: str = "MultimodalRankModel",
        gpu: int = -1,
        embedding_dim: Positive = 64,
        embedding_std: Rate = 1e-4,
        alignment: Alignment = "linear",
        similarity: Sequence[str] = (),
        similarity_top_k: Positive = 3,
        similarity_bias: bool = False,
        id_dropout: Share = 0.0,
        modality_dropout: Share = 0.0,
        item_col: str = "item_id",
        embedding_regularizer: Regularizer = None,
        net_regularizer: Regularizer = None,
        **kwargs: Any,
    ) -> None:
        for key, value in kwargs.items():  # what FuxiCTR's constructor takes without a look
            if key in KEYS and KEYS[key].reader == "FuxiCTR" and not KEYS[key].path:
                check_value(f"key {key!r}", KEYS[key].type, value)
        for metric in kwargs.get("metrics", ()):
            check_metric("metrics", metric)
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            **kwargs,
        )
        self.vectors = ItemVectors(feature_map, similarity, item_col)
        self.embedding_layer = ItemEncoder(
            feature_map,
            self.vectors,
            embedding_dim=embedding_dim,
            embedding_std=embedding_std,
            alignment=alignment,
            id_dropout=id_dropout,
            modality_dropout=modality_dropout,
        )
        self.item_field_dims = self.embedding_layer.item_field_dims
        self.item_dim = self.embedding_layer.item_dim
        self.context_dim = self.embedding_layer.context_dim
        self.similarity: HistorySimilarity | None = None
        if self.vectors.count:
            self.similarity = HistorySimilarity(self.vectors.count, similarity_top_k, similarity_bias)
            self.context_dim += self.similarity.out_dim
        elif similarity_bias:
            raise ConfigError("similarity_bias: True needs 'similarity', the columns to compare, e.g. [item_vectors].")

    def finish(self, optimizer: str, loss: str, learning_rate: float) -> None:
        """Compile, initialise and place the model: what every host model does last in its constructor."""
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()
        if self.torch_compile:
            # Rows, history length and distinct items change from batch to batch.
            self.score = torch.compile(self.score, dynamic=True)  # type: ignore[method-assign]

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Return ``{"y_pred": (B, 1)}``, the probability of a click."""
        batch, is_known_U1 = MultimodalBatch.from_inputs(inputs).to(self.device), None
        if self.training:
            batch, is_known_U1 = self.embedding_layer.drop(batch)
        if batch.is_real_BL.shape[1] == 0:  # no row of the batch has a history: one position of padding stands in
            is_real_B1 = batch.is_real_BL.new_zeros(len(batch.is_real_BL), 1)
            batch = MultimodalBatch(batch.context, batch.items, batch.item_index[:, [-1, -1]], is_real_B1)
        compared = None if self.similarity is None else self.vectors.compare(batch, self.training)
        with self.autocast():
            # shape[0] and not len(): an exported graph has to follow it.
            context_BC = self.embedding_layer.context(batch.context, batch.item_index.shape[0])
            target_BD, history_BLD = self.embedding_layer.embed(batch, is_known_U1)
            return {"y_pred": self.rank(context_BC, target_BD, history_BLD, batch.is_real_BL, compared)}

    def rank(
        self,
        context_BC: torch.Tensor,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        compared: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """:meth:`score`, with what ``vectors.compare`` has found summed up as further columns of the context."""
        if self.similarity is None or compared is None:
            return self.score(context_BC, target_BD, history_BLD, is_real_BL)
        cosine_BLM, is_known_BLM = compared
        z_BLM = self.similarity.standardise(cosine_BLM, is_known_BLM)
        context_BC = torch.cat([context_BC, self.similarity(z_BLM, is_known_BLM)], dim=-1)
        return self.score(context_BC, target_BD, history_BLD, is_real_BL, self.similarity.bias(z_BLM))

    def score(
        self,
        context_BC: torch.Tensor,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        bias_BL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Score the rows of a batch.

        Args:
            context_BC: context fields, and the summed-up similarities if there are any.
            target_BD: item fields of the targets.
            history_BLD: those of the histories, padding zeroed.
            is_real_BL: bool, False at padding.
            bias_BL: added to the logits of attention over the history.

        Returns:
            (B, 1) after ``output_activation``.
        """
        raise NotImplementedError

    def get_labels(self, inputs: Any) -> torch.Tensor:
        """Return (B, 1) float labels on the model's device."""
        return inputs[0][self.feature_map.labels[0]].to(self.device).float().view(-1, 1)

    def get_group_id(self, inputs: Any) -> torch.Tensor:
        """Return (B,) group ids on the CPU, where the host's ``evaluate`` wants them."""
        return inputs[0][self.feature_map.group_id].cpu()

    def evaluate_metrics(
        self, y_true: np.ndarray, y_pred: np.ndarray, metrics: list[str], group_id: np.ndarray | None = None
    ) -> dict[str, float]:
        """See :func:`fuxictr_mm.training.metrics.evaluate_metrics`."""
        return evaluate_metrics(y_true, y_pred, metrics, group_id)
