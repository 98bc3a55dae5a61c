"""Does any wrong or odd value get through? Every key, on every way in, with a list of values that people mistype.

``python proofs/wrong_values.py`` tries a list of odd YAML texts on every key that is declared (``KEYS``,
``COLUMN_KEYS``, the constructors of models), and written cases where a list cannot know what is right: metrics, code,
names, files of strangers, tuners, studies and constructors. A value is right if it is refused in a sentence that names
its key before anything of an earlier run is touched and before the first step, or if it is read as a person means it
and the run ends with finite metrics. Writes ``results/wrong_values.md``; ends with status 1 if one is wrong.
"""

import argparse
import json
import logging
import math
import re
import shutil
import signal
import sys
import tempfile
import types
import typing
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE.parent))  # also where only this repository's library is installed

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.optim.optimizer import register_optimizer_step_post_hook
import yaml

from fuxictr_mm import ModalityPCA
from fuxictr_mm.compat import host_model_names
from fuxictr_mm.config.experiment import _signature_types
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.config.schema import COLUMN_KEYS
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.models.registry import registered_models
from fuxictr_mm.run import Trained, check_runs, resolve_experiment, run_experiment
from fuxictr_mm.run.provenance import current_commit, machine
from fuxictr_mm.study.runs import this_command
from fuxictr_mm.study.tables import markdown_table, write_text
from fuxictr_mm.study.tuner import read_tuner, tuner_variants
from fuxictr_mm.study.variants import read_study, study_variants

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
SECONDS = 60  # a value that takes longer hangs

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

    def __init__(self, folder: Path) -> None:
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
                "user_id": np.arange(rows) % 8 + 1,
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

    def run(self, config: Path, key: str, *, of: Callable[[Mapping[str, Any]], Any] | None = None) -> Any:
        """Run the experiment of a folder as far as it goes; returns the value that was read."""
        experiment = resolve_experiment("run", config, **({} if key == "gpu" else {"gpu": -1}))
        read = (of or (lambda params: params.get(key)))(experiment.params)
        # Values that take a whole training to see nothing of are not trained to the end.
        long: dict[str, Any] = {"epochs": 1} if experiment["epochs"] > 3 else {}
        long |= {"torch_compile": False} if experiment.get("torch_compile") else {}
        result = run_experiment(experiment.but(**long))
        if key in KEYS and KEYS[key].path and isinstance(read, str):  # made absolute
            read = Path(read).name
        numbers = [*result.valid.values(), *(entry["train_loss"] for entry in result.curve)]
        if not all(math.isfinite(number) for number in numbers):
            raise ArithmeticError(f"trained to metrics that are no numbers: {result.valid}")
        return read


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


def of_every_key(place: Workplace, only: Sequence[str] = tuple(ODD)) -> Iterator[Trial]:
    """Every declared key, with every odd value."""
    zoo = registered_models()
    for model in (*sorted(zoo), *(name for name in ("DIN", "TransAct") if name in host_model_names())):
        small = {"model": model, **SMALL.get(model, {})}
        if model in zoo:
            kind = zoo[model]
        else:
            kind = getattr(__import__("model_zoo.LongCTR", fromlist=[model]), model)
        own = {name: hint for name, hint in _signature_types(kind).items() if name not in KEYS}
        known = {name: key.type for name, key in KEYS.items() if not key.dataset}
        for key, annotation in {**(known if model == "DIN_SE_MHTA" else {}), **own}.items():
            for text in only:
                yield Trial(
                    f"experiment ({model})", key, text,
                    lambda key=key, text=text, small=small: place.run(place.config({**small, key: "@@"}, None, text), key),
                    REFUSED if key == "model_id" else meaning(key, annotation, text),
                )  # fmt: skip
    for key, known_key in KEYS.items():
        for text in only if known_key.dataset else ():
            yield Trial(
                "data set", key, text,
                lambda key=key, text=text: place.run(place.config({}, {**place.dataset, key: "@@"}, text), key),
                meaning(key, known_key.type, text),
            )  # fmt: skip
    for key, column_key in COLUMN_KEYS.items():
        at = AT.get(key, "emb" if column_key.derives or key in ("freeze_emb", "pretrain_dim") else "level")
        for text in only:
            yield Trial(
                f"column ({at})", key, text,
                lambda key=key, text=text, at=at: _column(place, at, key, text),
                REFUSED if column_key.rewrites and ODD[text] is not None else meaning(key, column_key.type, text),
            )  # fmt: skip
    for key in ("name", "dtype", "nmae"):
        for text in only:
            labels = {**place.dataset["label_col"], key: "@@"}
            yield Trial(
                "label_col", key, text,
                lambda labels=labels, text=text: place.run(
                    place.config({}, {**place.dataset, "label_col": labels}, text), "label_col"
                ),
                REFUSED,
            )  # fmt: skip


