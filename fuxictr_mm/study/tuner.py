"""A tuner YAML in FuxiCTR's form -> experiments, for FuxiCTR's ``grid_search`` to run.

FuxiCTR 2.3.10's own ``enumerate_params`` is not used, because it cannot do what a sweep over vectors needs: a second
dataset variant ends in a KeyError, all variants of a parquet dataset get one id and would overwrite each other, names
are hashes of *sorted characters* (``{text: 64, image: 32}`` and ``{text: 32, image: 64}`` are the same) and count the
combinations (one more value renames, and so repeats, what has finished), and ``pca`` entries, whose order is the order
of the vector's blocks, are written sorted.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuxictr_mm.config.experiment import DATASET_KEYS, REPOSITORY, absolute_paths, nearest
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write

__all__ = ["Experiment", "Tuner", "enumerate_experiments", "read_tuner", "vary", "write_configs"]

TUNER_KEYS = ("base_config", "base_expid", "dataset_id", "tuner_space")
COLUMN = "feature_cols."
# Where things lie and what they are called: the sweep decides, or its base experiment.
NOT_SWEPT = ("dataset_id", "model_id", "model_root", "data_root", "gpu", "resume")
# The same experiment wherever it is stored and however much it prints; names must not depend on these.
NOT_NAMED = ("model_root", "verbose", "num_workers", "debug_mode", "checkpoint_steps")
HEADER = "# Written by run_param_tuner.py from the tuner file beside this folder; changes here are lost.\n"


@dataclass(frozen=True)
class Tuner:
    """A tuner YAML.

    Attributes:
        file: the YAML itself; ``folder``, its path without ``.yaml``, takes what is generated.
        base_expid, base_config, dataset_id: the experiment that is varied, as ``run_expid.py`` takes them.
        space: key -> the values to try. A dataset column's key is ``feature_cols.<column>.<key>``.
    """

    file: Path
    base_expid: str
    base_config: Path | None
    dataset_id: str | None
    space: dict[str, list[Any]]

    @property
    def folder(self) -> Path:
        return self.file.with_suffix("")

    @property
    def swept(self) -> list[str]:
        """Keys that take more than one value."""
        return [key for key, values in self.space.items() if len(values) > 1]


@dataclass(frozen=True)
class Experiment:
    """One combination.

    Attributes:
        expid: ``<base_expid>_<8 hex>``, the same wherever and whenever the same combination is enumerated.
        values: key of the tuner's space -> value.
        model, dataset: the two halves of the parameters as FuxiCTR keeps them, paths absolute.
    """

    expid: str
    values: dict[str, Any]
    model: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def dataset_id(self) -> str:
        return str(self.model["dataset_id"])

    @property
    def params(self) -> dict[str, Any]:
        """What ``load_experiment`` returns for this expid from the written folder."""
        return {**self.model, "model_id": self.expid, **self.dataset}


def read_tuner(path: str | Path) -> Tuner:
    """Read a tuner YAML: ``base_expid`` and ``tuner_space``, and optionally ``base_config`` and ``dataset_id``.

    A relative ``base_config`` starts at the repository, or at the file's own folder outside it.

    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, an empty or repeated value.
    """
    file = Path(path).resolve()
    if file.suffix != ".yaml" or not file.is_file():
        raise ConfigError(f"--config {path}: no such tuner file; it must be a .yaml with {', '.join(TUNER_KEYS)}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(err).split())}); correct that line.") from err
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping with the keys {', '.join(TUNER_KEYS)} is expected.")
    for key in content:
        if key not in TUNER_KEYS:
            raise ConfigError(f"{file}: key {key!r} is not read; {nearest(str(key), TUNER_KEYS)}.")
    for key in ("base_expid", "tuner_space"):
        if not content.get(key):
            raise ConfigError(f"{file}: key {key!r} is missing or empty; a tuner file needs it.")
    config = content.get("base_config")
    base = REPOSITORY if file.is_relative_to(REPOSITORY) else file.parent
    return Tuner(
        file=file,
        base_expid=str(content["base_expid"]),
        base_config=None if config is None else (base / config).resolve(),
        dataset_id=content.get("dataset_id"),
        space=_read_space(file, content["tuner_space"]),
    )


def _read_space(file: Path, space: Any) -> dict[str, list[Any]]:
    if not isinstance(space, dict):
        raise ConfigError(f"{file}: tuner_space must map keys to lists of values; found {space!r}.")
    lists = {str(key): values if isinstance(values, list) else [values] for key, values in space.items()}
    for key, values in lists.items():
        if key in NOT_SWEPT:
            raise ConfigError(
                f"{file}: tuner_space: {key!r} cannot be swept; a sweep keeps one place and one dataset, whose keys "
                f"can be swept, e.g. {COLUMN}item_emb.pca (another dataset: a tuner file of its own)."
            )
        if not values:
            raise ConfigError(f"{file}: tuner_space: {key!r} has no values; list at least one.")
        seen: list[str] = []
        for value in values:
            if _canonical(value) in seen:
                raise ConfigError(f"{file}: tuner_space: {key!r} lists {value!r} twice; list it once.")
            seen.append(_canonical(value))
    return lists


def enumerate_experiments(tuner: Tuner, params: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[Experiment]:
    """Return one experiment per combination of the tuner's space, each as :func:`vary` gives it.

    Args:
        params: the base experiment's, from ``resolve_experiment``.
        dataset: those of them that describe the dataset, from ``load_dataset``.

    Raises:
        ConfigError: unknown column, a bare value where the base has a list, or two combinations of one name.
    """
    variants: dict[str, dict[str, Any]] = {}
    experiments: dict[str, Experiment] = {}
    for values in _combinations(tuner.space):
        where = f"{tuner.file}: tuner_space"
        model, variant = vary(params, dataset, values, where=where, folder=tuner.file.parent)
        variant_id = model["dataset_id"]
        if _canonical(variants.setdefault(variant_id, variant)) != _canonical(variant):
            raise ConfigError(f"{tuner.file}: two dataset variants have the id {variant_id}; change a value of one.")
        # Named after paths as they are written: names must not depend on the place.
        named = {key: values.get(key, value) for key, value in model.items() if key not in NOT_NAMED}
        expid = f"{tuner.base_expid}_{_digest(named)}"
        if expid in experiments:
            raise ConfigError(f"{tuner.file}: two combinations have the id {expid}; change a value of one.")
        experiments[expid] = Experiment(expid, values, model, variants[variant_id])
    return list(experiments.values())


def vary(
    params: Mapping[str, Any], dataset: Mapping[str, Any], values: Mapping[str, Any], *, where: str, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two halves of an experiment, model and dataset, with some values changed.

    A dataset that is changed gets an id of its own, ``<dataset_id>_<8 hex>`` from the changes, and so a feature map and
    an item table of its own. Otherwise the id stays.

    Args:
        params: the experiment's, from ``resolve_experiment``.
        dataset: those of them that describe the dataset, from ``load_dataset``.
        values: key -> new value. A dataset column's key is ``feature_cols.<column>.<key>``; ``feature_cols.<column>``
            is a list of columns that take its place, each of which keeps what it does not say.
        where: what messages name.
        folder: of the file that the values stand in; relative paths start at the repository, or there outside it.

    Raises:
        ConfigError: unknown column, a bare value where the experiment has a list, or two columns of one name.
    """
    model = {key: value for key, value in params.items() if key not in dataset and key != "model_id"}
    dataset = {key: value for key, value in dataset.items() if key != "dataset_id"}
    # Where both halves have a key, the dataset's wins (load_experiment): changing the other would change nothing.
    # A dataset key that neither has yet belongs to the dataset, because it may change the item table.
    ours = {
        key: value
        for key, value in values.items()
        if key.startswith(COLUMN) or key in dataset or (key in DATASET_KEYS and key not in model)
    }
    others = {key: value for key, value in values.items() if key not in ours}
    plain = {key: value for key, value in ours.items() if not key.startswith(COLUMN)}
    for key, value in {**others, **plain}.items():
        _check_list(where, key, (dataset if key in plain else model).get(key), value)
    dataset |= absolute_paths(plain, folder)
    for key in ours:
        if key not in plain:
            dataset["feature_cols"] = _change_column(where, key, values[key], _columns(dataset))
    dataset_id = f"{params['dataset_id']}_{_digest(ours)}" if ours else str(params["dataset_id"])
    return {**model, **absolute_paths(others, folder), "dataset_id": dataset_id}, dataset


