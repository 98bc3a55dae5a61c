"""Do sweeps of many processes on one data set get in each other's way? The same sweep again and again, and a count.

``python proofs/parallel_sweeps.py`` makes a small data set, sweeps 20 experiments on 4 vector columns with 4 workers,
5 times from nothing, looks at every file afterwards, and writes ``results/parallel_sweeps.{md,csv}``. It ends with
status 1 if anything is torn, missing, left over, or different from the first time.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from fuxictr_mm.config.yaml_files import load_dataset
from fuxictr_mm.demo.generator import DemoSettings, generate_demo
from fuxictr_mm.errors import DataError
from fuxictr_mm.features.columns import ItemColumn
from fuxictr_mm.run.provenance import current_commit, machine
from fuxictr_mm.study.runs import this_command
from fuxictr_mm.study.tables import markdown_table, write_csv, write_text

HERE = Path(__file__).resolve().parents[1]
CSV = HERE / "parallel_sweeps.csv"  # run_param_tuner.py names it after the tuner file
SETTINGS = DemoSettings(items=400, rows=8000, valid_rows=2000, test_rows=2000, text_width=24, image_width=32)
SPACE = {
    "learning_rate": [5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3, 8.0e-3],
    "feature_cols.item_emb.pca": [
        {"txt_emb_BERT": 8, "img_emb_CLIPRN50": 8},
        {"txt_emb_BERT+img_emb_CLIPRN50": 16},
        {"txt_emb_BERT": 16},
        {"img_emb_CLIPRN50": 16},
    ],
}
EXPERIMENTS, VARIANTS = 20, 4
METRICS = ["AUC", "logloss", "gAUC"]
MODEL = {
    "model": "Transformer_DCNv2", "model_root": "checkpoints", "dataset_id": "small", "seed": 1, "verbose": 0,
    "metrics": METRICS, "monitor": "AUC", "loss": "binary_crossentropy", "optimizer": "adam",
    "embedding_dim": 8, "max_len": 20, "transformer_layers": 1, "dim_feedforward": 32, "first_k_cols": 2,
    "dcn_cross_layers": 1, "dcn_hidden_units": [32], "mlp_hidden_units": [16], "learning_rate": 1.0e-3,
    "batch_size": 256, "epochs": 1, "shuffle": True,
}  # fmt: skip
ROW = re.compile(
    r" \d{8}-\d{6},\[command\] python [^\n]*,\[exp_id\] (\w+),\[dataset_id\] small_[0-9a-f]{8},\[train\] N\.A\.,"
    r"\[val\] AUC: [\d.]+ - logloss: [\d.]+ - gAUC: [\d.]+,\[test\] AUC: [\d.]+ - logloss: [\d.]+ - gAUC: [\d.]+"
)


def sweep(folder: Path, data: Path, workers: int) -> dict[str, Any]:
    """One sweep from nothing in ``folder``; returns what was found afterwards, and ``metrics`` per experiment id."""
    dataset = {**load_dataset("MMCTR_demo"), "dataset_id": "small", "data_root": "data"}
    for key in ("train_data", "valid_data", "test_data", "item_info", "item_feature"):
        dataset[key] = str(data / Path(dataset[key]).name)
    tuner = {"base_config": ".", "base_expid": "small", "tuner_space": SPACE}
    contents = {"model_config": {"small": MODEL}, "dataset_config": {"small": dataset}, "parallel_sweeps": tuner}
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    CSV.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "run_param_tuner.py"), "--config", str(folder / "parallel_sweeps.yaml")]
    started = time.perf_counter()
    with open(folder / "output.log", "w") as log:
        ended = subprocess.run([*command, "--gpu", *["-1"] * workers], stdout=log, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - started
    if ended.returncode:
        print((folder / "output.log").read_text(encoding="utf-8")[-4000:])

    rows = CSV.read_text(encoding="utf-8").splitlines() if CSV.is_file() else []
    CSV.unlink(missing_ok=True)
    whole = {match[1] for row in rows if (match := ROW.fullmatch(row))}
    results = [json.loads(file.read_text()) for file in folder.glob("checkpoints/*/*.result.json")]
    columns = list(folder.glob("data/*/item_emb-*.safetensors"))
    maps = list(folder.glob("data/*/feature_map.json"))
    return {
        "s": round(seconds),
        "exit status": ended.returncode,
        "csv rows": len(rows),
        "of them whole": len(whole),
        "results": len(results),
        "vector columns": len(columns),
        "that load": sum(_whole(column) for column in columns),
        "feature maps": len(maps),
        "that name theirs": sum(_names_its_column(file) for file in maps),
        "left over": len(list(folder.rglob("*.tmp"))) + len(list(folder.rglob("*.state"))),
        "metrics": {result["expid"]: {"valid": result["valid"], "test": result["test"]} for result in results},
    }


def _whole(column: Path) -> bool:
    try:
        return len(ItemColumn.load(column).values) == SETTINGS.items + 1
    except DataError:
        return False


def _names_its_column(feature_map: Path) -> bool:
    try:
        features = json.loads(feature_map.read_text(encoding="utf-8"))["features"]
    except ValueError:
        return False
    named = [entry["item_emb"]["item_column"] for entry in features if "item_emb" in entry]
    return len(named) == 1 and (feature_map.parent / named[0]).is_file()


def expected(found: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether a sweep left what it should, and the same metrics as the first one."""
    return (
        found["exit status"] == 0
        and found["csv rows"] == found["of them whole"] == found["results"] == EXPERIMENTS
        and found["vector columns"] == found["that load"] == VARIANTS
        and found["feature maps"] == found["that name theirs"] == VARIANTS
        and found["left over"] == 0
        and found["metrics"] == first["metrics"]
    )


