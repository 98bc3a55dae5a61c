"""Run experiments over several seeds and put their means side by side.

``python run_seeds.py --expid A B --seeds 1 2 3 --name a_vs_b`` writes ``results/a_vs_b.{md,csv,png}``, after every
seed. A run that has already ended with the same parameters is not repeated and one that was interrupted continues, so
the same command goes on where it stopped.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fuxictr_mm.cli import user_errors
from fuxictr_mm.files import atomic_write
from fuxictr_mm.run import resolve_experiment
from fuxictr_mm.study.arms import Arm, Row, check_arms, collect, markdown, plot_bars, run_arms, table, write_csv

HERE = Path(__file__).resolve().parent


def write(rows: Sequence[Row], seeds: Sequence[int], out: Path, name: str, command: str) -> str:
    """Write the three files and return the table."""
    lines = table(rows, "experiment")
    for line, row in zip(lines, rows):
        line["data"] = row.results[0].dataset_id
        best = row.results[0].best_possible.get("test")
        line["best possible"] = "unknown" if best is None else f"{best:.4f}"
    text = markdown(lines, rows, seeds, command)
    with atomic_write(out / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    write_csv(rows, seeds, "expid", out / f"{name}.csv")
    plot_bars(rows, out / f"{name}.png")
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expid", nargs="+", required=True, help="experiments; the first one is the reference")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--name", required=True, help="name of the files in --out")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--config", default=None)
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--gpu", type=int, default=-1)
    args = parser.parse_args(argv)
    with user_errors(f"python {shlex.join(sys.argv)}"):
        arms = [Arm(expid, expid, resolve_experiment(expid, args.config, args.dataset)) for expid in args.expid]
        check_arms(arms)
        command = f"python run_seeds.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
        text, seeds = "", list(dict.fromkeys(args.seeds))
        for done, _ in enumerate(run_arms(arms, seeds, args.gpu), start=1):
            text = write(collect(arms, seeds[:done]), seeds[:done], args.out, args.name, command)
        print("\n" + text)


if __name__ == "__main__":
    main()
