"""From the columns of distinct items to their fields: embeddings, alignments, trained vectors, and the two dropouts.

Axis letters: B = rows, U = distinct items, L = history length, D = width of one item, C = width of the context.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from torch import nn

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.config.code import check_feature_map
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers.alignment import ALIGNMENTS, Alignment
from fuxictr_mm.models.item_vectors import ItemVectors

__all__ = ["ItemEncoder"]


class ItemEncoder(nn.Module):
    """Embeds the item columns of U distinct items as fields side by side, (U, D).

    A model holds it as ``embedding_layer``, and it holds the host's ``FeatureEmbeddingDict`` under the same name, so
    parameters are called as in the published checkpoint and ``embedding_regularizer`` finds them. The host has one
    such dictionary for all columns of a model, so the context fields are embedded here too.

    An ``embedding`` column with ``freeze_emb: False`` goes on training: an offset per item, zero at first, is added to
    its stored vector, and ``embedding_regularizer`` pulls it back to zero. Items that came after the training have no
    offset.

    Args:
        feature_map: the host's ``FeatureMap``.
        vectors: what it says about vectors.
        embedding_dim: width of an embedding whose column does not set its own.
        embedding_std: standard deviation of id embeddings before training.
        alignment: how an ``embedding`` column becomes a field, unless the column sets ``feature_encoder``.
        id_dropout, modality_dropout: see :meth:`drop`.

    Attributes:
        item_field_dims, context_field_dims: field -> its width, in the order of the feature map.
        item_dim, context_dim: D and C.
        trained_vectors: the columns with ``freeze_emb: False``.

    Raises:
        ConfigError: a column cannot be embedded as it is described, or ``id_dropout`` has nothing to leave out.
    """

    nothing: torch.Tensor

    def __init__(
        self,
        feature_map: Any,
        vectors: ItemVectors,
        *,
        embedding_dim: int,
        embedding_std: float,
        alignment: Alignment,
        id_dropout: float,
        modality_dropout: float,
    ) -> None:
        super().__init__()
        check_feature_map(feature_map.features, "feature map")  # FuxiCTR's dictionary runs what it names
        # Where the model is, even if it embeds nothing but vectors as they are stored.
        self.register_buffer("nothing", torch.empty(0), persistent=False)
        self.embedding_layer = FeatureEmbeddingDict(
            feature_map, embedding_dim, embedding_initializer=f"partial(nn.init.normal_, std={embedding_std!r})"
        )
        self.item_field_dims: dict[str, int] = {}
        self.context_field_dims: dict[str, int] = {}
        for name, spec in feature_map.features.items():
            if spec["type"] == "meta":
                continue
            fields = self.item_field_dims if spec.get("source") == "item" else self.context_field_dims
            fields[name] = self._align(name, spec, alignment, embedding_dim)
        # Inside the host's dictionary, because embedding_regularizer applies to what it finds in there.
        self.embedding_layer.offsets = _offsets(feature_map, self.item_field_dims)
        self.trained_vectors: list[str] = list(self.embedding_layer.offsets)
        self.item_dim = sum(self.item_field_dims.values())
        self.context_dim = sum(self.context_field_dims.values())
        self.vectors = vectors
        self.item_col = vectors.item_col
        self.id_dropout = id_dropout
        self.modality_dropout = modality_dropout
        known_by_id = self.item_col in self.item_field_dims or self.trained_vectors or vectors.own_clicks
        if id_dropout and not known_by_id:
            raise ConfigError(
                f"id_dropout: the item id {self.item_col!r} is no item field; found {sorted(self.item_field_dims)}. "
                "Name it by the dataset key 'item_col', or set id_dropout: 0."
            )

    @property
    def item_columns(self) -> list[str]:
        """The item columns that a score depends on: the fields, ids that lead to offsets, what is only compared."""
        ids = [self.item_col] if self.trained_vectors else []
        return list(dict.fromkeys([*self.item_field_dims, *ids, *self.vectors.compared]))

    def forward(self, items: Mapping[str, torch.Tensor], is_known_U1: torch.Tensor | None = None) -> torch.Tensor:
        """Return the item fields side by side, (U, D).

        Args:
            items: column -> (U, ...).
            is_known_U1: (U, 1) bool of :meth:`drop`; the others get id 0, as items that came after the training have.

        Raises:
            ConfigError: a column is missing.
        """
        values = dict(items)
        if is_known_U1 is not None and self.item_col in items:
            values[self.item_col] = items[self.item_col] * is_known_U1.view_as(items[self.item_col])
        if self.trained_vectors:
            _check_columns(items, [*self.trained_vectors, self.item_col], "item")
        for name in self.trained_vectors:
            values[name] = values[name] + self.embedding_layer.offsets[name](values[self.item_col].long())
        return self._embed(values, self.item_field_dims, "item")

    def embed(
        self, batch: MultimodalBatch, is_known_U1: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed each row of ``batch.items`` once and spread the result over the batch.

        Args:
            batch: its columns.
            is_known_U1: see :meth:`forward`.

        Returns:
            target (B, D), and history (B, L, D) with exact zeros at padding.
        """
        spread = nn.functional.embedding(batch.item_index, self(batch.items, is_known_U1))
        # Zeroed here and not trusted to be zero: an alignment with a bias, or a foreign loader, may fill padding rows.
        return spread[:, -1], spread[:, :-1].masked_fill(~batch.is_real_BL.unsqueeze(-1), 0.0)

    def context(self, columns: Mapping[str, torch.Tensor], rows: int) -> torch.Tensor:
        """Return the context fields side by side, (B, C); C may be 0.

        Args:
            columns: column -> (B,).
            rows: B.

        Raises:
            ConfigError: a column is missing.
        """
        if not self.context_field_dims:
            return self.nothing.new_zeros(rows, 0)
        return self._embed(columns, self.context_field_dims, "context")

    def drop(self, batch: MultimodalBatch) -> tuple[MultimodalBatch, torch.Tensor | None]:
        """Take from the distinct items of a training batch what the two dropouts leave out.

        ``modality_dropout`` is the share that misses a modality, for each modality; ``id_dropout`` the share that is
        treated as if training did not know the item: no id, and so no id embedding and no offset, and no own clicks.

        Returns:
            the batch with other item columns, and (U, 1) bool, False for items without id; ``None`` where all have it.
        """
        if self.modality_dropout:
            batch = self.vectors.drop(batch, self.modality_dropout)
        if not self.id_dropout:
            return batch, None
        column = next(iter(batch.items.values()))
        is_known_U1 = torch.rand(len(column), 1, device=column.device) >= self.id_dropout
        return self.vectors.without_own_clicks(batch, is_known_U1), is_known_U1

    def field_norms(self, batch: MultimodalBatch) -> dict[str, float]:
        """Item field -> root-mean-square norm over the distinct items of a batch, padding left out."""
        with torch.no_grad():
            items_UD = self(batch.items)
        used_U = torch.zeros(len(items_UD), dtype=torch.bool, device=items_UD.device)
        is_filled = nn.functional.pad(batch.is_real_BL, (0, 1), value=True)
        used_U[batch.item_index[is_filled]] = True
        fields = items_UD[used_U].float().split(list(self.item_field_dims.values()), dim=-1)
        return {name: float(f.square().sum(-1).mean().sqrt()) for name, f in zip(self.item_field_dims, fields)}

    def _align(self, name: str, spec: dict[str, Any], alignment: Alignment, embedding_dim: int) -> int:
        """Put the alignment of one column in place and return the width of its field."""
        width: int = spec.get("emb_output_dim", spec.get("embedding_dim", embedding_dim))
        if spec["type"] == "sequence" and not spec.get("feature_encoder"):
            raise ConfigError(
                f"column {name!r}: a sequence needs a pooling; add feature_encoder: layers.MaskedAveragePooling()."
            )
        if spec["type"] != "embedding" or spec.get("feature_encoder") or alignment == "linear":
            return width
        stored: int = spec.get("pretrain_dim", width)
        encoders = self.embedding_layer.feature_encoders
        if alignment == "none":
            encoders[name] = nn.Identity()
            return stored
        encoders[name] = ALIGNMENTS[alignment](stored, width)
        return width

    def _embed(self, values: Mapping[str, torch.Tensor], fields: Iterable[str], kind: str) -> torch.Tensor:
        _check_columns(values, fields, kind)
        embedded = self.embedding_layer({name: values[name] for name in fields})
        return self.embedding_layer.dict2tensor(embedded, flatten_emb=True)


def _check_columns(values: Mapping[str, Any], names: Iterable[str], kind: str) -> None:
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"the batch has no {kind} column {missing[0]!r}; found {sorted(values)}.")


def _offsets(feature_map: Any, fields: Iterable[str]) -> nn.ModuleDict:
    """What training adds to stored vectors: a row per item of the item table, padding stays zero."""
    offsets = nn.ModuleDict()
    for name in fields:
        spec = feature_map.features[name]
        if spec["type"] == "embedding" and not spec.get("freeze_emb", True):
            nothing = torch.zeros(spec["vocab_size"], spec["pretrain_dim"])
            offsets[name] = nn.Embedding.from_pretrained(nothing, freeze=False, padding_idx=0)
    return offsets
