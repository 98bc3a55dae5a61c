"""Run a study: variants of one experiment over several seeds, and what each of them changes.

``python run_ablation.py --study fusion --dataset LFM2k --seeds 1 2 3`` trains the variants of ``studies/fusion.yaml``
and writes ``fusion_LFM2k.{md,csv,png,json}`` into ``--out``, after every seed. A run that has already ended with the
same parameters is not repeated and one that was interrupted continues, so the same command goes on where it stopped.
``--variants`` trains a few of them; the results are those of all that have ended. ``--gpu 0 1`` runs two at once,
``--gpu -1 -1`` two on the CPU. fuxictr_mm/study/variants.py says how a study is written.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.config.keys import nearest
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.run.provenance import machine
from fuxictr_mm.study.plots import plot_bars, plot_curve
from fuxictr_mm.study.records import RunRecord, StudyRecord, VariantRecord
from fuxictr_mm.study.runs import Outcome, Variant, collect, commits, run_over_seeds, this_command
from fuxictr_mm.study.seeds import add_arguments, origin
from fuxictr_mm.study.tables import compare, comparison, markdown_table, write_runs, write_text
from fuxictr_mm.study.traits import CANDIDATES, REPETITIONS, Traits, traits
from fuxictr_mm.study.variants import Study, list_studies, read_study, study_variants

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Carry out the verb ``study``."""
    parser = verb_parser("study", __doc__, "--list", "--study components_din_se_mhta --dataset MMCTR_demo --seeds 1")
    parser.add_argument("--study", default=None, help="name of a YAML in experiments/studies/, or its path")
    parser.add_argument("--variants", nargs="+", default=None, help="train these only; default: all")
    parser.add_argument("--list", action="store_true", help="print the studies and their variants, and train nothing")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.list:
        print_studies([args.study] if args.study else list_studies())
        return
    if not args.study or not args.dataset:
        raise ConfigError("--study and --dataset are both needed; --list says which there are.")
    study = read_study(args.study)
    variants = study_variants(study, args.dataset, args.config)
    chosen, seeds = choose(variants, args.variants), list(dict.fromkeys(args.seeds))
    measured: dict[str, Traits] = {}

    def write(done: Sequence[int]) -> str:
        outcomes = collect(variants, done)
        if not outcomes:
            return ""
        # Latency is not measured while other workers train: they would take its cores.
        if len(args.gpu) == 1 or len(done) == len(seeds):
            for outcome in outcomes:
                if outcome.name not in measured:
                    measured[outcome.name] = traits(outcome.variant.run(seeds[0]).but(gpu=args.gpu[0]))
        known = {outcome.name: measured.get(outcome.name, Traits()) for outcome in outcomes}
        return write_study(study, args.dataset, outcomes, done, known, args.gpu[0], args.out)

    run_over_seeds(chosen, seeds, args.gpu, args.out / f"{study.name}_{args.dataset}", write)


def choose(variants: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """The variants of these names, in the study's order."""
    known = [variant.name for variant in variants]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--variants {name!r}: the study has no such variant; {nearest(name, known)}.")
    return [variant for variant in variants if names is None or variant.name in names]


def print_studies(names: Sequence[str]) -> None:
    """What there is to run."""
    for name in names:
        study = read_study(name)
        print(f"{study.name}: on {', '.join(study.base)}" + (f", over {study.over}" if study.over else ""))
        for variant, changes in study.variants.items():
            print(f"    {variant}: {changes}")


def write_study(
    study: Study,
    dataset_id: str,
    outcomes: Sequence[Outcome],
    seeds: Sequence[int],
    known: Mapping[str, Traits],
    gpu: int,
    out: Path,
) -> str:
    """Write the four files and return the table.

    Args:
        outcomes: the variants that have ended with all of ``seeds``.
        known: name of a variant -> its traits, measured on ``gpu`` with the model of the first seed.
    """
    file = out / f"{study.name}_{dataset_id}"
    lines = comparison(outcomes, "variant")
    for line, outcome in zip(lines, outcomes):
        latency = known[outcome.name].latency_p50_ms
        line["p50 ms"] = None if latency is None else f"{latency:.1f}"
    on_gpu = gpu >= 0 and torch.cuda.is_available()
    device = "the GPU" if on_gpu else f"the CPU (threads: {torch.get_num_threads()})"
    text = markdown_table(lines) + origin(outcomes, seeds)
    text += (
        f"p50 ms: to score {CANDIDATES} candidates for one user of the test split, median of {REPETITIONS} times on "
        f"{device}, model of seed {seeds[0]}.\n"
    )
    write_text(file.with_name(f"{file.name}.md"), text)
    write_runs(outcomes, seeds, "variant", file.with_name(f"{file.name}.csv"))
    picture = file.with_name(f"{file.name}.png")
    if study.over:
        plot_curve(outcomes, [float(outcome.name) for outcome in outcomes], study.over, picture)
    else:
        plot_bars(outcomes, picture)
    record = StudyRecord(
        study=study.name,
        dataset_id=dataset_id,
        base_expid=study.base[dataset_id]["expid"],
        over=study.over,
        seeds=list(seeds),
        command=this_command(),
        commit=commits(outcomes),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        variants=[_record(outcome, outcomes[0], seeds, known[outcome.name], study.over) for outcome in outcomes],
    )
    record.write(file.with_name(f"{file.name}.json"))
    return text


def _record(
    outcome: Outcome, reference: Outcome, seeds: Sequence[int], found: Traits, over: str | None
) -> VariantRecord:
    return VariantRecord(
        name=outcome.name,
        x=float(outcome.name) if over else None,
        overrides=outcome.variant.changes,
        parameters=outcome.results[0].parameters,
        train_seconds=statistics.fmean(result.seconds for result in outcome.results),
        latency_p50_ms=found.latency_p50_ms,
        explained_variance=found.explained_variance,
        summary={
            split: {
                metric: compare(outcome.values(metric, split), reference.values(metric, split))
                for metric in getattr(outcome.results[0], split)
            }
            for split in ("test", "valid")
        },
        runs=[RunRecord.of(seed, result) for seed, result in zip(seeds, outcome.results)],
    )
