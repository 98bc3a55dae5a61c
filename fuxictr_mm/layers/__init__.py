"""Layers of ours: tensors in, tensors out, each with its own ``out_dim``. Everything else comes from the host."""

from fuxictr_mm.layers.alignment import GatedAlignment, MLPAlignment
from fuxictr_mm.layers.biased_attention import BiasedDotProductAttention
from fuxictr_mm.layers.cross import LowRankCrossNet
from fuxictr_mm.layers.fusion import FieldExcitation
from fuxictr_mm.layers.history import HistoryEncoder
from fuxictr_mm.layers.similarity import HistorySimilarity, cosines, unit_rows
from fuxictr_mm.layers.slots import Slots

__all__ = [
    "BiasedDotProductAttention",
    "FieldExcitation",
    "GatedAlignment",
    "HistoryEncoder",
    "HistorySimilarity",
    "LowRankCrossNet",
    "MLPAlignment",
    "Slots",
    "cosines",
    "unit_rows",
]
