"""What a user can cause. Each message is one sentence: what, where, found, expected, what to do."""

__all__ = ["ConfigError", "DataError", "TrainingInterrupted"]


class DataError(ValueError):
    """A data file does not keep the contract (missing column, NaN in a vector, unknown id, ...)."""


class ConfigError(ValueError):
    """A YAML key, an argument or an experiment id cannot be used as given."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training whose state is saved; ``resume: True`` continues it."""
