"""The two errors a user can cause. Each message is one sentence: what, where, found, expected, what to do."""

__all__ = ["ConfigError", "DataError"]


class DataError(ValueError):
    """A data file does not keep the contract (missing column, NaN in a vector, unknown id, ...)."""


class ConfigError(ValueError):
    """A YAML key, an argument or an experiment id cannot be used as given."""