def _column(place: Workplace, at: str, key: str, text: str) -> Any:
    columns = [{**column, key: "@@"} if column["name"] == at else column for column in COLUMNS]
    if at == "emb" and key == "pca":
        columns[4].pop("embedding_dim", None)
    number = [column["name"] for column in COLUMNS].index(at)
    config = place.config({"similarity": ["clicks"]} if at == "clicks" else {}, {**place.dataset, "feature_cols": columns}, text)
    return place.run(config, key, of=lambda params: params["feature_cols"][number].get(key))


def written(place: Workplace) -> Iterator[Trial]:
    """Cases where a list of odd values cannot know what is right."""
    refused = {
        "metrics": [
            "[NDCG]", "[AUC, 'gAUC(3)']", "['MRR()', AUC]", "['NDCG(0)', AUC]", "['NDCG(-1)', AUC]", "['NDCG(x)', AUC]",
            "['NDCG(1.5)', AUC]", "['NDCG(1)(2)', AUC]", "['NDCG(__import__(\"os\"))', AUC]", "['NDCG(5', AUC]",
            "[auc]", "[AUC, AUC]", "[AUC, null]", "[AUC, 1]", "AUC", "[logloss]", "[AUC, '']", "['AUC ', AUC]",
            "[accuracy, AUC]", "[[AUC]]", "{AUC: 1}", "['NDCG(True)', AUC]", "['ndcg(5)', AUC]", "['AUC()', AUC]",
        ],
        "monitor": [
            "auc", "logloss", "{AUC: x}", "{AUC: .nan}", "{auc: 1}", "{AUC: null}", "[AUC]", "{AUC: true}", "'NDCG(5)'",
        ],
        "monitor_mode": ["MAX", "maximize", "min", "[max]"],
        "optimizer": ["Optimizer", "LBFGS", "SparseAdam", "os", "lr_scheduler", "__init__"],
        "loss": ["mse", "BCE", "focal", "__import__('os')"],
        "embedding_regularizer": ["l1(x)", "l3(0.1)", "l2(-1)", "l2()", "l1_l2(1)", "l2(nan)", "l2(1e999)", "'-1'"],
        "net_regularizer": ["l1_l2(a,b)", "eval(1)", "[l2(0.1)]"],
        "attention_dim": ["7"],
        "dnn_hidden_units": ["64", "[64, 0]", "[1.5]", "[[8]]", "'[8]'", "[true]", "[1000000000]", "[null]"],
        "dnn_activations": ["foo", "[ReLU, ReLU]", "[foo]", "Module", "Linear", "[]"],
        "attention": ["none", "true"],
        "similarity": ["[nothing]", "[level]", "clicks", "[1]"],
        "use_features": ["[nothing]", "[level]", "[item_id, 1]", "item_id"],
        "embedding_dim": ["1000000000", "2147483647"],
        "seed": ["4294967296", "1e400"],
        "gpu": ["'0'", "-2", "[0]"],
        "model": ["din_se_mhta", "os", "__init__", "MultimodalRankModels"],
        "dataset_id": ["Tiny", "../tiny", "/tmp/tiny", "tiny/..", '"ti\\nny"'],
        "model_root": ["''", '"a\\0b"'],
        "max_len": ["1000000000000"],
        "batch_size": ["1000000000000", "0x0"],
        "Epochs": ["1"], "epoch": ["1"], "feature_cols ": ["[]"], "pca": ["{txt: 2}"], "use_se_": ["true"],
        "embedding_initializer": ["__import__('os').getpid()"],
        "feature_specs": [
            "[{name: tags, feature_encoder: \"__import__('os').system('true')\"}]", "[{feature_encoder: nn.Identity()}]",
            "[{name: tags, vocab_size: -1}]", "[{name: tags, foo: 1}]", "[1]", "{name: tags}",
        ],
    }  # fmt: skip
    for key, values in refused.items():
        for text in values:
            yield Trial(
                "experiment (written)", key, text,
                lambda key=key, text=text: place.run(place.config({**SMALL["DIN_SE_MHTA"], key: "@@"}, None, text), key),
                REFUSED,
            )  # fmt: skip
    taken = {
        "metrics": {"[AUC, gAUC, avgAUC, logloss]": ["AUC", "gAUC", "avgAUC", "logloss"]},
        "embedding_regularizer": {"1e-6": 1e-6, "1": 1.0, "l2(1e-6)": "l2(1e-6)", "'l1_l2(1e-6, 0.1)'": "l1_l2(1e-6, 0.1)"},
        "learning_rate": {"1e-3": 1e-3, "1E-3": 1e-3, ".001": 1e-3, "+1.e-3": 1e-3},
        "batch_size": {"1_0": 10, "0x10": 16, "+16": 16},
        "use_se": {"no": False, "True": True, "ON": True},
        "monitor": {"{AUC: 1}": {"AUC": 1}, "{AUC: 1e-1}": {"AUC": 0.1}},
        "num_heads": {"7": 7},
        "epochs": {"1000000000": 1000000000},
    }  # fmt: skip
    for key, pairs in taken.items():
        for text, meant in pairs.items():
            yield Trial(
                "experiment (read)", key, text,
                lambda key=key, text=text: place.run(place.config({**SMALL["DIN_SE_MHTA"], key: "@@"}, None, text), key),
                meant, may_refuse=False,
            )  # fmt: skip
    yield from _columns_written(place)
    yield from _files_written(place)
    yield from _strangers(place)
    yield from _constructors()


