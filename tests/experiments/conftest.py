"""What tests of scripts share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A run in this process logs to the streams of its own test, which are closed behind it."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) in (logging.StreamHandler, logging.FileHandler):  # and not pytest's, which are subclasses
            logging.root.removeHandler(handler)
            handler.close()