def report(sweeps: list[dict[str, Any]], workers: int, commit: str) -> str:
    lines = []
    for number, found in enumerate(sweeps, start=1):
        same = sum(found["metrics"].get(expid) == value for expid, value in sweeps[0]["metrics"].items())
        shown = {name: value for name, value in found.items() if name != "metrics"}
        lines.append({"sweep": number, **shown, "metrics as in the first": f"{same} of {EXPERIMENTS}"})
    verdict = "all as expected" if all(expected(found, sweeps[0]) for found in sweeps) else "NOT as expected"
    return (
        f"{markdown_table(lines)}\n{EXPERIMENTS} experiments, {VARIANTS} columns, {workers} workers, {len(sweeps)} "
        f"times anew: {verdict}.\nCommand: `{this_command()}`; commit {commit}; {machine()}.\n"
    )


def write_metrics(sweeps: list[dict[str, Any]], path: Path) -> None:
    """Every experiment of every sweep."""
    lines = [
        {
            "sweep": number,
            "expid": expid,
            **{f"{split} {name}": value[split][name] for split in ("valid", "test") for name in METRICS},
        }
        for number, found in enumerate(sweeps, start=1)
        for expid, value in sorted(found["metrics"].items())
    ]
    columns = ["sweep", "expid", *(f"{split} {name}" for split in ("valid", "test") for name in METRICS)]
    write_csv(path, columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    # Before the sweeps: later commits are not what has run.
    commit = current_commit()
    with tempfile.TemporaryDirectory(prefix="parallel_sweeps.") as name:
        folder = Path(name)
        generate_demo(folder / "data", SETTINGS)
        sweeps = []
        for number in range(1, args.repeats + 1):
            sweeps.append(sweep(folder / f"sweep{number}", folder / "data", args.workers))
            print({key: value for key, value in sweeps[-1].items() if key != "metrics"}, flush=True)
    text = report(sweeps, args.workers, commit)
    print("\n" + text)
    write_text(args.out / "parallel_sweeps.md", text)
    write_metrics(sweeps, args.out / "parallel_sweeps.csv")
    sys.exit(0 if all(expected(found, sweeps[0]) for found in sweeps) else 1)


if __name__ == "__main__":
    main()