def _columns_written(place: Workplace) -> Iterator[Trial]:
    code = [
        "__import__('os').system('true')", "layers.get_initializer('1')", "nn.Identity", "layers.MaskedAveragePooling",
        "(lambda: 1)()", "layers.MaskedAveragePooling(open('x'))", "nn.init.normal_()", "nn.Linear(10**9, 10**9)",
        "layers.PretrainedEmbedding('a', {}, 'x', 'y', 1, 1, 'init', '1')", "nn.Sequential(nn.Identity())",
        "layers.__class__()", "os.getpid()", "nn.Linear(3)", "nn.Linear(99, 4)", "layers.MaskedAveragePooling(7)",
        "nn.Identity(*[1])", "nn.Identity(**{})", "nn.modules.Identity()", "torch.load('x')", "nn.Identity(); 1",
    ]  # fmt: skip
    for text in code:
        quoted = json.dumps(text)
        yield Trial(
            "code in a column", "feature_encoder", text,
            lambda quoted=quoted: _column(place, "tags", "feature_encoder", quoted), REFUSED,
        )  # fmt: skip
    for text in ("layers.MaskedSumPooling()", "[layers.MaskedAveragePooling(), nn.Identity()]"):
        yield Trial(
            "code in a column", "feature_encoder", text,
            lambda text=text: _column(place, "tags", "feature_encoder", text), yaml.safe_load(text), may_refuse=False,
        )  # fmt: skip
    for text in ("{txt: 0}", "{txt: 99}", "{txt: 1.0}", "{nothing: 2}", "{txt: '2'}", "{txt: true}", "{1: 2}", "[txt]",
                 "{txt: -1}", "{txt: [1]}", "{txt: 2, txt: 3}", "{txt: .nan}"):  # fmt: skip
        key = "txt" if "txt: 2, txt" in text else "nothing" if "nothing" in text else "emb"
        yield Trial(
            "column (written)", key, text,
            lambda text=text: _column(place, "emb", "pca", text), REFUSED,
        )  # fmt: skip
    for key, text in (("pca_whiten", "2"), ("pca_whiten", "1e1"), ("pca_fit_on", "valid"), ("clicks", "true")):
        at = "clicks" if key == "clicks" else "emb"
        yield Trial(
            "column (written)", key, text, lambda key=key, text=text, at=at: _column(place, at, key, text), REFUSED
        )


