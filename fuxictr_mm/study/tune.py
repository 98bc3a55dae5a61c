"""Run a sweep: every combination of a tuner YAML, and the results ranked by the monitored metric on valid.

``python run_param_tuner.py --config tuner_config/Transformer_DCNv2_demo.yaml --gpu 0 1`` runs two experiments at once,
one per number after ``--gpu`` (``--gpu -1 -1``: two on the CPU). The same command continues an interrupted sweep:
finished experiments are skipped, half-finished ones go on. ``--summary`` runs nothing. The folder beside the YAML takes
the generated configs and ``summary.{md,csv,png}``, written again after every run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from fuxictr.utils import Monitor

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.errors import ConfigError, needs
from fuxictr_mm.files import only_one
from fuxictr_mm.run import Result, check_runs, finished_result, resolve_experiment
from fuxictr_mm.study.executor import end_with, execute
from fuxictr_mm.study.plots import plot_sweep
from fuxictr_mm.study.runs import Outcome, Variant
from fuxictr_mm.study.tables import markdown_table, write_csv, write_text
from fuxictr_mm.study.tuner import Tuner, read_tuner, tuner_variants, write_configs
from fuxictr_mm.study.vary import COLUMN

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Carry out the verb ``tune``."""
    parser = verb_parser("tune", __doc__, "--config sweep.yaml --gpu -1 -1", "--config sweep.yaml --summary")
    parser.add_argument("--config", required=True, help="tuner YAML")
    parser.add_argument("--tag", default=None, help="run only experiments whose id contains this")
    parser.add_argument("--gpu", nargs="+", type=int, default=[-1], help="one worker per number; -1 is the CPU")
    parser.add_argument("--summary", action="store_true", help="run nothing, only show what there is")
    parser.add_argument(
        "--csv_dir", type=Path, default=Path(), help="folder of FuxiCTR's results file (default: the current one)"
    )
    args = parser.parse_args(argv)
    needs("matplotlib", "plot")
    tuner = read_tuner(args.config)
    base = resolve_experiment(tuner.base_expid, tuner.base_config, tuner.dataset_id)
    variants = tuner_variants(tuner, base)
    check_runs([variant.experiment for variant in variants])
    chosen = [variant for variant in variants if (args.tag or "") in variant.name]
    if not chosen:
        raise ConfigError(f"--tag {args.tag}: in none of the {len(variants)} ids, e.g. {variants[0].name}.")
    failures: dict[str, str] = {}
    if args.summary:
        write_configs(tuner, variants)
    else:
        with only_one(tuner.folder / ".lock", f"another sweep of {tuner.file.name}"):
            write_configs(tuner, variants)
            print(f"{len(variants)} experiments in {tuner.folder}", flush=True)
            runs = [variant.experiment.but(resume=True) for variant in chosen]
            csv_file = args.csv_dir / f"{tuner.folder.name}.csv"
            failures = execute(runs, args.gpu, lambda _: write_summary(tuner, ranked(variants)), csv_file=csv_file)
    print("\n" + write_summary(tuner, ranked(variants)))
    print(f"in {tuner.folder}: summary.md, summary.csv and, from the first result on, summary.png")
    end_with(failures)


def ranked(variants: Sequence[Variant]) -> list[Outcome]:
    """Results so far, the best one first by the monitored metric on valid, and those without a result last."""
    results = [(variant, finished_result(variant.experiment)) for variant in variants]
    outcomes = [Outcome(variant, [] if result is None else [result]) for variant, result in results]
    sign = -1 if variants[0].experiment.get("monitor_mode", "max") == "max" else 1

    def order(outcome: Outcome) -> tuple[bool, float, str, str]:
        score = _score(outcome)
        return score is None, sign * (score or 0), _state(outcome), outcome.name

    return sorted(outcomes, key=order)


def _score(outcome: Outcome, split: str = "valid") -> float | None:
    """The monitored value, ``None`` where there is no result of this split."""
    monitor = Monitor(outcome.variant.experiment.get("monitor", "AUC"))
    found = [getattr(result, split) for result in outcome.results]
    return monitor.get_value(found[0]) if found and found[0] else None


def _state(outcome: Outcome) -> str:
    """``unfinished``: it has a log but no result of these parameters."""
    if outcome.results:
        return "finished"
    return "unfinished" if outcome.variant.experiment.file(".log").is_file() else "not started"


def write_summary(tuner: Tuner, outcomes: Sequence[Outcome]) -> str:
    """Write ``summary.{md,csv,png}`` and return the table; the picture needs a finished run."""
    lines = [_line(tuner, rank, outcome) for rank, outcome in enumerate(outcomes, start=1)]
    metric = _short(outcomes[0].variant.experiment.get("monitor", "AUC"))
    states = [_state(outcome) for outcome in outcomes]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("finished", "unfinished", "not started") if s in states)
    text = markdown_table(lines)
    text += f"\n{tuner.file.name}: {counts}. Sorted by {metric} on valid; test takes no part in it.\n"
    write_text(tuner.folder / "summary.md", text)
    write_csv(tuner.folder / "summary.csv", list(lines[0]), lines)
    scores = [(outcome, score) for outcome in outcomes if (score := _score(outcome)) is not None]
    if scores:
        test = [score for outcome, _ in scores if (score := _score(outcome, "test")) is not None]
        plot_sweep(
            f"{tuner.file.stem}: {len(scores)} of {len(outcomes)} experiments",
            metric,
            [score for _, score in scores],
            test if len(test) == len(scores) else [],
            {_short_key(key): _panel(key, tuner.space[key], scores) for key in tuner.swept},
            tuner.folder / "summary.png",
        )
    return text


def _line(tuner: Tuner, rank: int, outcome: Outcome) -> dict[str, Any]:
    """One line of the summary; numbers are left as they are."""
    experiment = outcome.variant.experiment
    result: Result | None = outcome.results[0] if outcome.results else None
    line: dict[str, Any] = {"rank": rank if result else None, "expid": outcome.name, "dataset": experiment.dataset_id}
    line |= {_short_key(key): _short(outcome.variant.changes[key]) for key in tuner.swept}
    for metric in experiment["metrics"]:
        line[f"valid {metric}"] = result.valid.get(metric) if result else None
    line["test AUC"] = result.test.get("AUC") if result else None
    line["parameters"] = result.parameters if result else None
    line["train s"] = round(result.seconds) if result else None
    return {**line, "state": _state(outcome)}


def _panel(key: str, values: Sequence[Any], scores: Sequence[tuple[Outcome, float]]) -> dict[str, list[float]]:
    """Value, as it is shown -> what it took part in."""
    found: dict[str, list[float]] = {}
    for value in values:
        label = _short(value).replace(", ", "\n" if isinstance(value, dict) else ", ")
        found[label] = [score for outcome, score in scores if _short(outcome.variant.changes[key]) == _short(value)]
    return found


def _short_key(key: str) -> str:
    return key.removeprefix(COLUMN)


def _short(value: Any) -> str:
    if not isinstance(value, dict | list):
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip().strip("{}")
