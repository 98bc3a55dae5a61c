"""Which models there are, and putting them where FuxiCTR looks for them."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from fuxictr.pytorch import layers as host_layers

from fuxictr_mm import layers, models
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.base import MultimodalRankModel

__all__ = ["register", "registered_models"]


def registered_models() -> dict[str, type[MultimodalRankModel]]:
    """Return name -> class of every model: those in ``fuxictr_mm/models/``, and those that a user's script has defined.

    A class is registered by being defined: a subclass of
    :class:`~fuxictr_mm.models.base.MultimodalRankModel` at the top of a module that has its own ``score``. Classes
    without one are steps on the way to a model, or a model under test, and are left out. A class that is defined again,
    as in a notebook, takes the place of the earlier one.

    Raises:
        ConfigError: two modules define models of one name.
    """
    for module in iter_modules(models.__path__, f"{models.__name__}."):
        import_module(module.name)
    found: dict[str, type[MultimodalRankModel]] = {}
    for kind in _subclasses(MultimodalRankModel):
        if "score" not in vars(kind) or "<locals>" in kind.__qualname__:
            continue
        other = found.get(kind.__name__, kind)
        if other.__module__ != kind.__module__:
            raise ConfigError(
                f"model {kind.__name__!r} is defined in {other.__module__} and in {kind.__module__}; rename one of "
                "them."
            )
        found[kind.__name__] = kind
    return dict(sorted(found.items()))


def register(model_zoo: ModuleType) -> None:
    """Make our models and layers known to FuxiCTR; calling it twice is harmless.

    FuxiCTR finds a model by ``getattr(model_zoo, params["model"])``, where ``model_zoo`` is whatever module the script
    imported, and a layer in a ``feature_encoder`` string by ``layers.<Name>``.

    Args:
        model_zoo: the module that the script looks models up in; it gets :func:`registered_models`.

    Raises:
        ConfigError: a name is taken by another class.
    """
    _add(model_zoo, registered_models())
    _add(host_layers, {name: getattr(layers, name) for name in layers.__all__})


def _subclasses(kind: type[MultimodalRankModel]) -> Iterator[type[MultimodalRankModel]]:
    """All subclasses, in the order in which they were defined as far as they have one parent."""
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _add(target: ModuleType, ours: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        if getattr(target, name, value) is not value:
            raise ConfigError(
                f"register: {target.__name__}.{name} is already {getattr(target, name)!r}; rename that class, or "
                f"import {value.__module__}.{name} under another name yourself."
            )
    for name, value in ours.items():
        setattr(target, name, value)
