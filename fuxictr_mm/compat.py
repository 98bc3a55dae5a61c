"""The only file that knows which FuxiCTR, and which scikit-learn beside it, is installed.

2.3.7 carries no ``model_zoo.LongCTR``. 2.3.7 and 2.3.9 use ``np.Inf`` and so need numpy 1, for which the last
scikit-learn they were made for is 1.4. FuxiCTR's ``RankDataLoader`` differs from release to release (a class, then a
function), so nothing of ours calls it; scripts of FuxiCTR's users do (tests/test_drop_in.py).
"""

import importlib
from importlib.metadata import version
from types import ModuleType
from typing import Any

from fuxictr_mm.errors import ConfigError

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6 every estimator has it as a method

    def validate_data(estimator: Any, X: Any, **checks: Any) -> Any:
        return estimator._validate_data(X, **checks)


__all__ = ["find_model", "host_model_names", "validate_data"]


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
    without = "" if host_model_names() else f" (fuxictr {version('fuxictr')} carries no models for these batches)"
    raise ConfigError(f"model: {name!r} is not a registered model; found {known}{without}.")


def host_model_names() -> list[str]:
    """Names of the models in fuxictr's wheel that take the batch ``(batch_dict, item_dict, mask)``."""
    return sorted(name for name, value in vars(_host_zoo()).items() if isinstance(value, type))


def _host_zoo() -> Any:
    try:
        return importlib.import_module("model_zoo.LongCTR")
    except ModuleNotFoundError as err:
        if not (err.name or "").startswith("model_zoo"):  # the models are there, what they import is not
            raise
        return ModuleType("model_zoo.LongCTR")  # 2.3.7
