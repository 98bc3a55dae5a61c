"""What a script that only wants a PCA, or the vectors of items, does not have to load."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "polars", "fuxictr")
FEATURES = [
    "fuxictr_mm.features.derive.pca", "fuxictr_mm.features.derive.derivation", "fuxictr_mm.features.sources",
    "fuxictr_mm.features.vector_files", "fuxictr_mm.features.table",
]  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import fuxictr_mm",
        "from fuxictr_mm import ModalityPCA",
        # One process for a room: each start costs seconds.
        f"import {', '.join(FEATURES)}; fuxictr_mm.features.derive.derivation._import_all()",
    ],
)
def test_no_heavy_module_is_loaded(statement: str) -> None:
    assert sorted(loaded_by(statement).intersection(HEAVY)) == []


def test_the_package_alone_loads_no_numpy() -> None:
    assert "numpy" not in loaded_by("import fuxictr_mm")
