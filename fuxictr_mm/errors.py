"""What a user can cause. Each message is one sentence: what, where, found, expected, what to do."""

from importlib import import_module
from types import ModuleType

__all__ = ["ConfigError", "DataError", "TrainingInterrupted", "needs"]


class DataError(ValueError):
    """A data file does not keep the contract (missing column, NaN in a vector, unknown id, ...)."""


class ConfigError(ValueError):
    """A YAML key, an argument or an experiment id cannot be used as given."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training whose state is saved; ``resume: True`` continues it."""


def needs(module: str, extra: str) -> ModuleType:
    """Import a module that only an extra of this package installs.

    Raises:
        ConfigError: it is not there; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as err:
        raise ConfigError(f"this needs {module.split('.')[0]}; run: pip install 'fuxictr_mm[{extra}]'.") from err
