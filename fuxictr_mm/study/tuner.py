"""A tuner YAML in FuxiCTR's form -> variants, and a config folder that FuxiCTR's ``grid_search`` can run as well.

FuxiCTR 2.3.10's own ``enumerate_params`` is not used, because it cannot do what a sweep over vectors needs: a second
dataset variant ends in a KeyError, all variants of a parquet dataset get one id and would overwrite each other, names
are hashes of *sorted characters* (``{text: 64, image: 32}`` and ``{text: 32, image: 64}`` are the same) and count the
combinations (one more value renames, and so repeats, what has finished), and ``pca`` entries, whose order is the order
of the vector's blocks, are written sorted.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS, FileName, Text, check_value, nearest
from fuxictr_mm.config.places import CHECKOUT
from fuxictr_mm.config.yaml_files import read_yaml
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write
from fuxictr_mm.study.runs import Variant
from fuxictr_mm.study.vary import canonical, digest, vary

__all__ = ["Tuner", "read_tuner", "tuner_variants", "write_configs"]

TUNER_KEYS: dict[str, Any] = {
    "base_config": Text | None,
    "base_expid": FileName,
    "dataset_id": FileName | None,
    "tuner_space": dict[Text, Any],
}
MOST = 10_000  # experiments of a sweep
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
    for key, kind in TUNER_KEYS.items():
        check_value(f"{file}: key {key!r}", kind, content.get(key))
    config = content.get("base_config")
    base = CHECKOUT if CHECKOUT and file.is_relative_to(CHECKOUT) else file.parent
    return Tuner(
        file=file,
        base_expid=content["base_expid"],
        base_config=None if config is None else (base / config).resolve(),
        dataset_id=content.get("dataset_id"),
        space=_read_space(file, content["tuner_space"]),
    )


def _read_space(file: Path, space: dict[str, Any]) -> dict[str, list[Any]]:
    lists = {key: values if isinstance(values, list) else [values] for key, values in space.items()}
    for key, values in lists.items():
        if not values:
            raise ConfigError(f"{file}: tuner_space: {key!r} has no values; list at least one.")
        seen: list[str] = []
        for value in values:
            if canonical(value) in seen:
                raise ConfigError(f"{file}: tuner_space: {key!r} lists {value!r} twice; list it once.")
            seen.append(canonical(value))
    return lists


def tuner_variants(tuner: Tuner, base: Experiment) -> list[Variant]:
    """Return one variant per combination of the tuner's space, each as :func:`vary` gives it.

    Its id, ``<base_expid>_<8 hex>``, is the same wherever and whenever the combination is enumerated.

    Raises:
        ConfigError: a key or value that cannot be used, or two combinations of one name.
    """
    if (count := math.prod(len(values) for values in tuner.space.values())) > MOST:
        raise ConfigError(f"{tuner.file}: tuner_space: {count:,} combinations, more than {MOST:,}; list fewer values.")
    datasets: dict[str, str] = {}
    found: dict[str, Variant] = {}
    for combination in itertools.product(*tuner.space.values()):
        values = dict(zip(tuner.space, combination))
        where = f"{tuner.file}: tuner_space"
        # One data set per sweep, whose keys can be swept: its id is made from them.
        experiment = vary(base, values, where=where, folder=tuner.file.parent, decided=("dataset_id",))
        described = canonical(sorted(experiment.dataset.items()))
        if datasets.setdefault(experiment.dataset_id, described) != described:
            raise ConfigError(
                f"{tuner.file}: two dataset variants have the id {experiment.dataset_id}; change a value of one."
            )
        # Named after paths as they are written: names must not depend on the place.
        named = {
            key: values.get(key, value)
            for key, value in experiment.params.items()
            if key not in experiment.dataset_keys and key != "model_id" and _names(key)
        }
        expid = f"{tuner.base_expid}_{digest(named)}"
        if expid in found:
            raise ConfigError(f"{tuner.file}: two combinations have the id {expid}; change a value of one.")
        found[expid] = Variant(expid, experiment.but(model_id=expid), values)
    return list(found.values())


def _names(key: str) -> bool:
    """Whether a key is part of a name: the same experiment wherever it is stored and however much it prints."""
    known = KEYS.get(key)
    return known is None or known.content or not known.machine


def write_configs(tuner: Tuner, variants: list[Variant]) -> None:
    """Write the tuner's folder as a config directory of FuxiCTR: ``model_config.yaml`` and ``dataset_config.yaml``.

    Raises:
        ConfigError: the folder holds config files that were not written here.
    """
    models: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for experiment in (variant.experiment for variant in variants):
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
