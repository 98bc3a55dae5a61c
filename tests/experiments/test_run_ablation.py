"""Studies: what is written, that finished runs are not repeated, what is refused, and the intervals."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp

from fuxictr_mm.cli import main
from fuxictr_mm.compat import host_model_names
from fuxictr_mm.run.run import Result
from fuxictr_mm.study import executor, tables
from fuxictr_mm.study import study as verb
from fuxictr_mm.study import variants as study
from fuxictr_mm.study.records import Estimate, StudyRecord
from fuxictr_mm.study.runs import Outcome, Variant
from fuxictr_mm.study.traits import Traits
from fuxictr_mm.training.loop import ResumableModel
from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

PCA = "feature_cols.item_emb.pca"
VARIANTS: dict[str, Any] = {"full": {}, "no SE": {"use_se": False}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory with the data set ``clusters`` and the experiments ``din`` and ``transact`` on it."""
    (tmp_path / "dataset_config.yaml").write_text(
        yaml.safe_dump({"clusters": write_cluster_dataset(tmp_path, rows=400)})
    )
    models = {name: {**EXPERIMENTS[name], "dataset_id": "clusters", "epochs": 1} for name in ("din", "transact")}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, **models}))
    return tmp_path


@pytest.fixture
def write(config: Path) -> Callable[..., Path]:
    def write_study(variants: Any = None, **sections: Any) -> Path:
        names = {"text": "text", "other": "image", "baseline": "transact"}
        content = {"base": {"clusters": {"expid": "din", "names": names}}, "variants": variants or VARIANTS, **sections}
        (config / "parts.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return config / "parts.yaml"

    return write_study


def run(file: Path, *arguments: str) -> None:
    out = str(file.parent / "out")
    main(
        ["study", "--study", str(file), "--dataset", "clusters", "--config", str(file.parent), "--out", out, *arguments]
    )


def result(auc: float, **changes: Any) -> Result:
    metrics = {"AUC": auc, "logloss": 0.5, "gAUC": auc}
    return Result("x", "clusters", metrics, metrics, {}, 10, 1.0, Path("x.model"), "c0ffee", **changes)


def test_files_and_what_is_not_repeated(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    fit = ResumableModel.fit

    def counted(net: Any, *arguments: Any, **options: Any) -> None:
        trained.append(net.model_id)
        fit(net, *arguments, **options)

    monkeypatch.setattr(ResumableModel, "fit", counted)
    file = write()
    out = file.parent / "out"
    run(file, "--seeds", "1")
    assert trained == ["parts__full_seed1", "parts__no_se_seed1"]
    one_seed = json.loads((out / "parts_clusters.json").read_text())["variants"][1]["summary"]["test"]["AUC"]
    assert one_seed["std"] is one_seed["low"] is one_seed["high"] is None

    run(file, "--seeds", "1", "2", "--variants", "no SE")  # "full" has not ended with seed 2
    assert trained[2:] == ["parts__no_se_seed2"]
    assert [v["name"] for v in json.loads((out / "parts_clusters.json").read_text())["variants"]] == ["no SE"]
    run(file, "--seeds", "1", "2")
    assert trained[3:] == ["parts__full_seed2"]
    capsys.readouterr()
    run(file, "--seeds", "1", "2", "2")
    assert len(trained) == 4

    assert {path.name for path in out.glob("[!.]*")} == {
        f"parts_clusters.{kind}" for kind in ("csv", "json", "md", "png")
    }
    assert (out / "parts_clusters.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "parts_clusters.csv").open()))
    assert [(row["variant"], row["seed"], row["split"]) for row in rows] == [
        (name, seed, split) for name in VARIANTS for seed in "12" for split in ("valid", "test")
    ]
    auc = {name: [float(r["AUC"]) for r in rows if r["variant"] == name and r["split"] == "test"] for name in VARIANTS}

    content = json.loads((out / "parts_clusters.json").read_text())
    about = ("kind", "study", "dataset_id", "base_expid", "seeds")
    assert [content[key] for key in about] == ["ablation", "parts", "clusters", "din", [1, 2]]
    full, without = content["variants"]
    difference = np.subtract(auc["no SE"], auc["full"])
    interval = ttest_1samp(difference, 0).confidence_interval(0.95)
    figures = without["summary"]["test"]["AUC"]
    assert figures == pytest.approx(
        {
            "mean": np.mean(auc["no SE"]),
            "std": np.std(auc["no SE"], ddof=1),
            "difference": difference.mean(),
            "low": interval.low,
            "high": interval.high,
        }
    )
    assert [full["summary"]["test"]["AUC"][key] for key in ("difference", "low", "high")] == [0, 0, 0]
    assert (without["overrides"], without["parameters"] < full["parameters"]) == ({"use_se": False}, True)
    assert [run["test"]["AUC"] for run in full["runs"]] == auc["full"]
    assert [run["curve"][0]["valid"]["AUC"] for run in full["runs"]] == [run["valid"]["AUC"] for run in full["runs"]]
    assert full["latency_p50_ms"] > 0
    assert {entry: len(ratios) for entry, ratios in full["explained_variance"]["item_emb"].items()} == {
        "text": 4,
        "image": 3,
    }

    text = (out / "parts_clusters.md").read_text()
    cells = f"{figures['mean']:.4f} | {figures['std']:.4f} | {figures['difference']:.4f} | {figures['low']:.4f} to "
    assert f"| no SE | {cells}{figures['high']:.4f} |" in text
    assert text in capsys.readouterr().out
    assert "to score 100 candidates" in text and "the CPU (threads: " in text


def test_latency_is_measured_when_no_other_worker_trains(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_after_the_other(waiting: Any, gpus: Any, csv_file: Any, end: Any) -> None:
        for place, run in enumerate(list(waiting), start=1):
            ended.append(place)
            end(run, executor._attempt(run, csv_file))

    ended: list[int] = []
    measured: list[tuple[str, int]] = []
    monkeypatch.setattr(executor, "_in_processes", one_after_the_other)
    monkeypatch.setattr(verb, "traits", lambda run: measured.append((run.expid, ended[-1])) or Traits(1.5))
    file = write()
    run(file, "--seeds", "1", "2", "--gpu", "-1", "-1")
    assert measured == [("parts__full_seed1", 4), ("parts__no_se_seed1", 4)]
    record = StudyRecord.read(file.parent / "out" / "parts_clusters.json")
    assert [variant.latency_p50_ms for variant in record.variants] == [1.5, 1.5]


def test_the_table_tells_rare_targets_apart(tmp_path: Path) -> None:
    def groups(*values: float | None) -> dict[str, Any]:
        return {"rare": {"AUC": values[0]}, "warm": {"AUC": values[1]}}

    found = [groups(0.6, 0.8), groups(0.7, 0.9)], [groups(0.5, 0.7), groups(None, 0.8)]
    variants = [Variant(name, None, {}) for name in ("full", "less")]
    outcomes = [
        Outcome(variant, [result(0.8, by_frequency={"test": one, "valid": groups(0.1, 0.2)}) for one in of_variant])
        for variant, of_variant in zip(variants, found)
    ]
    lines = tables.comparison(outcomes, "variant")
    text = tables.markdown_table([{key: line[key] for key in ("rare AUC", "warm AUC")} for line in lines])
    assert text.splitlines()[2:] == ["| 0.6500 | 0.8500 |", "| - | 0.7500 |"]
    assert "cold AUC" not in lines[0]
    tables.write_runs(outcomes, [1, 2], "variant", tmp_path / "out.csv")
    lines = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [line["rare_AUC"] for line in lines] == ["0.1", "0.6", "0.1", "0.7", "0.1", "0.5", "0.1", "nan"]

    one_group = [Outcome(variants[0], [result(0.8, by_frequency={"test": {"cold": {"AUC": 0.8}}})])]
    assert "cold AUC" not in tables.comparison(one_group, "variant")[0]
    assert "rare AUC" not in tables.comparison([Outcome(variants[0], [result(0.8)])], "variant")[0]


def test_a_model_of_the_host_has_no_latency(write: Callable[..., Path]) -> None:
    if not host_model_names():
        pytest.skip("this fuxictr carries no models")
    file = write({"TransAct": {"expid": "<baseline>"}})
    run(file, "--seeds", "1")
    (only,) = json.loads((file.parent / "out" / "parts_clusters.json").read_text())["variants"]
    assert only["latency_p50_ms"] is None
    assert "gAUC" not in only["summary"]["test"]
    assert (file.parent / "out" / "parts_clusters.md").read_text().splitlines()[2].endswith("| - |")


def test_separate_fields_train(write: Callable[..., Path]) -> None:
    fields = [{"name": "a", "embedding_dim": 4, "pca": {"<text>": 2}}, {"name": "b", "pca": {"<other>": None}}]
    file = write({"separate": {"feature_cols.item_emb": fields}})
    run(file, "--seeds", "1")
    (only,) = json.loads((file.parent / "out" / "parts_clusters.json").read_text())["variants"]
    assert list(only["explained_variance"]) == ["a"]  # what is raw has none
    assert len(only["explained_variance"]["a"]["text"]) == 2


def test_variants_become_experiments(write: Callable[..., Path], config: Path) -> None:
    variants = {
        "full": {},
        "joint PCA": {PCA: {"<text>+<other>": 3}},
        "separate": {"feature_cols.item_emb": [{"name": "a", "pca": {"<text>": 2}}, {"name": "b", "active": False}]},
        "short": {"max_len": 2},
    }
    file = write(variants, crossed_with={"no vectors": {"use_features": ["likes_level", "item_id"]}})
    found = {one.name: one for one in study.study_variants(study.read_study(str(file)), "clusters", config)}
    assert list(found) == [*variants, *(f"{name}, no vectors" for name in variants)]
    assert [one.experiment.expid for one in found.values()][::4] == ["parts__full", "parts__full_no_vectors"]
    ids = {name: one.experiment["dataset_id"] for name, one in found.items()}
    assert ids["full"] == ids["short"] == ids["full, no vectors"] == "clusters"
    assert ids["joint PCA"] == ids["joint PCA, no vectors"]
    assert len(set(ids.values())) == 3 and all(dataset_id.startswith("clusters") for dataset_id in ids.values())
    before = found["full"].experiment["feature_cols"]
    assert found["joint PCA"].experiment["feature_cols"] == [*before[:-1], {**before[-1], "pca": {"text+image": 3}}]
    assert found["joint PCA"].changes == {PCA: {"text+image": 3}}
    assert found["separate"].experiment["feature_cols"] == [
        *before[:-1],
        {**before[-1], "name": "a", "pca": {"text": 2}},
        {**before[-1], "name": "b", "active": False},
    ]
    assert found["short, no vectors"].experiment["use_features"] == ["likes_level", "item_id"]
    assert (found["short"].experiment["max_len"], found["full"].experiment["max_len"]) == (2, 5)
    assert "use_features" not in found["full"].experiment.params
    seventh = found["short"].run(7)
    assert [seventh[key] for key in ("model_id", "seed", "resume")] == ["parts__short_seed7", 7, True]


# What a variant says -> what is wrong with it.
WRONG_VARIANTS: list[tuple[dict[str, Any], str]] = [
    ({"use_es": False}, "key 'use_es' of experiment parts__wrong is not read by DIN_SE_MHTA"),
    ({"use_es": False}, "nearest: use_se"),
    ({"feature_cols.item_emb.pcaa": 1}, "key 'pcaa' of column 'item_emb'"),
    ({"feature_cols.item_em.pca": None}, "'wrong': 'feature_cols.item_em.pca': no column 'item_em'; nearest: item_emb"),
    ({"feature_cols.item_emb": [{}, {}]}, "gives two columns the name 'item_emb'"),
    ({"feature_cols.item_emb": {"text": 2}}, "must be a list of columns"),
    ({"use_features": ["item_ids"]}, "'item_ids' is no column"),
    ({"dnn_hidden_units": 3}, "has the value 3, but the base experiment has the list [32, 16]"),
    ({PCA: {"text": 0}}, "column 'item_emb': pca: found {'text': 0}; at least 1 at 'text'"),
    ({PCA: {"<tex>": 2}}, "'wrong': <tex> is not among the dataset's names; nearest: text"),
    ({"expid": "dinn"}, "--expid dinn: no such experiment"),
    ({"dataset_id": "cluster"}, "dataset_id cluster: not described in"),
    ({"seed": 2}, "'wrong': 'seed' cannot be varied"),
    ({"resume": False}, "'wrong': 'resume' cannot be varied"),
]
# Sections of the study, arguments -> what is wrong with them.
REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    *(({"variants": {"full": {}, "wrong": changes}}, [], message) for changes, message in WRONG_VARIANTS),
    ({"variants": {"a b": {}, "a-b": {}}}, [], "'a b' and 'a-b' would both run as a_b"),
    ({"over": "num_heads"}, [], "over 'num_heads': the variant 'full' is no number"),
    ({"variant": {}}, [], "key 'variant' is not read; nearest: variants"),
    ({"base": {"clusters": {"expid": "din", "name": {}}}}, [], "key 'name' is not read; known: expid"),
    ({"base": {"clusters": {}}}, [], "base: clusters: expid: found None; text is expected"),
    ({"variants": ["a"]}, [], "'variants' must map names to mappings, e.g. full: {}; found ['a']"),
    ({}, ["--variants", "full", "noSE"], "--variants 'noSE': the study has no such variant; nearest: no SE"),
    ({}, ["--dataset", "cluster"], "--dataset cluster: "),
    ({}, ["--study", "fuson"], "nearest: fusion"),
    ({}, ["--study", "absent.yaml"], "--study absent.yaml: no file "),
]


@pytest.mark.parametrize(("sections", "arguments", "message"), REFUSED)
def test_what_cannot_run_is_one_sentence_before_anything_runs(
    write: Callable[..., Path],
    config: Path,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, Any],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(write(**sections), *arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert message in err
    assert not (config / "checkpoints").exists() and not (config / "out").exists()


@pytest.mark.parametrize("text", ["base: [", "", "- base"])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = tmp_path / "parts.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        run(file)
    assert str(file) in capsys.readouterr().err


def test_a_test_split_without_labels_is_refused_before_training(
    write: Callable[..., Path], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cluster_dataset(config, rows=400, test_labels=False)
    with pytest.raises(SystemExit):
        run(write())
    assert "test.parquet: its rows have no labels" in capsys.readouterr().err
    assert not (config / "checkpoints").exists()


def test_without_matplotlib_nothing_starts(
    write: Callable[..., Path], config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        run(write())
    assert "pip install 'fuxictr_mm[plot]'" in capsys.readouterr().err
    assert not (config / "checkpoints").exists()


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_that_of_the_paired_t_test(n: int) -> None:
    values, reference = np.random.default_rng(n).normal(0.8, 0.01, (2, n))
    found = tables.compare(values.tolist(), reference.tolist())
    expected = ttest_1samp(values - reference, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std(ddof=1)))
    own = tables.compare(values.tolist(), values.tolist())
    assert (own.difference, own.low, own.high) == (0, 0, 0)


def test_one_seed_has_no_interval_and_a_missing_metric_no_value() -> None:
    assert tables.compare([0.8], [0.7]) == Estimate(mean=0.8, std=None, difference=0.8 - 0.7, low=None, high=None)
    missing = tables.compare([float("nan")] * 2, [0.7, 0.8])
    assert all(np.isnan([missing.mean, missing.std, missing.difference, missing.low, missing.high]))


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_a_study_over_a_number_is_a_curve(
    write: Callable[..., Path], config: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    parts = study.read_study(str(write({2: {"num_heads": 2}, 0.5: {}}, over="num_heads")))
    variants = study.study_variants(parts, "clusters", config)
    outcomes = [Outcome(variant, [result(0.7 + 0.01 * seed) for seed in seeds]) for variant in variants]
    known = {variant.name: Traits(1.5, {}) for variant in variants}
    drawn: list[list[float]] = []
    plot_curve = verb.plot_curve
    monkeypatch.setattr(verb, "plot_curve", lambda found, x, *rest: (drawn.append(x), plot_curve(found, x, *rest)))
    verb.write_study(parts, "clusters", outcomes, seeds, known, -1, config / "out")
    assert drawn == [[2.0, 0.5]]
    assert (config / "out" / "parts_clusters.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((config / "out" / "parts_clusters.json").read_text())
    assert [variant["x"] for variant in content["variants"]] == [2.0, 0.5]
    assert content["over"] == "num_heads"
    assert StudyRecord.read(config / "out" / "parts_clusters.json").variants[0].x == 2


def test_the_list_names_studies_and_variants(capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", "--list"])
    out = capsys.readouterr().out
    assert all(name in out for name in study.list_studies())
    main(["study", "--list", "--study", "first_k"])
    assert capsys.readouterr().out.startswith(
        "first_k: on LFM2k, MMCTR_demo, over first_k_cols\n    1: {'first_k_cols': 1}"
    )


OURS = [(name, dataset_id) for name in study.list_studies() for dataset_id in study.read_study(name).base]


@pytest.mark.parametrize(("name", "dataset_id"), OURS)
def test_our_studies_can_run(name: str, dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUXICTR_MM_REAL_DATA", "anywhere")
    monkeypatch.setattr("fuxictr_mm.run.run.ensure_demo", lambda *_: {})
    variants = study.study_variants(study.read_study(name), dataset_id)
    assert len({variant.experiment.expid for variant in variants}) == len(variants) > 1
    changed = [json.dumps(dict(variant.experiment.params), default=str) for variant in variants]
    assert len(set(changed)) == len(changed)  # no two variants are the same
