"""The arrows of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_mm.compat import host_model_names

PACKAGE = Path(__file__).resolve().parents[1] / "fuxictr_mm"
# The storeys of the house, from the ground up. A room knows the storeys below it and, on its own one, only itself.
STOREYS = (
    ("errors", "arguments", "files", "memory", "compat", "forms", "parquet"),
    ("config",),
    ("batch",),
    ("features", "layers", "prepare"),
    ("training",),
    ("models", "data", "demo", "encode"),
    ("run",),
    ("serve", "inspect"),
    ("study",),
    ("report",),
    ("cli",),
    ("__main__",),
)
# Ground that explains itself: all of it raises the errors, and tables have fingerprints of files.
GROUND = {"files": {"errors"}, "compat": {"errors"}, "forms": {"errors"}, "parquet": {"errors", "files"}}
LEVELS = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}
# What must not be loaded where numbers are all that is wanted.
WITHOUT_TORCH = (
    "errors",
    "arguments",
    "files",
    "memory",
    "forms",
    "parquet",
    "config",
    "features",
    "inspect",
    "demo",
    "encode",
    "prepare",
)
ROOMS = sorted({p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()} - {"__init__", "__pycache__"})


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files_of(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("fuxictr_mm.")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_what_is_below_it(room: str) -> None:
    for file in files_of(room):
        for other in rooms_of(imports(file)) - {room} - GROUND.get(room, set()):
            assert LEVELS[other] < LEVELS[room], f"{file.relative_to(PACKAGE)} imports {other}"


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_of_numbers_do_without_torch(room: str) -> None:
    for file in files_of(room):
        assert "torch" not in {name.split(".")[0] for name in imports(file)}, file.name


def test_the_library_does_not_know_tests_or_experiments() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not {n.split(".")[0] for n in imports(file)} & {"tests", "experiments"}, file.name


def test_model_zoo_of_the_host_stays_importable_beside_ours() -> None:
    """Our model_zoo/ has no __init__.py, so the namespace package of fuxictr's wheel is not hidden."""
    if not host_model_names():
        pytest.skip("this fuxictr carries no models")
    code = "import model_zoo.LongCTR as zoo; assert zoo.TransAct"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
