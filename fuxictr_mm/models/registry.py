"""Putting our classes where FuxiCTR looks for them."""

from types import ModuleType

from fuxictr.pytorch import layers as host_layers

from fuxictr_mm import layers, models
from fuxictr_mm.errors import ConfigError

__all__ = ["register"]


def register(model_zoo: ModuleType) -> None:
    """Make our models and layers known to FuxiCTR; calling it twice is harmless.

    FuxiCTR finds a model by ``getattr(model_zoo, params["model"])``, where ``model_zoo`` is whatever module the script
    imported, and a layer in a ``feature_encoder`` string by ``layers.<Name>``.

    Args:
        model_zoo: the module that the script looks models up in.

    Raises:
        ConfigError: a name is taken by another class.
    """
    _add(model_zoo, models, ("DIN_SE_MHTA", "Transformer_DCNv2"))
    _add(host_layers, layers, tuple(layers.__all__))


def _add(target: ModuleType, source: ModuleType, names: tuple[str, ...]) -> None:
    ours = {name: getattr(source, name) for name in names}
    for name, value in ours.items():
        if getattr(target, name, value) is not value:
            raise ConfigError(
                f"register: {target.__name__}.{name} is already {getattr(target, name)!r}; rename that class, or "
                f"import {source.__name__}.{name} under another name yourself."
            )
    for name, value in ours.items():
        setattr(target, name, value)
