"""Scripts of experiments/ as modules."""

import importlib
import sys
from types import ModuleType

from tests import REPOSITORY

__all__ = ["load_script"]


def load_script(name: str) -> ModuleType:
    """Import a script by its bare name, as scripts import one another."""
    sys.path.insert(0, str(REPOSITORY / "experiments"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
