"""Trials of ``wrong_values.py``: a tiny data set, a list of texts that people type, and every key that is declared."""

import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fuxictr_mm.compat import host_model_names
from fuxictr_mm.config.experiment import annotations_of_model
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.config.schema import COLUMN_KEYS
from fuxictr_mm.models.registry import registered_models
from fuxictr_mm.run import resolve_experiment, run_experiment

__all__ = ["MODEL", "NAN", "REFUSED", "SMALL", "Trial", "Workplace", "of_every_key"]

# What people type -> what they mean; text that means no value of its own is itself.
NAN = float("nan")
ODD: dict[str, Any] = {
    "-1": -1, "0": 0, "1": 1, "3": 3, "1.5": 1.5, "-0.1": -0.1, "1e-6": 1e-6, "2E-1": 0.2, "1_0": 10, "true": True,
    "yes": True, "off": False, "null": None, "'1'": "1", "'False'": "False", "''": "", "foo": "foo", "010": "010",
    "1:30": "1:30", "2024-01-01": "2024-01-01", ".inf": math.inf, "-.inf": -math.inf, ".nan": NAN, "1e400": math.inf,
    "1e30": 1e30, "9223372036854775808": 2**63, "1000000000000": 10**12, "[]": [], "[1]": [1], "[8, -1]": [8, -1],
    "[8, a]": [8, "a"], "{}": {}, "{a: 1}": {"a": 1}, "!!binary aGk=": b"hi", "!!set {a}": {"a"},
    "../x": "../x", "__import__('os')": "__import__('os')",
}  # fmt: skip
# Keys that take what no other key takes.
NEGATIVE = {"gpu", "data_block_size", "fill_na", "monitor"}
EMPTY = {"similarity", "source", "fill_na", "stacked_dnn_hidden_units", "parallel_dnn_hidden_units", "mlp_hidden_units"}
EMPTY |= {"fs1_context", "fs2_context", "feature_specs", "modality_data", "dnn_hidden_units", "attention_hidden_units"}

MODEL: dict[str, Any] = {
    "model": "DIN_SE_MHTA", "model_root": "ck", "dataset_id": "tiny", "verbose": 0, "seed": 1, "metrics": ["AUC"],
    "monitor": "AUC", "monitor_mode": "max", "loss": "binary_crossentropy", "optimizer": "adam", "embedding_dim": 4,
    "max_len": 4, "learning_rate": 0.01, "batch_size": 16, "epochs": 1,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "DIN_SE_MHTA": {"dnn_hidden_units": [8]},
    "Transformer_DCNv2": {"dcn_hidden_units": [8], "mlp_hidden_units": [8], "dim_feedforward": 8, "first_k_cols": 1},
    "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [8]},
    "TransAct": {"dcn_hidden_units": [8], "mlp_hidden_units": [8], "dim_feedforward": 8},
}
COLUMNS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 6},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "int", "type": "sequence", "source": "item",
     "feature_encoder": "layers.MaskedAveragePooling()"},
    {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "source": "item", "embedding_dim": 4,
     "pca": {"txt": 2}},
    {"name": "clicks", "active": True, "dtype": "float", "type": "meta", "source": "item", "clicks": 2},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric"},
]  # fmt: skip
# The column that a key is tried on, where its type does not say.
AT = {"clicks": "clicks", "max_len": "tags", "feature_encoder": "tags", "normalizer": "price"}


@dataclass(frozen=True, eq=False)
class Trial:
    """One value at one place.

    Attributes:
        way: where it comes in.
        key: whose value it is; a refusal must name it.
        value: as it is typed.
        do: carries it out; returns what was read, or raises.
        meant: what a person means by it; ``REFUSED``: nothing, it must be refused.
        may_refuse: whether a refusal that names the key is right too.
    """

    way: str
    key: str
    value: str
    do: Callable[[], Any]
    meant: Any
    may_refuse: bool = True


REFUSED = object()


