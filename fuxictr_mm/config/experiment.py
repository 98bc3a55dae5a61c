"""What is to be run: one experiment, read once, checked, and never changed."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fuxictr_mm.compat import find_model
from fuxictr_mm.config.code import GROUP_METRICS, check_encoder, check_initializer, check_metric
from fuxictr_mm.config.keys import (
    KEYS,
    Activations,
    NonNegative,
    NonNegativeNumber,
    Positive,
    Share,
    annotations_of,
    check_value,
    nearest,
)
from fuxictr_mm.config.schema import COLUMN_KEYS, DatasetSchema, check_columns
from fuxictr_mm.config.yaml_files import load_experiment
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.parquet import table_fingerprint

__all__ = ["Experiment", "annotations_of_model", "data_digests", "identity"]

# Parameters of constructors and of fit that no YAML gives.
_NOT_KEYS = {"feature_map", "data_generator", "validation_data", "args", "kwargs"}


@dataclass(frozen=True)
class Experiment:
    """One experiment on one data set.

    Made by :meth:`load` or :meth:`of`, which check every key and value; whether the data admit the run is
    :func:`fuxictr_mm.run.check.check_runs`'s question.

    Attributes:
        params: FuxiCTR's merged parameters, paths absolute; what constructors and ``fit`` are called with.
        model_class: the class that ``params["model"]`` names.
        dataset_keys: those of ``params`` that describe the data set.
    """

    params: Mapping[str, Any]
    model_class: type
    dataset_keys: frozenset[str]

    @classmethod
    def load(
        cls,
        expid: str,
        config_dir: str | Path | None = None,
        dataset_id: str | None = None,
        *,
        model_zoo: Any = None,
        **changes: Any,
    ) -> "Experiment":
        """Read an experiment from YAML; the arguments are those of ``load_experiment``.

        Args:
            model_zoo: where the model is looked up; default: the host's package, where ``register`` has put ours.
            changes: keys that take the place of what the YAML says.

        Raises:
            ConfigError: a name, a key or a value cannot be used.
        """
        model, dataset = load_experiment(expid, config_dir, dataset_id)
        for key, value in {**model, **dataset}.items():
            if key in changes and key in KEYS:  # a wrong value is refused, whatever takes its place
                check_value(f"key {key!r} of experiment {expid}", KEYS[key].type, value)
        return cls.of({**model, **dataset, **changes}, dataset_keys=dataset, model_zoo=model_zoo)

    @classmethod
    def of(cls, params: Mapping[str, Any], *, dataset_keys: Any = (), model_zoo: Any = None) -> "Experiment":
        """Check merged parameters of FuxiCTR's.

        Args:
            params: with absolute paths.
            dataset_keys: those that describe the data set, beside the ones that always do.
            model_zoo: see :meth:`load`.

        Raises:
            ConfigError: a key is missing, unknown or has a value that its reader does not take.
        """
        model = params.get("model")
        if not isinstance(model, str):
            found = "is missing" if model is None else f"has the value {model!r}"
            raise ConfigError(f"experiment {params.get('model_id')}: key 'model' {found}; name a model in the YAML.")
        model_class = find_model(model_zoo or import_module("model_zoo"), model)
        check_keys(params, model_class)
        of_dataset = {key for key in params if key in dataset_keys or (key in KEYS and KEYS[key].dataset)}
        return cls(MappingProxyType(_kept(params)), model_class, frozenset(of_dataset - {"dataset_id"}))

    def but(self, **changes: Any) -> "Experiment":
        """Return this experiment with other values, checked again."""
        params = {**self.params, **changes}
        if params["model"] == self.params["model"]:
            check_keys(params, self.model_class)
            return Experiment(MappingProxyType(_kept(params)), self.model_class, self.dataset_keys)
        return Experiment.of(params, dataset_keys=self.dataset_keys)

    def __getitem__(self, key: str) -> Any:
        return self.params[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, ``default`` where the YAML does not say."""
        return self.params.get(key, default)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (dict(self.params), self.model_class, self.dataset_keys)

    @property
    def expid(self) -> str:
        return str(self.params["model_id"])

    @property
    def dataset_id(self) -> str:
        return str(self.params["dataset_id"])

    @property
    def dataset(self) -> dict[str, Any]:
        """Those of ``params`` that describe the data set."""
        return {key: value for key, value in self.params.items() if key in self.dataset_keys}

    @cached_property
    def schema(self) -> DatasetSchema:
        """The roles of the columns that the experiment reads."""
        return DatasetSchema.from_params(self.params).read_by(self.params)

    @property
    def checkpoint(self) -> Path:
        """FuxiCTR's file of the best weights."""
        return Path(self.params["model_root"]) / self.dataset_id / f"{self.expid}.model"

    def file(self, suffix: str) -> Path:
        """A file of the run beside the checkpoint, e.g. ``.log``, ``.result.json``."""
        return self.checkpoint.with_suffix(suffix)

    def fingerprint(self) -> str:
        """Digest of the parameters that decide what the run computes, and of the bytes of its data files."""
        text = json.dumps([identity(self.params), data_digests(self.params)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _kept(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy; FuxiCTR regularizes by a number only if it is a float, and would leave ``1`` out in silence."""
    kept = deepcopy(dict(params))
    for key in ("embedding_regularizer", "net_regularizer"):
        if isinstance(value := kept.get(key), int) and value:
            kept[key] = float(value)
    return kept


def data_digests(params: Mapping[str, Any]) -> dict[str, str | None]:
    """Digest of the bytes of each data file that the parameters name; ``None`` for one that is not there."""
    files: dict[str, Any] = {}
    for key in (key for key, known in KEYS.items() if known.content):
        value = params.get(key)
        files |= value if isinstance(value, Mapping) else {key: value}
    return {key: _fingerprint(path) for key, path in files.items() if path}


def _fingerprint(path: str) -> str | None:
    try:
        return table_fingerprint(path)
    except DataError:  # it is not there, which whoever reads it says
        return None


def _rebuild(params: dict[str, Any], model_class: type, dataset_keys: frozenset[str]) -> Experiment:
    return Experiment(MappingProxyType(params), model_class, dataset_keys)


def identity(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that decide what a run computes, as text."""
    return {key: str(value) for key, value in sorted(params.items()) if key not in KEYS or not KEYS[key].machine}


def check_keys(params: Mapping[str, Any], model_class: type) -> None:
    """Refuse a key that nothing reads or that is missing, and a value that its reader does not take.

    Raises:
        ConfigError: names the key, what was found and what is expected, or the nearest key that is read.
    """
    where = f"experiment {params.get('model_id')}"
    for key, known in KEYS.items():
        if known.required and params.get(key) is None:
            raise ConfigError(f"{where}: key {key!r} is missing; add it to the YAML.")
    types = {**annotations_of_model(model_class), **{key: known.type for key, known in KEYS.items()}}
    for key, value in params.items():
        if key not in types:
            raise ConfigError(
                f"key {key!r} of {where} is not read by {model_class.__name__}, FuxiCTR or the loader; "
                f"{nearest(key, types)}."
            )
        check_value(f"key {key!r} of {where}", types[key], value)
        if key.endswith("initializer"):
            check_initializer(f"key {key!r} of {where}", value)
    _check_specs(params.get("feature_specs") or ())
    check_columns(params["feature_cols"], params["label_col"], params.get("use_features"))
    _check_metrics(params)


def annotations_of_model(model_class: Any) -> dict[str, Any]:
    """Key -> annotation of everything that a model's constructors and its ``fit`` name, the nearest class first."""
    readers = [model_class.fit]
    for owner in model_class.__mro__:
        if owner.__module__.startswith("torch."):
            break
        if "__init__" in vars(owner):
            readers.append(vars(owner)["__init__"])
    found: dict[str, Any] = {}
    for reader in readers:
        defaults = inspect.signature(reader).parameters
        for name, annotation in annotations_of(reader).items():
            if name not in _NOT_KEYS and name not in found:
                found[name] = annotation if annotation is not Any else _type_of(name, defaults[name].default)
    return found


def _type_of(name: str, default: Any) -> Any:
    """FuxiCTR annotates nothing: what a parameter takes shows itself by its name and its default."""
    if isinstance(default, bool):
        return bool
    if "dropout" in name:
        return Share
    if "activation" in name:
        return Activations if isinstance(default, str) else Activations | None
    if isinstance(default, float) or name in ("alpha", "beta"):  # SIM's weights of two losses
        return NonNegativeNumber
    if isinstance(default, int):
        return Positive if default > 0 else NonNegative
    if isinstance(default, list):
        return list[Positive] if "hidden_units" in name else list[str]
    return str if isinstance(default, str) else Any


def _check_specs(feature_specs: Any) -> None:
    """``feature_specs`` changes the feature map behind the columns' back, so it is checked as they are."""
    for spec in feature_specs:
        for key, value in spec.items():
            if key not in COLUMN_KEYS or COLUMN_KEYS[key].rewrites or COLUMN_KEYS[key].derives:
                raise ConfigError(f"feature_specs: key {key!r} cannot be set here; {nearest(key, COLUMN_KEYS)}.")
            check_value(f"feature_specs {spec.get('name')!r}: {key}", COLUMN_KEYS[key].type, value)
        if "name" not in spec:
            raise ConfigError(f"feature_specs: an entry without 'name': {spec}.")
        if spec.get("feature_encoder") is not None:
            check_encoder(f"feature_specs {spec['name']!r}: feature_encoder", spec["feature_encoder"])


def _check_metrics(params: Mapping[str, Any]) -> None:
    metrics, monitor = params["metrics"], params.get("monitor", "AUC")
    for metric in metrics:
        check_metric("metrics", metric)
        if metric.split("(")[0] in GROUP_METRICS and not params.get("group_id"):
            raise ConfigError(f"metrics: {metric} needs the dataset key 'group_id', e.g. group_id: user_id.")
        if metrics.count(metric) > 1:
            raise ConfigError(f"metrics: {metric} is listed twice; list it once.")
    for name in monitor if isinstance(monitor, Mapping) else [monitor]:
        if name not in metrics:
            raise ConfigError(f"monitor: {name!r} is not among metrics {metrics}; add it there.")
    if isinstance(monitor, str):
        better = "min" if monitor in ("logloss", "binary_crossentropy") else "max"
        if (mode := params.get("monitor_mode", "max")) != better:
            raise ConfigError(
                f"monitor_mode: {mode} would keep the weights with the worst {monitor}; set monitor_mode: {better}."
            )
