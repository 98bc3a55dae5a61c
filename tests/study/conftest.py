"""What tests of many runs share."""

from tests.experiments.conftest import _own_logging

__all__ = ["_own_logging"]
