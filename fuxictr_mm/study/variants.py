"""A study's YAML -> variants of an experiment.

    base:                          # dataset id -> the experiment that is varied on it
        LFM2k: {expid: DIN_SE_MHTA_LFM2k, names: {text: txt_emb_MiniLM}}
    variants:                      # name -> what it changes; the first one is the reference
        full: {}
        no SE: {use_se: False}
        text only: {feature_cols.item_emb.pca: {<text>: 32}}
    crossed_with:                  # optional: every variant once more, with these changes besides
        without vectors: {use_features: [likes_level, views_level, item_id, item_tags]}
    over: heads                    # optional: every variant's name is a number, and the study a curve over it

A change is a key of the model or of the dataset, or of a dataset column as a tuner writes it,
``feature_cols.<column>.<key>``; a list under ``feature_cols.<column>`` takes the column's place, and each of its
columns keeps what it does not say (``{}``: all). ``expid`` and ``dataset_id`` take another experiment or dataset.
``<text>`` stands for what the dataset calls it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import FileName, Text, check_value, nearest
from fuxictr_mm.config.places import SHIPPED
from fuxictr_mm.config.yaml_files import read_yaml
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.run.run import resolve_experiment
from fuxictr_mm.study.runs import Variant
from fuxictr_mm.study.vary import vary

__all__ = ["Study", "list_studies", "read_study", "study_variants"]

STUDIES = SHIPPED / "experiments" / "studies"
SECTIONS = {
    "base": "LFM2k: {expid: DIN_SE_MHTA_LFM2k}",
    "variants": "full: {}",
    "crossed_with": "without vectors: {use_features: [item_id]}",
}


@dataclass(frozen=True)
class Study:
    """A study's YAML.

    Attributes:
        base: dataset id -> ``expid``, and optionally ``names``: placeholder -> what stands for it.
        variants: name -> changes, those of ``crossed_with`` included.
        over: what the variants' names are numbers of; ``None``: they are words.
    """

    file: Path
    base: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]]
    over: str | None

    @property
    def name(self) -> str:
        return self.file.stem


def list_studies() -> list[str]:
    """Names of the studies in ``studies/``."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_study(name: str) -> Study:
    """Read a study.

    Args:
        name: of a file in ``studies/`` without its suffix, or the path of a YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, or a section of another form.
    """
    file = Path(name).resolve() if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"--study {name}: no file {file}; {nearest(name, list_studies())}.")
    content = read_yaml(file)
    known = (*SECTIONS, "over")
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping with the keys {', '.join(known)} is expected.")
    for key in content:
        if key not in known:
            raise ConfigError(f"{file}: key {key!r} is not read; {nearest(str(key), known)}.")
    base, variants = (_section(file, key, content.get(key)) for key in ("base", "variants"))
    for dataset_id, entry in base.items():
        for key in entry:
            if key not in ("expid", "names"):
                raise ConfigError(f"{file}: base: {dataset_id}: key {key!r} is not read; known: expid, names.")
        check_value(f"{file}: base: {dataset_id}: expid", FileName, entry.get("expid"))
        check_value(f"{file}: base: {dataset_id}: names", dict[Text, Text | int | float], entry.get("names", {}))
    check_value(f"{file}: over", Text | None, content.get("over"))
    crossing = _section(file, "crossed_with", content["crossed_with"]) if "crossed_with" in content else {}
    plain = list(variants.items())
    for more, besides in crossing.items():
        variants |= {f"{name}, {more}": {**changes, **besides} for name, changes in plain}
    _check_names(file, variants, content.get("over"))
    return Study(file, base, variants, content.get("over"))


def _section(file: Path, key: str, section: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(section, dict) or not section or not all(isinstance(value, dict) for value in section.values()):
        raise ConfigError(f"{file}: {key!r} must map names to mappings, e.g. {SECTIONS[key]}; found {section!r}.")
    for name, value in section.items():
        check_value(f"{file}: {key}: {name}", dict[Text, Any], value)
    return {str(name): value for name, value in section.items()}


def _check_names(file: Path, variants: Iterable[str], over: str | None) -> None:
    slugs: dict[str, str] = {}
    for name in variants:
        if name != slugs.setdefault(_slug(name), name):
            raise ConfigError(
                f"{file}: variants: {slugs[_slug(name)]!r} and {name!r} would both run as {_slug(name)}; rename one."
            )
        if over is not None and not re.fullmatch(r"\d+(\.\d+)?", name):
            raise ConfigError(f"{file}: over {over!r}: the variant {name!r} is no number; rename it, or remove 'over'.")


def study_variants(study: Study, dataset_id: str, config: str | Path | None = None) -> list[Variant]:
    """All variants of a study on a dataset, with the ids ``<study>__<variant>``.

    Args:
        config: FuxiCTR config directory of the experiments; default: this repository's own.

    Raises:
        ConfigError: the study has no base for the dataset, or an experiment, a dataset, a column or a placeholder is
            not known.
    """
    if dataset_id not in study.base:
        raise ConfigError(f"--dataset {dataset_id}: {study.file} has no such base; {nearest(dataset_id, study.base)}.")
    base = study.base[dataset_id]

    @cache
    def load(expid: str, dataset_id: str) -> Experiment:
        return resolve_experiment(expid, config, dataset_id)

    variants = []
    for name, written in study.variants.items():
        where = f"{study.file}: variants: {name!r}"
        changes = _fill(written, base.get("names", {}), where)
        origin = {"expid": base["expid"], "dataset_id": dataset_id, **changes}
        values = {key: value for key, value in changes.items() if key not in ("expid", "dataset_id")}
        named = load(origin["expid"], origin["dataset_id"]).but(model_id=f"{study.name}__{_slug(name)}")
        experiment = vary(named, values, where=where, folder=study.file.parent, decided=("seed", "verbose"))
        variants.append(Variant(name, experiment, changes))
    return variants


def _fill(value: Any, names: Mapping[str, Any], where: str) -> Any:
    """Put what the dataset calls it in the place of every ``<name>``, also in keys."""
    if isinstance(value, dict):
        return {_fill(key, names, where): _fill(entry, names, where) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, names, where) for entry in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"<(\w+)>", value):
        if name not in names:
            raise ConfigError(f"{where}: <{name}> is not among the dataset's names; {nearest(name, names)}.")
        value = value.replace(f"<{name}>", str(names[name]))
    return value


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
