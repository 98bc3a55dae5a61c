"""From an experiment id to checked parameters: FuxiCTR's YAML files, and nothing parallel to them.

FuxiCTR passes every YAML key on in ``**kwargs``, where a mistyped one is swallowed. Here a key must be named by the
signature of something that will read it.
"""

import difflib
import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from fuxictr.pytorch.models import BaseModel
from fuxictr.utils import load_dataset_config, load_model_config

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError, DataError

__all__ = [
    "REPOSITORY", "absolute_paths", "check_keys", "load_dataset", "load_experiment", "nearest", "user_errors",
]  # fmt: skip

REPOSITORY = Path(__file__).resolve().parents[2]

PATH_KEYS = (
    "data_root", "model_root", "train_data", "valid_data", "test_data", "item_info", "item_feature", "weights",
)  # fmt: skip
# Keys that FuxiCTR's own scripts, processor and tuner read without naming them in a signature.
HOST_KEYS = (
    "model", "model_id", "dataset_id", "model_root", "data_root", "data_format", "seed", "verbose", "metrics", "loss",
    "optimizer", "epochs", "batch_size", "shuffle", "num_workers", "debug_mode", "pickle_feature_encoder",
    "use_features", "feature_specs", "feature_config", "group_id", "feature_cols", "label_col", "train_data",
    "valid_data", "test_data", "rebuild_dataset", "min_categr_count", "data_block_size", "max_gradient_norm", "gpu",
    "resume", "weights",
)  # fmt: skip
REQUIRED_KEYS = (
    "data_root", "train_data", "feature_cols", "label_col", "model_root", "seed", "verbose", "metrics", "optimizer",
    "loss", "batch_size", "epochs",
)  # fmt: skip
GROUP_METRICS = ("gAUC", "avgAUC", "MRR", "NDCG")
DATASET_KEYS = ("item_info", "item_feature", "modality_data", "item_col", "history_col", "max_len")
COLUMN_KEYS = (
    "name", "active", "dtype", "type", "source", "vocab_size", "max_len", "feature_encoder", "embedding_dim",
    "emb_output_dim", "pretrain_dim", "pretrained_emb", "pretrain_usage", "freeze_emb", "share_embedding",
    "preprocess", "fill_na", "remap", "splitter", "padding", "normalizer", "min_categr_count", "category_processor",
    "num_buckets", "pca", "pca_whiten", "pca_normalize", "pca_fit_on", "clicks",
)  # fmt: skip


@contextmanager
def user_errors(command_to_resume: str | None = None) -> Iterator[None]:
    """Turn what a user can cause into one sentence on stderr: exit status 2, or 130 for Ctrl-C and SIGTERM.

    Args:
        command_to_resume: named after an interruption.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (ConfigError, DataError) as err:
        if logging.root.handlers:  # a sweep's user looks into the log of the run
            logging.error(err)
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as err:
        how = f"; continue with: {command_to_resume}" if command_to_resume else ""
        print(f"\ninterrupted: {err or 'no training was going on'}{how}", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def load_experiment(expid: str, config_dir: str | Path | None = None, dataset_id: str | None = None) -> dict[str, Any]:
    """Return the merged model and dataset parameters of an experiment, with absolute paths.

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
    params = absolute_paths(load_model_config(str(known[expid]), expid), config_dir)
    params.update(load_dataset(dataset_id or params["dataset_id"], config_dir))
    return params


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


def check_keys(params: Mapping[str, Any], model: Any) -> None:
    """Refuse a key that nothing reads or that is missing, and a value that would only fail after an epoch.

    Raises:
        ConfigError: names the key and the nearest valid one.
    """
    for key in REQUIRED_KEYS:
        if params.get(key) is None:
            raise ConfigError(f"experiment {params.get('model_id')}: key {key!r} is missing; add it to the YAML.")
    readers: list[Any] = [
        vars(c)["__init__"] for c in model.__mro__ if issubclass(c, BaseModel) and "__init__" in vars(c)
    ]
    readers += [model.fit, MMCTRDataLoader.__init__]
    signatures = [inspect.signature(reader).parameters for reader in readers]
    defaults = {name: p.default for parameters in reversed(signatures) for name, p in parameters.items()}
    valid = (set(defaults) - {"self", "kwargs", "feature_map", "data_generator", "validation_data", "data_path"}) | set(
        HOST_KEYS + DATASET_KEYS
    )
    for key, value in params.items():
        if key not in valid:
            raise ConfigError(
                f"key {key!r} of experiment {params.get('model_id')} is not read by {model.__name__}, "
                f"FuxiCTR or the loader; {nearest(key, valid)}."
            )
        is_number = isinstance(defaults.get(key), int | float) or key == "learning_rate"
        if is_number and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            raise ConfigError(f"key {key!r}: YAML reads {value} as text; write it with a point, e.g. 1.0e-3.")
    _check_columns(params)
    _check_metrics(params)


