"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest

# Layers here are tiny, and tests start processes side by side: several threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
