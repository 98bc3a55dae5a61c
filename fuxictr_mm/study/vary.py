"""Changing an experiment: what a study's variant or a sweep's combination may say, and what comes of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS, nearest
from fuxictr_mm.config.yaml_files import absolute_paths
from fuxictr_mm.errors import ConfigError

__all__ = ["COLUMN", "canonical", "digest", "vary"]

COLUMN = "feature_cols."


def vary(
    base: Experiment, values: Mapping[str, Any], *, where: str, folder: Path, decided: tuple[str, ...] = ()
) -> Experiment:
    """Return an experiment with some values changed.

    A dataset that is changed gets an id of its own, ``<dataset_id>_<8 hex>`` from the changes, and so a feature map of
    its own. Otherwise the id stays.

    Args:
        base: the experiment that is varied.
        values: key -> new value. A dataset column's key is ``feature_cols.<column>.<key>``; ``feature_cols.<column>``
            is a list of columns that take its place, each of which keeps what it does not say.
        where: what messages name.
        folder: of the file that the values stand in; relative paths start at the repository, or there outside it.
        decided: keys that the caller decides itself, besides those that are ``fixed`` everywhere.

    Raises:
        ConfigError: a key that is not to be varied, an unknown column, a bare value where the experiment has a list,
            or two columns of one name; or the experiment does not admit the value.
    """
    for key in values:
        if key in decided or (key in KEYS and KEYS[key].fixed):
            raise ConfigError(
                f"{where}: {key!r} cannot be varied: the command that runs this decides it; leave it out."
            )
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
    dataset_id = f"{base.dataset_id}_{digest(ours)}" if ours else base.dataset_id
    params = {**model, **absolute_paths(others, folder), **dataset, "dataset_id": dataset_id}
    return Experiment.of(params, dataset_keys=dataset)


def canonical(value: Any) -> str:
    # Mappings keep their order: that of pca is the order of the vector's blocks.
    return json.dumps(value, default=str)


def digest(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(canonical(sorted(values.items())).encode(), digest_size=4).hexdigest()


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
