"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest
import torch

REAL_DATA_VARIABLE = "FUXICTR_MM_REAL_DATA"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; skips where they are not at hand."""
    place = os.environ.get(REAL_DATA_VARIABLE)
    if not place:
        pytest.skip(f"{REAL_DATA_VARIABLE} is not set")
    folder = Path(place).resolve()
    if not (folder / "lfm2k").is_dir():
        pytest.skip(f"{folder} holds no lfm2k/")
    return folder
