"""Run experiments over several seeds and compare their means.

``python run_seeds.py --expid A B --seeds 1 2 3 --name a_vs_b`` writes ``a_vs_b.{md,csv,png}`` into ``--out``, after
every seed. A run that has already ended with the same parameters is not repeated and one that was interrupted
continues, so the same command goes on where it stopped. ``--gpu 0 1`` runs two at once, ``--gpu -1 -1`` two on the CPU.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.config.keys import FileName, check_value
from fuxictr_mm.run import resolve_experiment
from fuxictr_mm.run.provenance import machine
from fuxictr_mm.study.plots import plot_bars
from fuxictr_mm.study.runs import Outcome, Variant, collect, commits, run_over_seeds, this_command
from fuxictr_mm.study.tables import comparison, markdown_table, write_runs, write_text

__all__ = ["add_arguments", "main", "origin"]


def main(argv: list[str]) -> None:
    """Carry out the verb ``seeds``."""
    parser = verb_parser("seeds", __doc__, "--expid DIN_SE_MHTA_demo Transformer_DCNv2_demo --seeds 1 2 --name both")
    parser.add_argument("--expid", nargs="+", required=True, help="experiments; the first one is the reference")
    parser.add_argument("--name", required=True, help="name of the files in --out")
    add_arguments(parser)
    args = parser.parse_args(argv)
    check_value("--name", FileName, args.name)
    variants = [
        Variant(expid, resolve_experiment(expid, args.config, args.dataset)) for expid in dict.fromkeys(args.expid)
    ]
    file = args.out / args.name

    def write(seeds: Sequence[int]) -> str:
        return _write(collect(variants, seeds), seeds, file)

    run_over_seeds(variants, list(dict.fromkeys(args.seeds)), args.gpu, file, write)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all runs over seeds have."""
    parser.add_argument("--dataset", default=None, help="dataset id")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--gpu", nargs="+", type=int, default=[-1], help="one worker per number; -1 is the CPU")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the files (default: results)")
    parser.add_argument("--config", default=None, help="FuxiCTR config directory; default: this repository's own")


def origin(outcomes: Sequence[Outcome], seeds: Sequence[int]) -> str:
    """What is needed to run a table again, as it stands below it."""
    return f"\nCommand: `{this_command()}`\nSeeds {list(seeds)}; commit {commits(outcomes)}; {machine()}.\n"


def _write(outcomes: Sequence[Outcome], seeds: Sequence[int], file: Path) -> str:
    """Write the three files and return the table."""
    if not outcomes:
        return ""
    lines = comparison(outcomes, "experiment")
    for line, outcome in zip(lines, outcomes):
        line["data"] = outcome.results[0].dataset_id
        best = outcome.results[0].best_possible.get("test")
        line["best possible"] = "unknown" if best is None else best
    text = markdown_table(lines) + origin(outcomes, seeds)
    write_text(file.with_name(f"{file.name}.md"), text)
    write_runs(outcomes, seeds, "expid", file.with_name(f"{file.name}.csv"))
    plot_bars(outcomes, file.with_name(f"{file.name}.png"))
    return text
