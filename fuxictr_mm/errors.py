"""What a user can cause. Each message is one sentence: what, where, found, expected, what to do."""

import errno
from importlib import import_module
from types import ModuleType

__all__ = ["ConfigError", "DataError", "TrainingInterrupted", "is_told", "needs", "sentence"]


class DataError(ValueError):
    """A data file does not keep the contract (missing column, NaN in a vector, unknown id, ...)."""


class ConfigError(ValueError):
    """A YAML key, an argument or an experiment id cannot be used as given."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training whose state is saved; ``resume: True`` continues it."""


_SPACE = "free some space, or name another place"
_WHAT_TO_DO = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name another place",
    errno.EACCES: "change its permissions or its owner, or name another place",
    errno.EPERM: "change its permissions or its owner, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "a file is where a folder belongs; move it away, or name another place",
    errno.ENOTDIR: "a file is where a folder belongs; move it away, or name another place",
    errno.EISDIR: "a folder is where a file belongs; move it away, or name another place",
    errno.ENOENT: "check the path; if it was there, something has removed it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "look after the disk, then run it again",
}


def is_told(err: BaseException) -> bool:
    """Whether an error is told in a sentence; all others are faults of ours, and told in a traceback."""
    return isinstance(err, ConfigError | DataError | OSError) or _is_of_memory(err)


def _is_of_memory(err: BaseException) -> bool:
    # torch has no class of its own for a CPU's.
    words = ("can't allocate memory", "out of memory")
    return isinstance(err, MemoryError) or (isinstance(err, RuntimeError) and any(word in str(err) for word in words))


def sentence(err: BaseException) -> str:
    """What to tell the user of an error that :func:`is_told`; of a system error the path and what to do about it."""
    if _is_of_memory(err):
        what = " ".join(str(err).split())
        return (
            f"memory is used up{f' ({what})' if what else ''}; set stream: True, a smaller batch_size or fewer runs at "
            "once."
        )
    if not isinstance(err, OSError):
        return str(err)
    reason = " ".join((err.strerror or str(err) or type(err).__name__).split())
    advice = _WHAT_TO_DO.get(err.errno or 0, "look at that place, then run it again")
    return f"{f'{err.filename}: ' if err.filename else ''}{reason[:1].lower()}{reason[1:]}; {advice}."


def needs(module: str, extra: str) -> ModuleType:
    """Import a module that only an extra of this package installs.

    Raises:
        ConfigError: it is not there; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as err:
        raise ConfigError(f"this needs {module.split('.')[0]}; run: pip install 'fuxictr_mm[{extra}]'.") from err