def write_configs(tuner: Tuner, experiments: list[Experiment]) -> None:
    """Write the tuner's folder as a config directory of FuxiCTR: ``model_config.yaml`` and ``dataset_config.yaml``.

    Raises:
        ConfigError: the folder holds config files that were not written here.
    """
    models = {experiment.expid: experiment.model for experiment in experiments}
    datasets = {experiment.dataset_id: experiment.dataset for experiment in experiments}
    contents = {"model_config.yaml": models, "dataset_config.yaml": datasets}
    for name in contents:
        file = tuner.folder / name
        if file.is_file() and not file.read_text(encoding="utf-8").startswith(HEADER):
            raise ConfigError(f"{file}: exists, but no sweep has written it; rename the tuner file {tuner.file.name}.")
    for name, content in contents.items():
        text = yaml.dump(content, Dumper=_Dumper, default_flow_style=None, sort_keys=False, indent=4, width=120)
        with atomic_write(tuner.folder / name) as temporary:
            temporary.write_text(HEADER + text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Every experiment in full: anchors would make a reader jump."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _combinations(space: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*space.values()):
        yield dict(zip(space, values))


def _canonical(value: Any) -> str:
    # Mappings keep their order: that of pca is the order of the vector's blocks.
    return json.dumps(value, default=str)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(_canonical(sorted(values.items())).encode(), digest_size=4).hexdigest()


def _columns(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns one by one: FuxiCTR lets an entry carry a list of names, of which a sweep may change one."""
    columns = []
    for entry in dataset.get("feature_cols") or ():
        names = entry.get("name")
        columns += [{**entry, "name": name} for name in (names if isinstance(names, list) else [names])]
    return columns


def _change_column(where: str, key: str, value: Any, columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [column["name"] for column in columns]
    if (whole := key.removeprefix(COLUMN)) in names:
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
            raise ConfigError(f"{where}: {key!r} must be a list of columns, or {key}.<key> one value; found {value!r}.")
        at = names.index(whole)
        columns[at : at + 1] = [{**columns[at], **entry} for entry in value]
        names = [column["name"] for column in columns]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{where}: {key!r} gives two columns the name {twice[0]!r}; give each its own 'name'.")
        return columns
    name, _, part = whole.rpartition(".")
    if not name or not part:
        raise ConfigError(f"{where}: {key!r} must be {COLUMN}<column>.<key>; columns: {names}.")
    if name not in names:
        raise ConfigError(f"{where}: {key!r}: no column {name!r}; {nearest(name, names)}.")
    column = columns[names.index(name)]
    _check_list(where, key, column.get(part), value)
    column[part] = value
    return columns


def _check_list(where: str, key: str, base: Any, value: Any) -> None:
    """In a tuner, ``dcn_hidden_units: [512, 256]`` would be two experiments of one number each; one list was meant."""
    if isinstance(base, list) and not isinstance(value, list | None):
        raise ConfigError(
            f"{where}: {key!r} has the value {value!r}, but the base experiment has the list {base}; write a list (in "
            f"tuner_space a list of lists, e.g. [{base}])."
        )