def _files_written(place: Workplace) -> Iterator[Trial]:
    """Odd files: a key twice, anchors, other levels; tuners and studies."""
    texts = {
        ("epochs", "given twice"): "run: {epochs: 1, epochs: 2}",
        ("run", "an expid given twice"): "run: {a: 1}\nrun: {b: 1}",
        ("model_config", "no mapping"): "[run]",
        ("model_config", "not YAML"): "run: [1",
        ("model_config", "contains itself"): "run: &a {metrics: [*a]}",
        ("model_config", "copies of copies"): "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{b}: &{b} [{', '.join(10 * ['*' + a])}]\n" for a, b in zip("abcdefgh", "bcdefghi")
        ) + "run: *i",
        ("model_config", "a tag of Python's"): "run: !!python/object/apply:os.getpid []",
        ("run", "a list for an experiment"): "run: [1, 2]",
        ("run", "text for an experiment"): "run: yes",
        ("Base", "a list for Base"): "Base: [1]\nrun: {model: DIN_SE_MHTA}",
        ("dataset_id", "missing"): "run: {model: DIN_SE_MHTA}",
        ("run", "another case"): "Run: {model: DIN_SE_MHTA}",
        ("run", "nothing"): "",
        ("model_config", "a tab"): "run:\n\tmodel: x",
        ("model_config", "nested 3000 deep"): "run: " + 3000 * "[",
        ("model_config", "5000 digits"): "run: {seed: " + 5000 * "9" + "}",
        ("model_config", "two documents"): "run: {}\n---\nrun: {}",
    }  # fmt: skip
    for (key, what), text in texts.items():

        def do(text: str = text) -> Any:
            config = place.config({})
            (config / "model_config.yaml").write_text(text, encoding="utf-8")
            return place.run(config, "model")

        yield Trial("file", key, what, do, REFUSED)
    for key, text in {
        "base_config": "base_config: 5\nbase_expid: run\ntuner_space: {seed: [1]}",
        "base_expid": "base_expid: [run]\ntuner_space: {seed: [1]}",
        "base_expid ": "base_expid: ../run\ntuner_space: {seed: [1]}",
        "dataset_id": "base_expid: run\ndataset_id: [tiny]\ntuner_space: {seed: [1]}",
        "tuner_space": "base_expid: run\ntuner_space: [1]",
        "seed": "base_expid: run\ntuner_space: {seed: []}",
        "seed ": "base_expid: run\ntuner_space: {seed: [1, 1]}",
        "learning_rate": "base_expid: run\ntuner_space: {learning_rate: [1e-3, '1']}",
        "num_heads": "base_expid: run\ntuner_space: {num_heads: [0]}",
        "nmu_heads": "base_expid: run\ntuner_space: {nmu_heads: [1]}",
        "gpu": "base_expid: run\ntuner_space: {gpu: [0]}",
        "epochs": "base_expid: run\ntuner_space: {epochs: [1, true]}",
        "combinations": "base_expid: run\ntuner_space: {"
        + ", ".join(f"{key}: {list(range(1, 101))}" for key in ("seed", "epochs", "batch_size", "max_len")) + "}",
        "feature_encoder": "base_expid: run\ntuner_space: {feature_cols.tags.feature_encoder: [\"os.getpid()\"]}",
        "pca": "base_expid: run\ntuner_space: {feature_cols.emb.pca: [{txt: 0}]}",
        "metrics": "base_expid: run\ntuner_space: {metrics: [[NDCG]]}",
    }.items():  # fmt: skip

        def tune(text: str = text) -> Any:
            config = place.config({})
            (config / "sweep.yaml").write_text(text.replace("base_expid", f"base_config: {config}\nbase_expid", 1)
                                               if "base_config" not in text else text)  # fmt: skip
            tuner = read_tuner(config / "sweep.yaml")
            variants = tuner_variants(tuner, resolve_experiment(tuner.base_expid, tuner.base_config, tuner.dataset_id))
            check_runs([variant.experiment for variant in variants])

        yield Trial("tuner", key, text, tune, REFUSED)
    base = "base: {tiny: {expid: run}}\n"
    for key, text in {
        "variants": base + "variants: [1]",
        "variants ": base + "variants: {}",
        "base": "base: tiny\nvariants: {a: {}}",
        "expid": "base: {tiny: {expid: [run]}}\nvariants: {a: {}}",
        "names": "base: {tiny: {expid: run, names: [a]}}\nvariants: {a: {}}",
        "names ": "base: {tiny: {expid: run, names: {a: [1]}}}\nvariants: {a: {}}",
        "over": base + "over: [1]\nvariants: {1: {}}",
        "over ": base + "over: x\nvariants: {one: {}}",
        "a": base + "variants: {a: {}, a: {seed: 1}}",
        "A": base + "variants: {a: {}, A: {}}",
        "variant": base + "variant: {a: {}}",
        "seed": base + "variants: {a: {seed: 1}}",
        "epochs": base + "variants: {a: {epochs: 0}}",
        "epochs ": base + "variants: {a: {epochs: '1'}}",
        "use_se": base + "variants: {a: {use_se: 'False'}}",
        "crossed_with": base + "variants: {a: {}}\ncrossed_with: null",
        "feature_encoder": base + "variants: {a: {feature_cols.tags.feature_encoder: 'os.getpid()'}}",
        "text": base + "variants: {a: {feature_cols.emb.pca: {<text>: 2}}}",
        "1": base + "variants: {a: {1: 2}}",
    }.items():

        def study(text: str = text) -> Any:
            config = place.config({})
            (config / "study.yaml").write_text(text)
            variants = study_variants(read_study(str(config / "study.yaml")), "tiny", config)
            check_runs([variant.experiment for variant in variants])

        yield Trial("study", key, text, study, REFUSED)


