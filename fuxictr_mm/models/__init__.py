"""The two challenge-winning models."""

from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.din_se_mhta import DIN_SE_MHTA
from fuxictr_mm.models.transformer_dcnv2 import Transformer_DCNv2

__all__ = ["DIN_SE_MHTA", "MultimodalRankModel", "Transformer_DCNv2"]
