"""FuxiCTR's YAML files: which experiments and data sets there are, and what they say, with absolute paths."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fuxictr_mm.config.keys import KEYS, check_value, nearest
from fuxictr_mm.config.places import CHECKOUT, SHIPPED, home
from fuxictr_mm.errors import ConfigError

__all__ = ["absolute_paths", "load_dataset", "load_experiment", "read_yaml"]

MOST_NODES = 100_000  # values of a file; the largest sweeps have a few thousand


def load_experiment(
    expid: str, config_dir: str | Path | None = None, dataset_id: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the YAML says of an experiment and of its data set, with absolute paths.

    Args:
        expid: a key of a ``model_config.yaml``.
        config_dir: a FuxiCTR config directory (``model_config.yaml`` or ``model_config/*.yaml``, and likewise
            ``dataset_config``). Default: our own, ``model_zoo/*/config`` and ``dataset_config/``.
        dataset_id: overrides the experiment's ``dataset_id``.

    Raises:
        ConfigError: unknown directory, expid or dataset, with the nearest names that exist.
    """
    if config_dir is None:
        directories = sorted((SHIPPED / "model_zoo").glob("*/config"))
    else:
        directories = [_existing_directory(config_dir)]
    found = {name: directory for directory in directories for name in _blocks(directory, "model_config")}
    found.pop("Base", None)
    if expid not in found:
        raise ConfigError(f"--expid {expid}: no such experiment in {_places(directories)}; {nearest(expid, found)}.")
    check_value("experiment", KEYS["model_id"].type, expid)
    file, own = _blocks(found[expid], "model_config")[expid]
    base = _read_blocks(file).get("Base", _blocks(found[expid], "model_config").get("Base", (file, None))[1])
    model = {**_mapping(file, "Base", base), **_mapping(file, expid, own), "model_id": expid}
    _check_own_name(file, expid, "model_id", own)
    if dataset_id is None and "dataset_id" not in model:
        raise ConfigError(f"experiment {expid}: key 'dataset_id' is missing; add it to the YAML.")
    wanted = model["dataset_id"] if dataset_id is None else dataset_id
    return absolute_paths(model, config_dir), load_dataset(wanted, config_dir)


def load_dataset(dataset_id: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Return a dataset's parameters with absolute paths; a config directory without datasets leaves it to ours.

    Raises:
        ConfigError: unknown dataset id, or an environment variable that the YAML names is not set.
    """
    check_value("key 'dataset_id'", KEYS["dataset_id"].type, dataset_id)
    directory = SHIPPED if config_dir is None else _existing_directory(config_dir)
    known = _blocks(directory, "dataset_config")
    if not known:
        directory, known = SHIPPED, _blocks(SHIPPED, "dataset_config")
    if dataset_id not in known:
        raise ConfigError(
            f"dataset_id {dataset_id}: not described in {_places([directory])}; {nearest(dataset_id, known)}."
        )
    file, content = known[dataset_id]
    _check_own_name(file, dataset_id, "dataset_id", content)
    return absolute_paths({"dataset_id": dataset_id, **_mapping(file, dataset_id, content)}, config_dir)


def absolute_paths(params: Mapping[str, Any], config_dir: str | Path | None) -> dict[str, Any]:
    """Relative paths start at the config directory; those of our own files at the repository or current folder."""
    base = home()
    if config_dir is not None and not (CHECKOUT and Path(config_dir).resolve().is_relative_to(CHECKOUT)):
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
    if "\0" in path:
        raise ConfigError(f"{key}: found {path!r}; no file has a name with NUL in it, correct it.")
    expanded = os.path.expandvars(path)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ConfigError(f"{key}: {path} needs the environment variable {unset[1]}; set it to the folder of the data.")
    return str((base / expanded).resolve())


class _Loader(yaml.SafeLoader):
    """YAML as people mean it, where YAML 1.1 reads something else.

    ``1e-6`` is a number, with or without a point. ``010`` (octal 8 in YAML 1.1), ``1:30`` (90 in base 60) and
    ``2024-01-01`` stay text, which no key takes for a number. A key that is given twice is refused; YAML would keep the
    last one in silence.
    """

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        names = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        seen: set[str] = set()
        for key in names:
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return node


_INT, _FLOAT, _TIME = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _FLOAT, _TIME)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT, re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(file: Path) -> Any:
    """Return the content of one YAML file.

    Raises:
        ConfigError: it is no YAML, gives a key twice, or contains itself.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
        _check_size(content)
    except RecursionError:
        raise ConfigError(f"{file}: not valid YAML (nested too deeply); correct it.") from None
    except (yaml.YAMLError, ValueError, AttributeError) as err:  # the last for !!timestamp
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(err).split())}); correct that line.") from err
    return content


def _check_size(content: Any) -> None:
    """Refuse what anchors blow up: a value that contains itself has no end, and copies of copies have none in sight."""
    count, left = 0, [content]
    while left:
        value = left.pop()
        count += 1
        if count > MOST_NODES:
            raise ValueError(f"its anchors make more than {MOST_NODES:,} values, or one that contains itself")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value


def _existing_directory(path: str | Path) -> Path:
    directory = Path(path).resolve()
    if not directory.is_dir():
        raise ConfigError(f"--config {path}: no such directory; it must hold model_config.yaml or model_config/*.yaml.")
    return directory


def _blocks(directory: Path, kind: str) -> dict[str, tuple[Path, Any]]:
    """Name of an experiment or a data set -> the file that describes it, and what it says there."""
    single = directory / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((directory / kind).glob("*.yaml"))
    found: dict[str, tuple[Path, Any]] = {}
    for file in files:
        for name, content in _read_blocks(file).items():
            if name in found and name != "Base":
                raise ConfigError(f"{file}: {name!r} is described in {found[name][0]} too; rename one of them.")
            found[name] = file, content
    return found


def _read_blocks(file: Path) -> dict[str, Any]:
    # A name may look like a number, e.g. 2024.
    return {str(name): content for name, content in _mapping(file, None, read_yaml(file)).items()}


def _mapping(file: Path, name: str | None, content: Any) -> dict[Any, Any]:
    """``content``, empty for nothing; only mappings have keys."""
    if content is not None and not isinstance(content, dict):
        where = f"{file}: " if name is None else f"{file}: {name}: "
        what = "names to keys" if name is None else "keys to values"
        raise ConfigError(f"{where}a mapping from {what} is expected; found {content!r:.80}.")
    return content or {}


def _check_own_name(file: Path, name: str, key: str, content: Any) -> None:
    """The block's name is the id, as in FuxiCTR; another one inside it would be lost in silence."""
    if isinstance(content, dict) and content.get(key, name) != name:
        raise ConfigError(
            f"{file}: {name}: key {key!r} is {content[key]!r:.200}, but the block's name is the id; leave it out."
        )


def _places(directories: list[Path]) -> str:
    return ", ".join(str(directory) for directory in directories) or str(SHIPPED)
