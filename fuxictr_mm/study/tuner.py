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

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS, nearest
from fuxictr_mm.config.yaml_files import REPOSITORY, absolute_paths, read_yaml
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write

__all__ = ["Combination", "Tuner", "enumerate_experiments", "read_tuner", "vary", "write_configs"]

TUNER_KEYS = ("base_config", "base_expid", "dataset_id", "tuner_space")
COLUMN = "feature_cols."
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
class Combination:
    """One combination of a tuner's values.

    Attributes:
        experiment: with the id ``<base_expid>_<8 hex>``, the same wherever and whenever the combination is enumerated.
        values: key of the tuner's space -> value.
    """

    experiment: Experiment
    values: dict[str, Any]

    @property
    def expid(self) -> str:
        return self.experiment.expid

    @property
    def dataset_id(self) -> str:
        return self.experiment.dataset_id


def read_tuner(path: str | Path) -> Tuner:
    """Read a tuner YAML: ``base_expid`` and ``tuner_space``, and optionally ``base_config`` and ``dataset_id``.

    A relative ``base_config`` starts at the repository, or at the file's own folder outside it.

    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, an empty or repeated value.
    """
    file = Path(path).resolve()
    if file.suffix != ".yaml" or not file.is_file():
        raise ConfigError(f"--config {path}: no such tuner file; it must be a .yaml with {', '.join(TUNER_KEYS)}.")
    content = read_yaml(file)
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
        # One data set per sweep, whose keys can be swept; the rest is what every study decides itself.
        if key == "dataset_id" or (key in KEYS and KEYS[key].fixed and key != "verbose"):
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


def enumerate_experiments(tuner: Tuner, base: Experiment) -> list[Combination]:
    """Return one experiment per combination of the tuner's space, each as :func:`vary` gives it.

    Raises:
        ConfigError: a key or value that cannot be used, or two combinations of one name.
    """
    variants: dict[str, str] = {}
    found: dict[str, Combination] = {}
    for values in _combinations(tuner.space):
        where = f"{tuner.file}: tuner_space"
        experiment = vary(base, values, where=where, folder=tuner.file.parent)
        described = _canonical(sorted(experiment.dataset.items()))
        if variants.setdefault(experiment.dataset_id, described) != described:
            raise ConfigError(
                f"{tuner.file}: two dataset variants have the id {experiment.dataset_id}; change a value of one."
            )
        # Named after paths as they are written: names must not depend on the place.
        named = {
            key: values.get(key, value)
            for key, value in experiment.params.items()
            if key not in experiment.dataset_keys and key != "model_id" and _names(key)
        }
        expid = f"{tuner.base_expid}_{_digest(named)}"
        if expid in found:
            raise ConfigError(f"{tuner.file}: two combinations have the id {expid}; change a value of one.")
        found[expid] = Combination(experiment.but(model_id=expid), values)
    return list(found.values())


def _names(key: str) -> bool:
    """Whether a key is part of a name: the same experiment wherever it is stored and however much it prints."""
    known = KEYS.get(key)
    return known is None or known.content or not known.machine


def vary(base: Experiment, values: Mapping[str, Any], *, where: str, folder: Path) -> Experiment:
    """Return an experiment with some values changed.

    A dataset that is changed gets an id of its own, ``<dataset_id>_<8 hex>`` from the changes, and so a feature map of
    its own. Otherwise the id stays.

    Args:
        base: the experiment that is varied.
        values: key -> new value. A dataset column's key is ``feature_cols.<column>.<key>``; ``feature_cols.<column>``
            is a list of columns that take its place, each of which keeps what it does not say.
        where: what messages name.
        folder: of the file that the values stand in; relative paths start at the repository, or there outside it.

    Raises:
        ConfigError: unknown column, a bare value where the experiment has a list, or two columns of one name; or the
            experiment does not admit the value.
    """
    dataset = base.dataset
    model = {key: value for key, value in base.params.items() if key not in dataset}
    # Where both halves have a key, the dataset's wins: changing the other would change nothing.
    # A dataset key that neither has yet belongs to the dataset, because it may change the item columns.
    ours = {
        key: value
        for key, value in values.items()
        if key.startswith(COLUMN) or key in dataset or (key in KEYS and KEYS[key].dataset and key not in model)
    }
    others = {key: value for key, value in values.items() if key not in ours}
    plain = {key: value for key, value in ours.items() if not key.startswith(COLUMN)}
    for key, value in {**others, **plain}.items():
        _check_list(where, key, (dataset if key in plain else model).get(key), value)
    dataset |= absolute_paths(plain, folder)
    for key in ours:
        if key not in plain:
            dataset["feature_cols"] = _change_column(where, key, values[key], _columns(dataset))
    dataset_id = f"{base.dataset_id}_{_digest(ours)}" if ours else base.dataset_id
    params = {**model, **absolute_paths(others, folder), **dataset, "dataset_id": dataset_id}
    return Experiment.of(params, dataset_keys=dataset)


def write_configs(tuner: Tuner, combinations: list[Combination]) -> None:
    """Write the tuner's folder as a config directory of FuxiCTR: ``model_config.yaml`` and ``dataset_config.yaml``.

    Raises:
        ConfigError: the folder holds config files that were not written here.
    """
    models: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for experiment in (combination.experiment for combination in combinations):
        dataset = datasets[experiment.dataset_id] = experiment.dataset
        # FuxiCTR takes the id from the name of the block.
        known = (*dataset, "model_id")
        models[experiment.expid] = {key: value for key, value in experiment.params.items() if key not in known}
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
