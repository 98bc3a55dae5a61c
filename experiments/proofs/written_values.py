"""Trials of ``wrong_values.py`` where a list of odd texts cannot know what is right."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from odd_values import NAN, REFUSED, SMALL, Trial, Workplace

from fuxictr_mm import ModalityPCA
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import checksum, write_sealed
from fuxictr_mm.run import Trained, check_runs, resolve_experiment, run_experiment
from fuxictr_mm.run.results import FEATURE_MAP
from fuxictr_mm.study.tuner import read_tuner, tuner_variants
from fuxictr_mm.study.variants import read_study, study_variants

__all__ = ["written"]

WRONG: dict[str, list[str]] = {
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
RIGHT: dict[str, dict[str, Any]] = {
    "metrics": {"[AUC, gAUC, avgAUC, logloss]": ["AUC", "gAUC", "avgAUC", "logloss"]},
    "embedding_regularizer": {"1e-6": 1e-6, "1": 1.0, "l2(1e-6)": "l2(1e-6)", "'l1_l2(1e-6, 0.1)'": "l1_l2(1e-6, 0.1)"},
    "learning_rate": {"1e-3": 1e-3, "1E-3": 1e-3, ".001": 1e-3, "+1.e-3": 1e-3},
    "batch_size": {"1_0": 10, "0x10": 16, "+16": 16},
    "use_se": {"no": False, "True": True, "ON": True},
    "monitor": {"{AUC: 1}": {"AUC": 1}, "{AUC: 1e-1}": {"AUC": 0.1}},
    "num_heads": {"7": 7},
    "epochs": {"1000000000": 1000000000},
}  # fmt: skip
CODE = [
    "__import__('os').system('true')", "layers.get_initializer('1')", "nn.Identity", "layers.MaskedAveragePooling",
    "(lambda: 1)()", "layers.MaskedAveragePooling(open('x'))", "nn.init.normal_()", "nn.Linear(10**9, 10**9)",
    "layers.PretrainedEmbedding('a', {}, 'x', 'y', 1, 1, 'init', '1')", "nn.Sequential(nn.Identity())",
    "layers.__class__()", "os.getpid()", "nn.Linear(3)", "nn.Linear(99, 4)", "layers.MaskedAveragePooling(7)",
    "nn.Identity(*[1])", "nn.Identity(**{})", "nn.modules.Identity()", "torch.load('x')", "nn.Identity(); 1",
]  # fmt: skip
PCA = [
    "{txt: 0}", "{txt: 99}", "{txt: 1.0}", "{txt: '2'}", "{txt: true}", "{1: 2}", "[txt]", "{txt: -1}", "{txt: [1]}",
    "{txt: .nan}",
]  # fmt: skip
FILES = {
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
TUNERS = {
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
}  # fmt: skip
BASE = "base: {tiny: {expid: run}}\n"
STUDIES = {
    "variants": BASE + "variants: [1]",
    "variants ": BASE + "variants: {}",
    "base": "base: tiny\nvariants: {a: {}}",
    "expid": "base: {tiny: {expid: [run]}}\nvariants: {a: {}}",
    "names": "base: {tiny: {expid: run, names: [a]}}\nvariants: {a: {}}",
    "names ": "base: {tiny: {expid: run, names: {a: [1]}}}\nvariants: {a: {}}",
    "over": BASE + "over: [1]\nvariants: {1: {}}",
    "over ": BASE + "over: x\nvariants: {one: {}}",
    "a": BASE + "variants: {a: {}, a: {seed: 1}}",
    "A": BASE + "variants: {a: {}, A: {}}",
    "variant": BASE + "variant: {a: {}}",
    "seed": BASE + "variants: {a: {seed: 1}}",
    "epochs": BASE + "variants: {a: {epochs: 0}}",
    "epochs ": BASE + "variants: {a: {epochs: '1'}}",
    "use_se": BASE + "variants: {a: {use_se: 'False'}}",
    "crossed_with": BASE + "variants: {a: {}}\ncrossed_with: null",
    "feature_encoder": BASE + "variants: {a: {feature_cols.tags.feature_encoder: 'os.getpid()'}}",
    "text": BASE + "variants: {a: {feature_cols.emb.pca: {<text>: 2}}}",
    "1": BASE + "variants: {a: {1: 2}}",
}
SHARED = {
    "feature_encoder": "__import__('os').system('true')",
    "feature_encoder ": ["nn.Identity()", "print(1)"],
    "pretrained_emb": "/etc/passwd",
    "item_ids": "../../elsewhere",
    "item_column": "/etc/passwd",
}
SETTINGS: dict[str, list[Any]] = {
    "whiten": [1.5, -1, NAN, "yes", None, [1]],
    "n_components": [0, -1, 1.5, True, "2", NAN, [2], 99],
    "normalize": [1, "yes", None, 0.5],
}


def written(place: Workplace) -> Iterator[Trial]:
    """All of them."""
    small = SMALL["DIN_SE_MHTA"]
    for key, texts in WRONG.items():
        for text in texts:
            yield Trial("experiment (written)", key, text, partial(place.in_experiment, small, key, text), REFUSED)
    for key, pairs in RIGHT.items():
        for text, meant in pairs.items():
            do = partial(place.in_experiment, small, key, text)
            yield Trial("experiment (read)", key, text, do, meant, may_refuse=False)
    for text in CODE:
        do = partial(place.in_column, "tags", "feature_encoder", json.dumps(text))
        yield Trial("code in a column", "feature_encoder", text, do, REFUSED)
    for text in ("layers.MaskedSumPooling()", "[layers.MaskedAveragePooling(), nn.Identity()]"):
        do = partial(place.in_column, "tags", "feature_encoder", text)
        yield Trial("code in a column", "feature_encoder", text, do, yaml.safe_load(text), may_refuse=False)
    for text in PCA:
        yield Trial("column emb", "pca", text, partial(place.in_column, "emb", "pca", text), REFUSED)
    for key, text in {"txt": "{txt: 2, txt: 3}", "nothing": "{nothing: 2}"}.items():
        yield Trial("modality", key, text, partial(place.in_column, "emb", "pca", text), REFUSED)
    for key, text in (("pca_whiten", "2"), ("pca_whiten", "1e1"), ("pca_fit_on", "valid")):
        yield Trial("column emb", key, text, partial(place.in_column, "emb", key, text), REFUSED)
    for (key, what), text in FILES.items():
        yield Trial("file", key, what, partial(_file, place, text), REFUSED)
    for key, text in TUNERS.items():
        yield Trial("tuner", key, text, partial(_tune, place, text), REFUSED)
    for key, text in STUDIES.items():
        yield Trial("study", key, text, partial(_study, place, text), REFUSED)
    for name in ("../run", "/tmp/run", "run/x", "a\x07b", "..", "", "Base", "a\\b"):
        yield Trial("expid", "experiment", repr(name), partial(_named, place, name), REFUSED)
    trained = place.config(small)
    run_experiment(resolve_experiment("run", trained))
    for key, value in SHARED.items():
        yield Trial("shared feature map", key, str(value), partial(_shared_map, trained, key.strip(), value), REFUSED)
    params: dict[str, Any] = {"num_heads": -1, "feature_specs": [{"name": "tags", "feature_encoder": "1"}]}
    for key, value in params.items():
        yield Trial("shared parameters", key, str(value), partial(_shared_params, trained, key, value), REFUSED)
    for key, values in SETTINGS.items():
        for value in values:
            yield Trial("ModalityPCA", key, repr(value), partial(_fit, key, value), REFUSED)


def _file(place: Workplace, text: str) -> Any:
    config = place.config({})
    (config / "model_config.yaml").write_text(text, encoding="utf-8")
    return place.run(config, "model")


def _tune(place: Workplace, text: str) -> None:
    config = place.config({})
    place_of_base = "" if "base_config" in text else f"base_config: {config}\n"
    (config / "sweep.yaml").write_text(place_of_base + text, encoding="utf-8")
    tuner = read_tuner(config / "sweep.yaml")
    variants = tuner_variants(tuner, resolve_experiment(tuner.base_expid, tuner.base_config, tuner.dataset_id))
    check_runs([variant.experiment for variant in variants])


def _study(place: Workplace, text: str) -> None:
    config = place.config({})
    (config / "study.yaml").write_text(text, encoding="utf-8")
    variants = study_variants(read_study(str(config / "study.yaml")), "tiny", config)
    check_runs([variant.experiment for variant in variants])


def _named(place: Workplace, name: str) -> None:
    config = place.config({})
    models = yaml.safe_load((config / "model_config.yaml").read_text(encoding="utf-8"))
    (config / "model_config.yaml").write_text(yaml.safe_dump({name: models["run"]}), encoding="utf-8")
    run_experiment(resolve_experiment(name, config))


def _shared_map(trained: Path, key: str, value: Any) -> None:
    """A folder of a finished experiment from elsewhere, whose feature map says what it likes."""
    config = trained.with_name(f"{key}_{len(str(value))}")
    shutil.copytree(trained, config)
    file = config / "ck" / "tiny" / "run.feature_map.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["features"][3]["tags"][key] = value
    text = json.dumps(content)
    file.write_text(text, encoding="utf-8")
    _seal(config, **{FEATURE_MAP: checksum([("", text.encode())])})
    Trained.open(resolve_experiment("run", config))


def _seal(config: Path, **changes: Any) -> None:
    """Change the parameters of a finished run as a stranger would, who knows the checksum."""
    file = config / "ck" / "tiny" / "run.params.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["checksum"]
    write_sealed(file, {**content, **changes})


def _shared_params(trained: Path, key: str, value: Any) -> None:
    config = trained.with_name(f"parameters_{key}")
    shutil.copytree(trained, config)
    _seal(config, **{key: value})
    Trained.open(resolve_experiment("run", config))


def _fit(key: str, value: Any) -> None:
    settings: dict[str, Any] = {key: value}
    try:
        ModalityPCA(**settings).fit(np.random.default_rng(0).normal(size=(20, 4)))
    except ValueError as err:  # scikit-learn's word
        raise ConfigError(str(err)) from err
