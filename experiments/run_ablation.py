"""Run a study: variants of one experiment over several seeds, and what each of them changes.

``python run_ablation.py --study fusion --dataset LFM2k --seeds 1 2 3`` trains the variants of ``studies/fusion.yaml``
and writes ``results/fusion_LFM2k.{md,csv,png,json}``, after every seed. A run that has already ended with the same
parameters is not repeated and one that was interrupted continues, so the same command goes on where it stopped.
``--variants`` trains a few of them; the results are those of all that have ended. ``study.py`` says how a study is
written.
"""

import argparse
import itertools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fuxictr_mm.cli import user_errors
from fuxictr_mm.config.keys import nearest
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write, open_parquet
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.run import Experiment, Trained
from fuxictr_mm.run.provenance import machine
from fuxictr_mm.serve.ranking import Ranker
from fuxictr_mm.study.arms import (
    Arm,
    Row,
    check_arms,
    collect,
    commits,
    compare,
    markdown,
    plot_bars,
    plot_curve,
    run_arms,
    table,
    write_csv,
)
from fuxictr_mm.study.variants import Study, list_studies, read_study, study_arms

HERE = Path(__file__).resolve().parent
CANDIDATES, WARM_UP, REPETITIONS = 100, 5, 30
ROWS_READ = 10_000  # of the test split, for one request to rank


@dataclass(frozen=True)
class Outcome:
    """What a study has given so far.

    Attributes:
        seeds, rows: the variants that have ended with all of these seeds.
        traits: name of a variant -> what :func:`traits` gives.
        device: where latencies were measured.
        command: the one that is running.
    """

    study: Study
    dataset_id: str
    seeds: Sequence[int]
    rows: Sequence[Row]
    traits: dict[str, dict[str, Any]]
    device: str
    command: str


def traits(experiment: Experiment) -> dict[str, Any]:
    """What the trained model of a run shows beside its metrics: its latency and its PCAs.

    Returns:
        ``latency_p50_ms``, ``None`` for a model that is none of ours, and ``explained_variance``: column -> entry of
        its ``pca`` -> share of variance per component.
    """
    trained = Trained.open(experiment)
    explained = {
        name: {
            report["modality"]: report["explained_variance_ratio"]
            for report in column.info["reports"]
            if report.get("explained_variance_ratio") is not None
        }
        for name, column in trained.table.stored.items()
    }
    is_ours = isinstance(trained.model, MultimodalRankModel)
    return {
        "latency_p50_ms": _latency(trained) if is_ours else None,
        "explained_variance": {column: entries for column, entries in explained.items() if entries},
    }


