"""Multimodal CTR models, per-modality PCA and a fast loader for FuxiCTR.

An existing FuxiCTR script needs three lines: ``fuxictr_mm.register(model_zoo)``, :class:`MultimodalFeatureProcessor` in
place of ``FeatureProcessor``, and ``params["data_loader"] = MMCTRDataLoader``.

Rooms: :mod:`~fuxictr_mm.features` (vectors to item table), :mod:`~fuxictr_mm.data` (files to batches),
:mod:`~fuxictr_mm.layers`, :mod:`~fuxictr_mm.models`, :mod:`~fuxictr_mm.runner` (YAML to result, and back to a model),
:mod:`~fuxictr_mm.prediction` (files), :mod:`~fuxictr_mm.ranking` (one user's candidates), :mod:`~fuxictr_mm.attention`
(what a trained model looks at), :mod:`~fuxictr_mm.export`.
"""

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
from fuxictr_mm.features.pca import ModalityPCA
from fuxictr_mm.features.processor import MultimodalFeatureProcessor
from fuxictr_mm.models import DIN_SE_MHTA, MultimodalRankModel, Transformer_DCNv2
from fuxictr_mm.prediction import predict_file
from fuxictr_mm.ranking import Ranker
from fuxictr_mm.registration import register

__all__ = [
    "ConfigError",
    "DIN_SE_MHTA",
    "DataError",
    "MMCTRDataLoader",
    "ModalityPCA",
    "MultimodalBatch",
    "MultimodalFeatureProcessor",
    "MultimodalRankModel",
    "Ranker",
    "TrainingInterrupted",
    "Transformer_DCNv2",
    "predict_file",
    "register",
]