def _strangers(place: Workplace) -> Iterator[Trial]:
    """A folder of a finished experiment from elsewhere, whose JSON files say what they like."""
    config = place.config(SMALL["DIN_SE_MHTA"])
    run_experiment(resolve_experiment("run", config, gpu=-1))
    for key, value in {
        "feature_encoder": "__import__('os').system('true')",
        "feature_encoder ": ["nn.Identity()", "print(1)"],
        "pretrained_emb": "/etc/passwd",
        "item_ids": "../../elsewhere",
        "item_column": "/etc/passwd",
    }.items():

        def use(key: str = key.strip(), value: Any = value) -> Any:
            copy = config.with_name(f"{key}_{len(str(value))}")
            shutil.copytree(config, copy)
            file = copy / "ck" / "tiny" / "run.feature_map.json"
            content = json.loads(file.read_text())
            content["features"][3]["tags"][key] = value
            file.write_text(json.dumps(content))
            Trained.open(resolve_experiment("run", copy, gpu=-1))

        yield Trial("shared feature map", key, str(value), use, REFUSED)
    for key, value in {"metrics": 1, "num_heads": -1, "feature_specs": [{"name": "tags", "feature_encoder": "1"}]}.items():
        if key == "metrics":
            continue

        def read(key: str = key, value: Any = value) -> Any:
            copy = config.with_name(f"parameters_{key}")
            shutil.copytree(config, copy)
            file = copy / "ck" / "tiny" / "run.params.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
            Trained.open(resolve_experiment("run", copy, gpu=-1))

        yield Trial("shared parameters", key, str(value), read, REFUSED)
    for name in ("../run", "/tmp/run", "run/x", "a\x07b", "..", "", "Base", "a\\b"):

        def named(name: str = name) -> Any:
            copy = place.config({})
            models = yaml.safe_load((copy / "model_config.yaml").read_text())
            (copy / "model_config.yaml").write_text(yaml.safe_dump({name: models["run"]}))
            run_experiment(resolve_experiment(name, copy, gpu=-1))

        yield Trial("expid", "experiment", repr(name), named, REFUSED)


