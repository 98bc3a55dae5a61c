"""The arrows of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_mm.compat import host_model_names

PACKAGE = Path(__file__).resolve().parents[1] / "fuxictr_mm"
# room -> parts of the package that it must not know
FORBIDDEN = {
    "features": ("fuxictr_mm.data", "fuxictr_mm.layers", "fuxictr_mm.models", "fuxictr_mm.run.run", "torch"),
    "data": ("fuxictr_mm.layers", "fuxictr_mm.models", "fuxictr_mm.run.run"),
    "layers": ("fuxictr_mm.data", "fuxictr_mm.features", "fuxictr_mm.models", "fuxictr_mm.run.run"),
    "models": ("fuxictr_mm.data", "fuxictr_mm.features", "fuxictr_mm.run.run"),
}


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_does_not_know_what_is_above_it(room: str) -> None:
    for file in (PACKAGE / room).glob("*.py"):
        broken = [n for n in imports(file) for f in FORBIDDEN[room] if n == f or n.startswith(f + ".")]
        assert not broken, f"{file.name} imports {broken}"


def test_the_library_does_not_know_tests_or_experiments() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not {n.split(".")[0] for n in imports(file)} & {"tests", "experiments"}, file.name


def test_model_zoo_of_the_host_stays_importable_beside_ours() -> None:
    """Our model_zoo/ has no __init__.py, so the namespace package of fuxictr's wheel is not hidden."""
    if not host_model_names():
        pytest.skip("this fuxictr carries no models")
    code = "import model_zoo.LongCTR as zoo; assert zoo.TransAct"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
