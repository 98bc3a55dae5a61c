"""The only file that knows which FuxiCTR is installed.

The wheel 2.3.10 on PyPI has ``RankDataLoader`` as a function that returns the loaders; 2.3.7, 2.3.9 and the 2.3.10 of
FuxiCTR's repository have a class of that name with ``make_iterator()``.
"""

import importlib
import inspect
from types import ModuleType
from typing import Any

from fuxictr.pytorch.dataloaders import RankDataLoader

from fuxictr_mm.errors import ConfigError

__all__ = ["find_model", "host_loaders", "host_model_names"]


def host_loaders(feature_map: Any, params: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the host's ``(train, valid, test)`` loaders for ``params``; absent splits are ``None``."""
    loaders = RankDataLoader(feature_map, stage="both", **params)
    if inspect.isclass(RankDataLoader):
        loaders = loaders.make_iterator()
    return loaders


def find_model(model_zoo: ModuleType, name: str) -> type:
    """Find a model class as FuxiCTR does, ``getattr(model_zoo, name)``, then among the host's long-sequence models.

    Raises:
        ConfigError: no such model.
    """
    if isinstance(model := getattr(model_zoo, name, None), type):
        return model
    host_models = _host_zoo()
    if isinstance(model := getattr(host_models, name, None), type):
        return model
    known = sorted({key for key, value in vars(model_zoo).items() if isinstance(value, type)} | set(host_model_names()))
    raise ConfigError(f"model: {name!r} is not a registered model; found {known}.")


def host_model_names() -> list[str]:
    """Names of the models in fuxictr's wheel that take the batch ``(batch_dict, item_dict, mask)``."""
    return sorted(name for name, value in vars(_host_zoo()).items() if isinstance(value, type))


def _host_zoo() -> Any:
    try:
        return importlib.import_module("model_zoo.LongCTR")
    except ModuleNotFoundError:
        return ModuleType("model_zoo.LongCTR")  # older wheels carry no models
