"""The installed wheel, outside of any clone: its command, the YAML files it carries, and where it writes."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fuxictr_mm.cli import VERBS
from tests import REPOSITORY
from tests.test_readme import write_logs


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that has the wheel, and finds its dependencies in this one."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # building leaves files beside setup.py
    for name in ("fuxictr_mm", "model_zoo", "dataset_config", "experiments/studies", "experiments/tuner_config"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(tree)], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    target = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(target, check=True, capture_output=True)
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Added behind the environment's own folder; an editable install's hooks in there are not followed.
    (site / "dependencies.pth").write_text("\n".join(places) + "\n")
    return folder / "venv" / "bin" / "fuxictr-mm"


def run(command: Path, *arguments: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run([str(command), *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "own"
    config.mkdir()
    run(installed, "demo", "--rows", "4000", "--items", "300", "--valid_rows", "400", "--test_rows", "400",
        "--out", "data/MMCTR_demo", folder=tmp_path)  # fmt: skip
    said = run(installed, "run", "--expid", "DIN_SE_MHTA_demo", folder=tmp_path)
    assert "DIN_SE_MHTA_demo on MMCTR_demo" in said
    result = json.loads((tmp_path / "checkpoints" / "MMCTR_demo" / "DIN_SE_MHTA_demo.result.json").read_text())
    # The folder may lie in somebody's repository, whose commit says nothing of this package.
    assert re.fullmatch(r"version \d+\.\d+\.\d+.*", result["commit"])
    assert (tmp_path / "config.csv").is_file()
    assert "components_din_se_mhta" in run(installed, "study", "--list", folder=tmp_path)
    run(installed, "predict", "--expid", "DIN_SE_MHTA_demo", "--out", "scores.parquet", folder=tmp_path)
    assert (tmp_path / "scores.parquet").is_file()


@pytest.mark.slow
def test_own_data_train_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    dataset, model = re.findall(r"```yaml\n(.*?)```", readme, flags=re.S)
    config = tmp_path / "my_config"
    config.mkdir()
    write_logs(config)
    (config / "dataset_config.yaml").write_text(dataset.replace("my_config/", ""))
    (config / "model_config.yaml").write_text(model)
    assert "mine on " in run(installed, "run", "--expid", "mine", "--config", "my_config", folder=tmp_path)


@pytest.mark.slow
def test_every_verb_has_help_with_an_example(installed: Path, tmp_path: Path) -> None:
    for verb in VERBS:
        said = run(installed, verb, "--help", folder=tmp_path)
        assert f"example:\n    fuxictr-mm {verb}" in said
    assert all(verb in run(installed, "--help", folder=tmp_path) for verb in VERBS)
