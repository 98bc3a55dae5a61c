"""What every ranking model of ours owes the host, written once; the models themselves hold only architecture.

Axis letters: B = rows, U = distinct items, L = history length, D = width of one item, C = width of the context.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.layers import FeatureEmbedding
from torch import nn

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import GatedAlignment, HistorySimilarity, MLPAlignment
from fuxictr_mm.models.item_vectors import ItemVectors
from fuxictr_mm.training.loop import ResumableModel
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = ["MultimodalRankModel"]

ALIGNMENTS = ("none", "linear", "mlp", "gated")


class MultimodalRankModel(ResumableModel):
    """Base of models that score a target item against a history of items with multimodal vectors.

    A subclass builds its layers from :attr:`context_dim`, :attr:`item_dim` and :attr:`item_field_dims`, ends its
    constructor with :meth:`finish`, and implements :meth:`score`. Inputs are a :class:`MultimodalBatch` or the
    challenge's ``(batch_dict, item_dict, mask)`` with 1 = real; the answer is the same.

    An ``embedding`` column with ``freeze_emb: False`` goes on training: to the stored vector of each item comes an
    offset of its own that begins at zero, so the first value is the stored one and ``embedding_regularizer`` pulls
    back to it. Items that came after the training have no offset.

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

    Raises:
        ConfigError: a switch has an unknown value, or a column cannot be embedded as it is described.
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "MultimodalRankModel",
        gpu: int = -1,
        embedding_dim: int = 64,
        embedding_std: float = 1e-4,
        alignment: str = "linear",
        similarity: Sequence[str] = (),
        similarity_top_k: int = 3,
        similarity_bias: bool = False,
        id_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        item_col: str = "item_id",
        embedding_regularizer: float | str | None = None,
        net_regularizer: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            **kwargs,
        )
        self.embedding_layer = FeatureEmbedding(
            feature_map, embedding_dim, embedding_initializer=f"partial(nn.init.normal_, std={embedding_std!r})"
        )
        self.item_field_dims: dict[str, int] = {}
        self.context_field_dims: dict[str, int] = {}
        for name, spec in feature_map.features.items():
            if spec["type"] == "meta":
                continue
            fields = self.item_field_dims if spec.get("source") == "item" else self.context_field_dims
            fields[name] = self._align(name, spec, alignment, embedding_dim)
        # Inside the host's FeatureEmbeddingDict, because embedding_regularizer applies to what it finds in there.
        self.embedding_layer.embedding_layer.offsets = _offsets(feature_map, self.item_field_dims)
        self.item_dim = sum(self.item_field_dims.values())
        self.context_dim = sum(self.context_field_dims.values())
        self.id_dropout = _share("id_dropout", id_dropout)
        self.modality_dropout = _share("modality_dropout", modality_dropout)
        self.item_col = item_col
        self.vectors = ItemVectors(feature_map, similarity, item_col)
        known_by_id = item_col in self.item_field_dims or self.trained_vectors or self.vectors.own_clicks
        if id_dropout and not known_by_id:
            raise ConfigError(
                f"id_dropout: the item id {item_col!r} is no item field; found {sorted(self.item_field_dims)}. Name it "
                "by the dataset key 'item_col', or set id_dropout: 0."
            )
        self.similarity: HistorySimilarity | None = None
        if self.vectors.count:
            self.similarity = HistorySimilarity(self.vectors.count, similarity_top_k, similarity_bias)
            self.context_dim += self.similarity.out_dim
        elif similarity_bias:
            raise ConfigError("similarity_bias: True needs 'similarity', the columns to compare, e.g. [item_vectors].")

    @property
    def trained_vectors(self) -> list[str]:
        """The columns with ``freeze_emb: False``."""
        return list(self.embedding_layer.embedding_layer.offsets)

    def _align(self, name: str, spec: dict[str, Any], alignment: str, embedding_dim: int) -> int:
        """Put the alignment of one column in place and return the width of its field."""
        width: int = spec.get("emb_output_dim", spec.get("embedding_dim", embedding_dim))
        if spec["type"] == "sequence" and not spec.get("feature_encoder"):
            raise ConfigError(
                f"column {name!r}: a sequence needs a pooling; add feature_encoder: layers.MaskedAveragePooling()."
            )
        if spec["type"] != "embedding" or spec.get("feature_encoder"):
            return width
        if alignment not in ALIGNMENTS:
            raise ConfigError(f"alignment={alignment!r} must be one of {list(ALIGNMENTS)}.")
        stored: int = spec.get("pretrain_dim", width)
        encoders = self.embedding_layer.embedding_layer.feature_encoders
        if alignment == "none":
            encoders[name] = nn.Identity()
            return stored
        if alignment == "mlp":
            encoders[name] = MLPAlignment(stored, width)
        elif alignment == "gated":
            encoders[name] = GatedAlignment(stored, width)
        return width

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
        batch = MultimodalBatch.from_inputs(inputs).to(self.device)
        if self.training and self.modality_dropout:
            batch = self.vectors.drop(batch, self.modality_dropout)
        if batch.is_real_BL.shape[1] == 0:  # no row of the batch has a history: one position of padding stands in
            is_real_B1 = batch.is_real_BL.new_zeros(len(batch.is_real_BL), 1)
            batch = MultimodalBatch(batch.context, batch.items, batch.item_index[:, [-1, -1]], is_real_B1)
        is_known_U1 = self.draw_known_items(batch)
        if is_known_U1 is not None:
            batch = self.vectors.without_own_clicks(batch, is_known_U1)
        compared = None if self.similarity is None else self.vectors.compare(batch, self.training)
        with self.autocast():
            context_BC = self.embed_context(batch)
            target_BD, history_BLD, is_real_BL = self.embed_items(batch, is_known_U1)
            return {"y_pred": self.rank(context_BC, target_BD, history_BLD, is_real_BL, compared)}

    def rank(
        self,
        context_BC: torch.Tensor,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        compared: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """:meth:`score`, with what ``vectors.compare`` has found summed up beside the context fields."""
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

    def embed_context(self, batch: MultimodalBatch) -> torch.Tensor:
        """Return the context fields side by side, (B, C); C may be 0."""
        if not self.context_field_dims:
            # shape[0] and not len(): an exported graph has to follow it.
            return torch.zeros(batch.item_index.shape[0], 0, device=self.device)
        return self._embed(batch.context, self.context_field_dims, "context")

    def draw_known_items(self, batch: MultimodalBatch) -> torch.Tensor | None:
        """(U, 1) bool, False for the items that ``id_dropout`` leaves out; ``None`` where it leaves out none."""
        if not self.training or not self.id_dropout:
            return None
        n_items = len(next(iter(batch.items.values())))
        return torch.rand(n_items, 1, device=self.device) >= self.id_dropout

    def embed_items(
        self, batch: MultimodalBatch, is_known_U1: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embed each row of ``batch.items`` once and spread the result over the batch.

        Args:
            is_known_U1: see :meth:`draw_known_items`.

        Returns:
            target (B, D), history (B, L, D) with exact zeros at padding, and the mask (B, L).
        """
        items_UD = self._embed_items(batch.items, is_known_U1)
        spread = nn.functional.embedding(batch.item_index, items_UD)
        # Zeroed here and not trusted to be zero: an alignment with a bias, or a foreign loader, may fill padding rows.
        history_BLD = spread[:, :-1].masked_fill(~batch.is_real_BL.unsqueeze(-1), 0.0)
        return spread[:, -1], history_BLD, batch.is_real_BL

    def field_norms(self, inputs: Any) -> dict[str, float]:
        """Item field -> root-mean-square norm over the distinct items of a batch, padding left out."""
        batch = MultimodalBatch.from_inputs(inputs).to(self.device)
        with torch.no_grad():
            items_UD = self._embed_items(batch.items)
        used_U = torch.zeros(len(items_UD), dtype=torch.bool, device=self.device)
        is_filled = nn.functional.pad(batch.is_real_BL, (0, 1), value=True)
        used_U[batch.item_index[is_filled]] = True
        fields = items_UD[used_U].float().split(list(self.item_field_dims.values()), dim=-1)
        return {name: float(f.square().sum(-1).mean().sqrt()) for name, f in zip(self.item_field_dims, fields)}

    def _embed_items(self, items: Mapping[str, torch.Tensor], is_known_U1: torch.Tensor | None = None) -> torch.Tensor:
        """Item fields side by side, (U, D), without what the ids of unknown items stand for."""
        values = dict(items)
        if self.trained_vectors:
            self._check_columns(items, [*self.trained_vectors, self.item_col], "item")
        for name in self.trained_vectors:
            offset_UW = self.embedding_layer.embedding_layer.offsets[name](items[self.item_col].long())
            values[name] = values[name] + (offset_UW if is_known_U1 is None else offset_UW * is_known_U1)
        items_UD = self._embed(values, self.item_field_dims, "item")
        if is_known_U1 is None or self.item_col not in self.item_field_dims:
            return items_UD
        fields = dict(zip(self.item_field_dims, items_UD.split(list(self.item_field_dims.values()), dim=-1)))
        fields[self.item_col] = fields[self.item_col] * is_known_U1
        return torch.cat(list(fields.values()), dim=-1)

    def _embed(self, values: Any, fields: Iterable[str], kind: str) -> torch.Tensor:
        self._check_columns(values, fields, kind)
        return self.embedding_layer({name: values[name] for name in fields}, flatten_emb=True)

    @staticmethod
    def _check_columns(values: Any, names: Iterable[str], kind: str) -> None:
        missing = [name for name in names if name not in values]
        if missing:
            raise ConfigError(f"the batch has no {kind} column {missing[0]!r}; found {sorted(values)}.")

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


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ConfigError(f"{name}={value!r} must be a share of the items, at least 0 and less than 1.")
    return value


def _offsets(feature_map: Any, fields: Iterable[str]) -> nn.ModuleDict:
    """What training adds to stored vectors: a row per item of the item table, padding stays zero."""
    offsets = nn.ModuleDict()
    for name in fields:
        spec = feature_map.features[name]
        if spec["type"] == "embedding" and not spec.get("freeze_emb", True):
            nothing = torch.zeros(spec["vocab_size"], spec["pretrain_dim"])
            offsets[name] = nn.Embedding.from_pretrained(nothing, freeze=False, padding_idx=0)
    return offsets