class Workplace:
    """A tiny data set in a folder, and config folders that say one thing each otherwise."""

    def __init__(self, folder: Path, users: int = 8) -> None:
        self.folder = folder
        self.number = 0
        rng = np.random.default_rng(0)
        ids = np.arange(1, 21)
        items = {
            "item_id": ids,
            "tags": [[int(i % 4) + 1, 0] for i in ids],
            "txt": rng.normal(size=(20, 3)).astype(np.float32).tolist(),
        }
        pq.write_table(pa.table(items), folder / "items.parquet")
        for split, rows in (("train", 48), ("valid", 32), ("test", 32)):
            columns = {
                "user_id": np.arange(rows) % users + 1,
                "item_id": rng.integers(1, 21, rows),
                "item_seq": [rng.integers(1, 21, rng.integers(1, 6)).tolist() for _ in range(rows)],
                "level": rng.integers(0, 5, rows),
                "price": rng.random(rows),
                "label": (np.arange(rows) // 8) % 2,
            }
            pq.write_table(pa.table(columns), folder / f"{split}.parquet")
        np.savez(folder / "vectors.npz", item_id=ids, txt=np.asarray(items["txt"], np.float32))
        self.dataset: dict[str, Any] = {
            "data_root": "out", "data_format": "parquet", "rebuild_dataset": False, "group_id": "user_id",
            **{f"{split}_data": str(folder / f"{split}.parquet") for split in ("train", "valid", "test")},
            "item_info": str(folder / "items.parquet"), "feature_cols": COLUMNS,
            "label_col": {"name": "label", "dtype": "float"},
        }  # fmt: skip

    def config(self, model: Mapping[str, Any], dataset: Mapping[str, Any] | None = None, text: str = "") -> Path:
        """A config folder; ``text`` stands where a value is ``"@@"``."""
        self.number += 1
        folder = self.folder / f"c{self.number}" / "config"
        folder.mkdir(parents=True)
        files = {"model_config": {"run": {**MODEL, **model}}, "dataset_config": {"tiny": dataset or self.dataset}}
        for name, content in files.items():
            written = yaml.safe_dump(content, sort_keys=False, width=1000)
            (folder / f"{name}.yaml").write_text(re.sub(r"'?@@'?", lambda _: text, written), encoding="utf-8")
        return folder

    def run(self, config: Path, key: str, read: Callable[[Mapping[str, Any]], Any] | None = None) -> Any:
        """Run the experiment of a folder as far as it goes; returns the value of the key that was read."""
        experiment = resolve_experiment("run", config)
        value = experiment.get(key) if read is None else read(experiment.params)
        # What takes minutes and shows nothing of the value is left out.
        shorter: dict[str, Any] = {"epochs": 1} if experiment["epochs"] > 3 else {}
        shorter |= {"torch_compile": False} if experiment.get("torch_compile") else {}
        result = run_experiment(experiment.but(**shorter))
        if key in KEYS and KEYS[key].path and isinstance(value, str):  # made absolute
            value = Path(value).name
        numbers = [*result.valid.values(), *(entry["train_loss"] for entry in result.curve)]
        if not all(number is not None and math.isfinite(number) for number in numbers):
            raise ArithmeticError(f"trained to metrics that are no numbers: {result.valid}")
        return value

    def in_experiment(self, model: Mapping[str, Any], key: str, text: str) -> Any:
        return self.run(self.config({**model, key: "@@"}, None, text), key)

    def in_dataset(self, key: str, text: str) -> Any:
        return self.run(self.config({}, {**self.dataset, key: "@@"}, text), key)

    def in_label(self, key: str, text: str) -> Any:
        label = {**self.dataset["label_col"], key: "@@"}
        return self.run(self.config({}, {**self.dataset, "label_col": label}, text), "label_col")

    def in_column(self, at: str, key: str, text: str) -> Any:
        columns = [{**column, key: "@@"} if column["name"] == at else column for column in COLUMNS]
        number = [column["name"] for column in COLUMNS].index(at)
        model = {"similarity": ["clicks"]} if at == "clicks" else {}
        config = self.config(model, {**self.dataset, "feature_cols": columns}, text)
        return self.run(config, key, lambda params: params["feature_cols"][number].get(key))


def families(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return families(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(families(member) for member in typing.get_args(annotation)))
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if origin is not None:
        return {list} if issubclass(origin, Sequence) else {dict} if issubclass(origin, Mapping) else {origin}
    return {annotation}


def meaning(key: str, annotation: Any, text: str) -> Any:
    """What a key's reader may take a text for; ``REFUSED`` where there is nothing.

    Independent of bounds that are declared: only counts below zero, numbers that are none, empty texts and lists,
    numbers that nothing can hold, and values of another type are nothing to anybody.
    """
    value, admitted = ODD[text], families(annotation)
    kind = type(value)
    if kind not in admitted and not (kind is int and float in admitted):
        return REFUSED
    if kind in (int, float) and not (math.isfinite(value) and (value >= 0 or key in NEGATIVE)):
        return REFUSED
    if kind is int and value > 2**31 and float not in admitted:
        return REFUSED
    if kind in (str, list, dict) and not value and key not in EMPTY:
        return REFUSED
    if key in KEYS and KEYS[key].path and kind is str:
        return Path(value).name
    if kind is list and any(type(part) is int and part < 0 for part in value):
        return REFUSED
    return value


def of_every_key(place: Workplace, texts: Sequence[str] = tuple(ODD)) -> Iterator[Trial]:
    """Every declared key, with every odd text."""
    zoo: dict[str, Any] = dict(registered_models())
    for name in ("DIN", "TransAct"):
        if name in host_model_names():
            zoo[name] = getattr(import_module("model_zoo.LongCTR"), name)
    of_all = {name: key.type for name, key in KEYS.items() if not key.dataset}
    for model, kind in zoo.items():
        small = {"model": model, **SMALL.get(model, {})}
        own = {name: hint for name, hint in annotations_of_model(kind).items() if name not in KEYS}
        for key, annotation in {**(of_all if model == "DIN_SE_MHTA" else {}), **own}.items():
            for text in texts:
                meant = REFUSED if key == "model_id" else meaning(key, annotation, text)
                yield Trial(f"experiment ({model})", key, text, partial(place.in_experiment, small, key, text), meant)
    for key, known in KEYS.items():
        for text in texts if known.dataset else ():
            meant = meaning(key, known.type, text)
            yield Trial("data set", key, text, partial(place.in_dataset, key, text), meant)
    for key, column_key in COLUMN_KEYS.items():
        at = AT.get(key, "emb" if column_key.derives or key in ("freeze_emb", "pretrain_dim") else "level")
        for text in texts:
            ignored = column_key.rewrites and ODD[text] is not None
            meant = REFUSED if ignored else meaning(key, column_key.type, text)
            yield Trial(f"column {at}", key, text, partial(place.in_column, at, key, text), meant)
    for key in ("name", "dtype", "nmae"):
        for text in texts:
            yield Trial("label_col", key, text, partial(place.in_label, key, text), REFUSED)
