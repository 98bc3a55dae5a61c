"""What tests of the report share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fuxictr_mm import cli
from tests.experiments.conftest import _own_logging
from tests.report.pages import Page

__all__ = ["_own_logging", "build"]


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], Page]:
    """Builds the page of ``tmp_path / "in"``."""

    def run() -> Page:
        cli.main(["report", str(tmp_path / "in"), "--out", str(tmp_path / "page.html")])
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    (tmp_path / "in").mkdir()
    return run