def _latency(trained: Trained) -> float:
    """Median milliseconds to score targets of the test split for one of its users, with a history of median length."""
    schema = trained.schema
    context = [column.name for column in schema.context_columns]
    columns = (schema.item_col, schema.history_col, *context)
    file = open_parquet(trained.params["test_data"], columns)
    rows = next(file.iter_batches(ROWS_READ, columns=list(columns))).to_pylist()
    rows.sort(key=lambda row: sum(item != 0 for item in row[schema.history_col]))
    user = rows[len(rows) // 2]
    targets = sorted({row[schema.item_col] for row in rows})
    candidates = list(itertools.islice(itertools.cycle(targets), CANDIDATES))
    ranker = Ranker(trained)
    milliseconds = []
    for _ in range(WARM_UP + REPETITIONS):
        started = time.perf_counter()
        ranker.score(user[schema.history_col], candidates, {name: user[name] for name in context})
        milliseconds.append(1000 * (time.perf_counter() - started))
    return statistics.median(milliseconds[WARM_UP:])


def report(outcome: Outcome) -> dict[str, Any]:
    """The study's JSON; differences in it are paired with the first variant."""
    study, rows = outcome.study, outcome.rows
    variants = []
    for row in rows:
        kept = ("valid", "test", "by_frequency", "curve", "warnings", "seconds")
        runs = [
            {"seed": seed, **{key: getattr(result, key) for key in kept}}
            for seed, result in zip(outcome.seeds, row.results)
        ]
        summary = {
            split: {
                metric: asdict(compare(row.values(metric, split), rows[0].values(metric, split)))
                for metric in getattr(row.results[0], split)
            }
            for split in ("test", "valid")
        }
        variants.append(
            {
                "name": row.arm.name,
                **({"x": float(row.arm.name)} if study.over else {}),
                "overrides": row.arm.overrides,
                "parameters": row.results[0].parameters,
                "train_seconds": statistics.fmean(result.seconds for result in row.results),
                **outcome.traits[row.arm.name],
                "summary": summary,
                "runs": runs,
            }
        )
    return {
        "kind": "ablation",
        "study": study.name,
        "dataset_id": outcome.dataset_id,
        "base_expid": study.base[outcome.dataset_id]["expid"],
        "over": study.over,
        "seeds": list(outcome.seeds),
        "command": outcome.command,
        "commit": commits(rows),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "variants": variants,
    }


def write(outcome: Outcome, out: Path) -> str:
    """Write the four files and return the table."""
    study, rows, seeds = outcome.study, outcome.rows, outcome.seeds
    stem = f"{study.name}_{outcome.dataset_id}"
    lines = table(rows, "variant")
    for line, row in zip(lines, rows):
        latency = outcome.traits[row.arm.name]["latency_p50_ms"]
        line["p50 ms"] = "-" if latency is None else f"{latency:.1f}"
    text = markdown(lines, rows, seeds, outcome.command) + (
        f"p50 ms: to score {CANDIDATES} candidates for one user of the test split, median of {REPETITIONS} times on "
        f"{outcome.device}, model of seed {seeds[0]}.\n"
    )
    with atomic_write(out / f"{stem}.md") as path:
        path.write_text(text, encoding="utf-8")
    write_csv(rows, seeds, "variant", out / f"{stem}.csv")
    if study.over:
        plot_curve(rows, [float(row.arm.name) for row in rows], study.over, out / f"{stem}.png")
    else:
        plot_bars(rows, out / f"{stem}.png")
    with atomic_write(out / f"{stem}.json") as path:
        path.write_text(json.dumps(report(outcome), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return text


def choose(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """The arms of these names, in the study's order."""
    known = [arm.name for arm in arms]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--variants {name!r}: the study has no such variant; {nearest(name, known)}.")
    return [arm for arm in arms if names is None or arm.name in names]


def print_studies(names: Sequence[str]) -> None:
    for name in names:
        study = read_study(name)
        print(f"{study.name}: on {', '.join(study.base)}" + (f", over {study.over}" if study.over else ""))
        for variant, changes in study.variants.items():
            print(f"    {variant}: {changes}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=None, help="name of a YAML in studies/, or its path")
    parser.add_argument("--dataset", default=None, help="one of the study's dataset ids")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=None, help="train these only; default: all")
    parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--config", default=None, help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--list", action="store_true", help="print the studies and their variants, and train nothing")
    args = parser.parse_args(argv)
    with user_errors(f"python {shlex.join(sys.argv)}"):
        if args.list:
            print_studies([args.study] if args.study else list_studies())
            return
        if not args.study or not args.dataset:
            raise ConfigError("--study and --dataset are both needed; --list says which there are.")
        study = read_study(args.study)
        arms = study_arms(study, args.dataset, args.config)
        chosen, seeds = choose(arms, args.variants), list(dict.fromkeys(args.seeds))
        check_arms(arms)
        command = f"python run_ablation.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
        on_gpu = args.gpu >= 0 and torch.cuda.is_available()
        device = "the GPU" if on_gpu else f"the CPU (threads: {torch.get_num_threads()})"
        text, known = "", {}
        for done, _ in enumerate(run_arms(chosen, seeds, args.gpu), start=1):
            rows = collect(arms, seeds[:done])
            for arm in (row.arm for row in rows if row.arm.name not in known):
                known[arm.name] = traits(arm.run(seeds[0], args.gpu))
            text = write(Outcome(study, args.dataset, seeds[:done], rows, known, device, command), args.out)
        print("\n" + text)


if __name__ == "__main__":
    main()
