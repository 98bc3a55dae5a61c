"""Multimodal CTR models, per-modality PCA and a fast loader for FuxiCTR.

An existing FuxiCTR script needs three lines: ``fuxictr_mm.register(model_zoo)``, :class:`MultimodalFeatureProcessor` in
place of ``FeatureProcessor``, and ``params["data_loader"] = MMCTRDataLoader``.

Names are loaded when they are asked for (PEP 562), so ``import fuxictr_mm`` takes milliseconds and loads no torch. The
rooms, and which may import which, are in ``README.md`` of this folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuxictr_mm.batch import MultimodalBatch
    from fuxictr_mm.data.loader import MMCTRDataLoader
    from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
    from fuxictr_mm.features.derive.pca import ModalityPCA
    from fuxictr_mm.features.processor import MultimodalFeatureProcessor
    from fuxictr_mm.models.base import MultimodalRankModel
    from fuxictr_mm.models.din_se_mhta import DIN_SE_MHTA
    from fuxictr_mm.models.registry import register
    from fuxictr_mm.models.transformer_dcnv2 import Transformer_DCNv2
    from fuxictr_mm.serve.prediction import predict_file
    from fuxictr_mm.serve.ranking import Ranker

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

_MODULES = {
    "ConfigError": "errors",
    "DataError": "errors",
    "MMCTRDataLoader": "data.loader",
    "ModalityPCA": "features.derive.pca",
    "MultimodalBatch": "batch",
    "MultimodalFeatureProcessor": "features.processor",
    "MultimodalRankModel": "models.base",
    "Ranker": "serve.ranking",
    "TrainingInterrupted": "errors",
    "predict_file": "serve.prediction",
    "register": "models.registry",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    # The names of models begin with a capital letter; those of our own modules, asked for in the same way, do not.
    elif not name[:1].isupper() or not (value := _models().get(name)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _models() -> dict[str, Any]:
    """Every model is public without being named here."""
    return dict(import_module(f"{__name__}.models.registry").registered_models())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
