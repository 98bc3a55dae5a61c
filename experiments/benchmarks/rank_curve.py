"""What the rank of ``cross: low_rank`` costs in AUC and gives in speed, as one table and one plot.

``python benchmarks/rank_curve.py`` puts two measurements side by side: test AUC over seeds, from ``run_seeds.py
--config cheaper_arithmetic`` (``results/cheaper_*.csv``; small widths, the cross network reads 736 columns), and rows
per second of a training step, from ``step.py`` (the paper's widths, 9,088 columns). Their ranks are compared as shares
of those widths.
"""

import argparse
import csv
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import RESULTS, write

from fuxictr_mm.errors import needs
from fuxictr_mm.files import atomic_write

AUC_WIDTH = 736
COLUMNS_PER_EMBEDDING_DIM = 142  # 2 context fields, the target's 4, 17 outputs of 8: times the id's width
EXPERIMENTS = Path(__file__).parents[1]


def auc_by_rank(files: list[Path]) -> dict[str, dict[int, list[float]]]:
    """Dataset -> rank (the full width for the exact form) -> test AUC of each seed."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        with open(file, newline="") as stream:
            for row in csv.DictReader(stream):
                match = re.fullmatch(r"[a-z0-9]+(?:_rank(\d+))?", row["expid"])
                if match and row["split"] == "test":
                    found[row["dataset_id"]][int(match[1] or AUC_WIDTH)].append(float(row["AUC"]))
    return found


def speed_by_rank(file: Path) -> tuple[int, dict[int, float]]:
    """Width of the cross network, and rank -> median rows per second."""
    content = json.loads(file.read_text())
    width = COLUMNS_PER_EMBEDDING_DIM * content["settings"]["embedding_dim"]
    rates = {}
    for row in content["rows"]:
        if row["arm"] == "exact" or row["arm"].startswith("low_rank"):
            rank = width if row["arm"] == "exact" else int(row["arm"].split()[1])
            rates[rank] = float(row["rows/s"].split()[0].replace(",", ""))
    return width, rates


def plot(auc: dict[str, dict[int, list[float]]], width: int, rates: dict[int, float], out: Path) -> None:
    figure = needs("matplotlib.figure", "plot").Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for dataset, of_rank in auc.items():
        ranks = sorted(of_rank)
        exact = statistics.mean(of_rank[max(ranks)])
        means = [statistics.mean(of_rank[rank]) - exact for rank in ranks]
        spread = [statistics.stdev(of_rank[rank]) if len(of_rank[rank]) > 1 else 0.0 for rank in ranks]
        left.errorbar([rank / AUC_WIDTH for rank in ranks], means, spread, marker="o", capsize=3, label=dataset)
    left.axhline(-0.001, color="grey", linestyle=":", label="0.001 lost")
    left.set(xscale="log", xlabel="rank / width of the cross network", ylabel="test AUC minus the exact form's")
    left.legend()
    ranks = sorted(rates)
    right.plot([rank / width for rank in ranks], [rates[rank] for rank in ranks], marker="o")
    right.set(xscale="log", xlabel="rank / width of the cross network", ylabel=f"training rows/s, width {width:,}")
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("cheaper_lfm2k.csv", "cheaper_demo.csv")
    parser.add_argument("--auc", nargs="+", type=Path, default=[EXPERIMENTS / "results" / name for name in names])
    parser.add_argument("--step", type=Path, default=RESULTS / "step_challenge_1024_width64.json")
    args = parser.parse_args()
    auc = auc_by_rank([file for file in args.auc if file.exists()])
    width, rates = speed_by_rank(args.step)
    rows: list[dict[str, Any]] = []
    for dataset, of_rank in auc.items():
        exact = statistics.mean(of_rank[AUC_WIDTH])
        for rank in sorted(of_rank, reverse=True):
            mean = statistics.mean(of_rank[rank])
            spread = f" ± {statistics.stdev(of_rank[rank]):.4f}" if len(of_rank[rank]) > 1 else ""
            rows.append(
                {
                    "what": f"test AUC, {dataset}",
                    "rank": "exact" if rank == AUC_WIDTH else str(rank),
                    "of the width": f"{rank / AUC_WIDTH:.2%}",
                    "value": f"{mean:.4f}{spread} ({len(of_rank[rank])} seeds)",
                    "against exact": f"{mean - exact:+.4f}",
                }
            )
    for rank in sorted(rates, reverse=True):
        rows.append(
            {
                "what": f"training rows/s, {args.step.stem}",
                "rank": "exact" if rank == width else str(rank),
                "of the width": f"{rank / width:.2%}",
                "value": f"{rates[rank]:,.0f}",
                "against exact": f"{rates[rank] / rates[width]:.2f} times",
            }
        )
    write("rank_curve", {"auc": [file.name for file in args.auc], "step": args.step.name}, rows)
    plot(auc, width, rates, RESULTS / "rank_curve.png")
    print(f"saved: {RESULTS / 'rank_curve.png'}")


if __name__ == "__main__":
    main()
