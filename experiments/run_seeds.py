"""Run experiments over several seeds and put their means side by side.

``python run_seeds.py --expid A B --seeds 1 2 3 --name a_vs_b`` writes ``results/a_vs_b.{md,csv,png}``. A run that has
already ended with the same parameters is not repeated and one that was interrupted continues, so the same command
goes on where it stopped.
"""

import argparse
import csv
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fuxictr_mm.config import user_errors
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write
from fuxictr_mm.provenance import machine
from fuxictr_mm.runner import Result, resolve_experiment, run_experiment

HERE = Path(__file__).resolve().parent
FIELDS = ("expid", "dataset_id", "seed", "split", "AUC", "gAUC", "logloss", "parameters", "seconds")


def run(
    expids: list[str], seeds: list[int], config: str | None, dataset: str | None, gpu: int
) -> dict[str, list[Result]]:
    """Run what has not run yet; returns expid -> one result per seed."""
    results: dict[str, list[Result]] = {expid: [] for expid in expids}
    pairs = [(expid, seed) for seed in seeds for expid in expids]
    for expid, seed in tqdm(pairs, desc="runs", file=sys.stderr):
        params = resolve_experiment(expid, config, dataset)
        params.update(seed=seed, gpu=gpu, model_id=f"{expid}_seed{seed}", verbose=0, resume=True)
        results[expid].append(run_experiment(params))
        if not results[expid][-1].test:
            raise ConfigError(
                f"dataset {params['dataset_id']}: its test split has no labels, so there is no AUC to compare."
            )
    return results


def summary(results: dict[str, list[Result]]) -> list[dict[str, Any]]:
    """One row per experiment: mean and standard deviation over seeds, and the paired difference to the first one."""
    base = [result.test["AUC"] for result in next(iter(results.values()))]
    rows = []
    for expid, runs in results.items():
        auc = [result.test["AUC"] for result in runs]
        difference = [one - other for one, other in zip(auc, base)]
        rows.append(
            {
                "experiment": expid,
                "data": runs[0].dataset_id,
                "test AUC": _mean(auc),
                "± std": _std(auc),
                "minus first": _mean(difference),
                "seeds below first": f"{sum(d < 0 for d in difference)} of {len(difference)}",
                "test gAUC": _mean([result.test.get("gAUC", float("nan")) for result in runs]),
                "test logloss": _mean([result.test["logloss"] for result in runs]),
                "valid AUC": _mean([result.valid["AUC"] for result in runs]),
                "best possible": f"{runs[0].best_possible['test']:.4f}" if runs[0].best_possible else "unknown",
                "parameters": f"{runs[0].parameters:,}",
                "train s": f"{statistics.mean(result.seconds for result in runs):.0f}",
            }
        )
    return rows


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def _std(values: list[float]) -> str:
    return f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"


def markdown(rows: list[dict[str, Any]], seeds: list[int], commits: list[str]) -> str:
    """The table with what is needed to run it again."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(str(row[name]) for name in header) + " |" for row in rows]
    lines += [
        "",
        f"Command: `python run_seeds.py {shlex.join(sys.argv[1:])}`",
        f"Seeds {seeds}; commit {', '.join(commits)}; {machine()}.",
    ]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, list[Result]], path: Path) -> None:
    """Bars of mean test AUC, one dot per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(results)[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.5), layout="constrained")
    values = [[result.test["AUC"] for result in results[name]] for name in names]
    axes.barh(names, [statistics.mean(v) for v in values], color="#8fb3d9")
    for y, seeds in enumerate(values):
        axes.plot(seeds, [y] * len(seeds), "k.", markersize=5)
    low, high = min(map(min, values)), max(map(max, values))
    margin = 0.15 * (high - low) + 0.002
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel("test AUC (bar: mean, dots: seeds)")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def write_csv(results: dict[str, list[Result]], seeds: list[int], path: Path) -> None:
    """Every run and split on a line of its own."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS, extrasaction="ignore")
        writer.writeheader()
        for expid, runs in results.items():
            for seed, result in zip(seeds, runs):
                row = {**vars(result), "expid": expid, "seed": seed, "seconds": round(result.seconds, 1)}
                writer.writerow({**row, "split": "valid", **result.valid})
                writer.writerow({**row, "split": "test", **result.test})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expid", nargs="+", required=True, help="experiments; the first one is the reference")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--name", required=True, help="name of the files in --out")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--config", default=None)
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--gpu", type=int, default=-1)
    args = parser.parse_args()
    with user_errors(f"python {shlex.join(sys.argv)}"):
        results = run(args.expid, args.seeds, args.config, args.dataset, args.gpu)
        commits = sorted({result.commit for runs in results.values() for result in runs})
        table = markdown(summary(results), args.seeds, commits)
        with atomic_write(args.out / f"{args.name}.md") as path:
            path.write_text(table, encoding="utf-8")
        write_csv(results, args.seeds, args.out / f"{args.name}.csv")
        plot(results, args.out / f"{args.name}.png")
        print("\n" + table)


if __name__ == "__main__":
    main()
