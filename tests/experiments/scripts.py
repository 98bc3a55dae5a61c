"""Scripts of experiments/ as modules."""

import importlib
import sys
from types import ModuleType

from tests import REPOSITORY

__all__ = ["load_script"]


def load_script(name: str) -> ModuleType:
    """Import a script by its bare name, or a proof by ``proofs.NAME``, as they import one another."""
    folders = [str(REPOSITORY / "experiments"), str(REPOSITORY / "experiments" / "proofs")]
    sys.path[:0] = folders
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[: len(folders)]