def _check_columns(params: Mapping[str, Any]) -> None:
    names: list[str] = []
    for column in params["feature_cols"]:
        for key in column:
            if key not in COLUMN_KEYS:
                raise ConfigError(
                    f"feature_cols: key {key!r} of column {column.get('name')!r} is not known; "
                    f"{nearest(key, COLUMN_KEYS)}."
                )
        if "name" not in column:
            raise ConfigError(f"feature_cols: a column without 'name': {column}.")
        names += column["name"] if isinstance(column["name"], list) else [column["name"]]
    for name in params.get("use_features") or ():
        if name not in names:
            raise ConfigError(f"use_features: {name!r} is no column of feature_cols; {nearest(name, names)}.")


def _check_metrics(params: Mapping[str, Any]) -> None:
    metrics = params["metrics"]
    for metric in metrics:
        base = metric.split("(")[0]
        if base not in ("AUC", "logloss", "binary_crossentropy", *GROUP_METRICS):
            known = ("AUC", "logloss", *GROUP_METRICS)
            raise ConfigError(f"metrics: {metric!r} is not known; {nearest(metric, known)}.")
        if base in GROUP_METRICS and not params.get("group_id"):
            raise ConfigError(f"metrics: {metric} needs the dataset key 'group_id', e.g. group_id: user_id.")
    monitor = params.get("monitor", "AUC")
    for name in list(monitor) if isinstance(monitor, Mapping) else [monitor]:
        if name not in metrics:
            raise ConfigError(f"monitor: {name!r} is not among metrics {metrics}; add it there.")


def _existing_directory(path: str | Path) -> Path:
    directory = Path(path).resolve()
    if not directory.is_dir():
        raise ConfigError(f"--config {path}: no such directory; it must hold model_config.yaml or model_config/*.yaml.")
    return directory


def _yaml_files(directory: Path, kind: str) -> list[Path]:
    single = directory / f"{kind}.yaml"
    return [single] if single.is_file() else sorted((directory / kind).glob("*.yaml"))


def _keys(files: list[Path]) -> list[str]:
    keys: list[str] = []
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as err:
            raise ConfigError(f"{file}: not valid YAML ({' '.join(str(err).split())}); correct that line.") from err
        keys += content or []
    return keys


def _experiment_ids(directory: Path) -> list[str]:
    return [key for key in _keys(_yaml_files(directory, "model_config")) if key != "Base"]


def _dataset_ids(directory: Path) -> list[str]:
    return _keys(_yaml_files(directory, "dataset_config"))


def _places(directories: list[Path]) -> str:
    return ", ".join(str(directory) for directory in directories) or str(REPOSITORY)


def nearest(name: str, known: Any) -> str:
    """The end of a refusal: known names that are like ``name``, or else all of them."""
    close = difflib.get_close_matches(name, [str(key) for key in known], n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(sorted(map(str, known)))}"


def absolute_paths(params: dict[str, Any], config_dir: str | Path | None) -> dict[str, Any]:
    """Relative paths start at the repository, or at the config directory if that lies outside it."""
    base = REPOSITORY
    if config_dir is not None and not Path(config_dir).resolve().is_relative_to(REPOSITORY):
        base = Path(config_dir).resolve()
    resolved = dict(params)
    for key in PATH_KEYS:
        if resolved.get(key):
            resolved[key] = _resolve(key, resolved[key], base)
    if resolved.get("modality_data"):
        files = resolved["modality_data"]
        resolved["modality_data"] = {modality: _resolve("modality_data", files[modality], base) for modality in files}
    return resolved


def _resolve(key: str, path: str, base: Path) -> str:
    expanded = os.path.expandvars(path)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ConfigError(f"{key}: {path} needs the environment variable {unset[1]}; set it to the folder of the data.")
    return str((base / expanded).resolve())