def _constructors() -> Iterator[Trial]:
    X = np.random.default_rng(0).normal(size=(20, 4))
    wrong: dict[str, list[Any]] = {
        "whiten": [1.5, -1, NAN, "yes", None, [1], np.nan],
        "n_components": [0, -1, 1.5, True, "2", NAN, [2], 99],
        "normalize": [1, "yes", None, 0.5],
    }
    for key, values in wrong.items():
        for value in values:

            def fit(key: str = key, value: Any = value) -> Any:
                try:
                    ModalityPCA(**{key: value}).fit(X)
                except ValueError as err:
                    raise ConfigError(str(err)) from err

            yield Trial("ModalityPCA", key, repr(value), fit, REFUSED)


@contextmanager
def watched(steps: list[int]) -> Iterator[None]:
    """Count optimizer steps, and end what hangs."""

    def hung(*_: Any) -> None:
        raise TimeoutError(f"hung for {SECONDS} s")

    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        hook.remove()


def judge(trial: Trial) -> tuple[str, str]:
    """``("refused" | "read" | "wrong", why)``."""
    steps: list[int] = []
    try:
        with watched(steps):
            read = trial.do()
    except (ConfigError, DataError) as err:
        sentence = str(err)
        if steps:
            return "wrong", f"refused after {len(steps)} steps: {sentence}"
        if not trial.may_refuse:
            return "wrong", f"refused: {sentence}"
        key = trial.key.strip()
        if trial.way.startswith(("column (", "label_col")) and re.search(r"'emb'|'clicks'|'level'|'tags'|item column", sentence):
            key = ""  # the sentence names the column
        if not re.search(rf"(?<![a-z_]){re.escape(key)}(?![a-z_])", sentence):
            return "wrong", f"the sentence does not name {key}: {sentence}"
        if "\n" in sentence.strip() or "Traceback" in sentence:
            return "wrong", f"no sentence: {sentence}"
        return "refused", sentence
    except BaseException as err:
        if isinstance(err, KeyboardInterrupt | SystemExit):
            raise
        return "wrong", f"{type(err).__name__} after {len(steps)} steps: {' '.join(str(err).split())[:200]}"
    if trial.meant is REFUSED:
        return "wrong", f"taken in silence, as {read!r}"
    if read != trial.meant or (type(read) is bool) != (type(trial.meant) is bool):
        return "wrong", f"read as {read!r} where {trial.meant!r} is meant"
    return "read", repr(read)


def try_all(trials: Iterator[Trial]) -> dict[Trial, tuple[str, str]]:
    """Judge every trial; the log of runs is of no interest here."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {trial: judge(trial) for trial in trials}
    finally:
        logging.disable(logging.NOTSET)


def report(found: Mapping[Trial, tuple[str, str]]) -> str:
    by_way: dict[str, Counter[str]] = defaultdict(Counter)
    for trial, (verdict, _) in found.items():
        by_way[trial.way][verdict] += 1
    total: Counter[str] = sum(by_way.values(), Counter())
    lines = [
        {"where": way, "tried": count.total(), "refused": count["refused"], "read right": count["read"], "wrong": count["wrong"]}
        for way, count in [*by_way.items(), ("all", total)]
    ]  # fmt: skip
    text = markdown_table(lines)
    wrong = [(trial, why) for trial, (verdict, why) in found.items() if verdict == "wrong"]
    text += f"\n{len(wrong)} of {total.total()} values are handled wrongly.\n"
    text += "".join(f"- {trial.way}: `{trial.key}: {trial.value}`: {why}\n" for trial, why in wrong)
    return text + f"\nCommand: `{this_command()}`; commit {current_commit()}; {machine()}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrong_values.") as name:
        place = Workplace(Path(name))
        found = try_all(trial for part in (written(place), of_every_key(place)) for trial in part)
    text = report(found)
    write_text(args.out / "wrong_values.md", text)
    print(text)
    sys.exit(1 if any(verdict == "wrong" for verdict, _ in found.values()) else 0)


if __name__ == "__main__":
    main()
