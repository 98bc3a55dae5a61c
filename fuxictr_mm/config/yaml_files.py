"""FuxiCTR's YAML files: which experiments and data sets there are, and what they say, with absolute paths."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from fuxictr.utils import load_dataset_config, load_model_config

from fuxictr_mm.config.keys import KEYS, nearest
from fuxictr_mm.errors import ConfigError

__all__ = ["REPOSITORY", "absolute_paths", "load_dataset", "load_experiment", "read_yaml"]

REPOSITORY = Path(__file__).resolve().parents[2]


def load_experiment(
    expid: str, config_dir: str | Path | None = None, dataset_id: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the YAML says of an experiment and of its data set, with absolute paths.

    Args:
        expid: a key of a ``model_config.yaml``.
        config_dir: a FuxiCTR config directory (``model_config.yaml`` or ``model_config/*.yaml``, and likewise
            ``dataset_config``). Default: ``model_zoo/*/config`` and ``dataset_config/`` of this repository.
        dataset_id: overrides the experiment's ``dataset_id``.

    Raises:
        ConfigError: unknown directory, expid or dataset, with the nearest names that exist.
    """
    if config_dir is None:
        directories = sorted((REPOSITORY / "model_zoo").glob("*/config"))
    else:
        directories = [_existing_directory(config_dir)]
    known = {key: directory for directory in directories for key in _experiment_ids(directory)}
    if expid not in known:
        raise ConfigError(f"--expid {expid}: no such experiment in {_places(directories)}; {nearest(expid, known)}.")
    try:
        model = load_model_config(str(known[expid]), expid)
    except AssertionError:
        raise ConfigError(f"experiment {expid}: key 'dataset_id' is missing; add it to the YAML.") from None
    return absolute_paths(model, config_dir), load_dataset(dataset_id or model["dataset_id"], config_dir)


def load_dataset(dataset_id: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Return a dataset's parameters with absolute paths; a config directory without datasets leaves it to ours.

    Raises:
        ConfigError: unknown dataset id, or an environment variable that the YAML names is not set.
    """
    directory = REPOSITORY if config_dir is None else _existing_directory(config_dir)
    known = _dataset_ids(directory)
    if not known:
        directory, known = REPOSITORY, _dataset_ids(REPOSITORY)
    if dataset_id not in known:
        raise ConfigError(
            f"dataset_id {dataset_id}: not described in {_places([directory])}; {nearest(dataset_id, known)}."
        )
    return absolute_paths(load_dataset_config(str(directory), dataset_id), config_dir)


def absolute_paths(params: Mapping[str, Any], config_dir: str | Path | None) -> dict[str, Any]:
    """Relative paths start at the repository, or at the config directory if that lies outside it."""
    base = REPOSITORY
    if config_dir is not None and not Path(config_dir).resolve().is_relative_to(REPOSITORY):
        base = Path(config_dir).resolve()
    resolved = dict(params)
    for key, value in params.items():
        if key in KEYS and KEYS[key].path and value:
            if isinstance(value, Mapping):
                resolved[key] = {name: _resolve(key, path, base) for name, path in value.items()}
            else:
                resolved[key] = _resolve(key, value, base)
    return resolved


def _resolve(key: str, path: Any, base: Path) -> Any:
    if not isinstance(path, str):  # refused where types are checked
        return path
    expanded = os.path.expandvars(path)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ConfigError(f"{key}: {path} needs the environment variable {unset[1]}; set it to the folder of the data.")
    return str((base / expanded).resolve())


def read_yaml(file: Path) -> Any:
    """Return the content of one YAML file.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(err).split())}); correct that line.") from err


def _existing_directory(path: str | Path) -> Path:
    directory = Path(path).resolve()
    if not directory.is_dir():
        raise ConfigError(f"--config {path}: no such directory; it must hold model_config.yaml or model_config/*.yaml.")
    return directory


def _keys(directory: Path, kind: str) -> list[str]:
    single = directory / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((directory / kind).glob("*.yaml"))
    keys: list[str] = []
    for file in files:
        content = read_yaml(file)
        if not isinstance(content or {}, dict):
            raise ConfigError(f"{file}: a mapping from names to keys is expected; found {content!r:.80}.")
        keys += content or []
    return keys


def _experiment_ids(directory: Path) -> list[str]:
    return [key for key in _keys(directory, "model_config") if key != "Base"]


def _dataset_ids(directory: Path) -> list[str]:
    return _keys(directory, "dataset_config")


def _places(directories: list[Path]) -> str:
    return ", ".join(str(directory) for directory in directories) or str(REPOSITORY)
