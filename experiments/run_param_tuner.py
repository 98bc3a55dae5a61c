"""Run a sweep: every combination of a tuner YAML, on FuxiCTR's grid search, and put the results side by side.

``python run_param_tuner.py --config tuner_config/Transformer_DCNv2_demo.yaml --gpu 0 1`` runs two experiments at once,
one per number behind ``--gpu`` (``--gpu -1 -1``: two on the CPU). The same command continues an interrupted sweep:
finished experiments are skipped, half-finished ones go on. ``--summary`` runs nothing. The folder beside the YAML takes
the generated configs and ``summary.{md,csv,png}``.
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from fuxictr.autotuner import grid_search
from fuxictr.utils import Monitor

from fuxictr_mm.cli import user_errors
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import atomic_write
from fuxictr_mm.run import Result, check_runs, finished_result, resolve_experiment
from fuxictr_mm.study.tuner import Combination, Tuner, enumerate_experiments, read_tuner, write_configs

HERE = Path(__file__).resolve().parent
RUN_EXPID = HERE / "run_expid.py"


@dataclass(frozen=True)
class Row:
    """One experiment and what it has given so far.

    Attributes:
        state: ``finished``, ``unfinished`` (it has a log but no result of these parameters) or ``not started``.
        score: the monitored value on valid, ``None`` unless finished.
    """

    experiment: Combination
    result: Result | None
    state: str
    score: float | None


def prepare(tuner: Tuner) -> list[Combination]:
    """Enumerate, check and write all experiments; whatever can be refused is refused here, before anything runs."""
    base = resolve_experiment(tuner.base_expid, tuner.base_config, tuner.dataset_id)
    experiments = enumerate_experiments(tuner, base)
    check_runs([combination.experiment for combination in experiments])
    write_configs(tuner, experiments)
    return experiments


def search(tuner: Tuner, tag: str | None, gpus: Sequence[int]) -> None:
    """FuxiCTR's grid search over the written experiments, ``len(gpus)`` at a time.

    It splits its commands at blanks, starts whatever ``python`` comes first and says nothing of failures; so the first
    is refused, the second put right, and the callers look at the results. Ctrl-C reaches the experiments by itself:
    here it is only waited until they have saved. SIGTERM to the tuner alone lets them end and starts no others.
    """
    for place in (tuner.folder, RUN_EXPID, tuner.base_expid):
        if re.search(r"\s", str(place)):
            raise ConfigError(f"{place}: FuxiCTR's grid search splits its commands at blanks; rename it without them.")
    binaries = Path(sys.executable).parent
    if not shutil.which("python", path=str(binaries)):
        raise ConfigError(f"{binaries}: no 'python' beside {sys.executable}; run in a virtual environment.")
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    # Several processes with as many threads as cores each are many times slower than one thread each.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(gpus))))
    try:
        grid_search(str(tuner.folder), gpus, tag, script=f"{RUN_EXPID} --resume")
    except KeyboardInterrupt:
        print("\nstopping: no other experiment starts, the running ones are waited for", file=sys.stderr, flush=True)
        _wait_for_children()
        raise KeyboardInterrupt("the running experiments have saved or ended") from None


def _wait_for_children() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        except KeyboardInterrupt:
            continue  # the children have heard it, too


def collect(experiments: Sequence[Combination]) -> list[Row]:
    """Results so far, the best one first by the monitored metric on valid, and those without a result last."""
    rows = []
    for experiment in experiments:
        result = finished_result(experiment.experiment)
        score = Monitor(experiment.experiment.get("monitor", "AUC")).get_value(result.valid) if result else None
        state = "finished" if result else "unfinished" if _log(experiment).is_file() else "not started"
        rows.append(Row(experiment, result, state, score))
    sign = -1 if experiments[0].experiment.get("monitor_mode", "max") == "max" else 1
    return sorted(rows, key=lambda row: (row.score is None, sign * (row.score or 0), row.state, row.experiment.expid))


def _log(experiment: Combination) -> Path:
    return experiment.experiment.file(".log")


def table(tuner: Tuner, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line per row of :func:`collect`; numbers are left as they are."""
    lines = []
    for rank, row in enumerate(rows, start=1):
        result = row.result
        line: dict[str, Any] = {"rank": rank if result else None, "expid": row.experiment.expid}
        line["dataset"] = row.experiment.dataset_id
        line |= {_short_key(key): _short(row.experiment.values[key]) for key in tuner.swept}
        for metric in row.experiment.experiment["metrics"]:
            line[f"valid {metric}"] = result.valid.get(metric) if result else None
        line["test AUC"] = result.test.get("AUC") if result else None
        line["parameters"] = result.parameters if result else None
        line["train s"] = round(result.seconds) if result else None
        lines.append({**line, "state": row.state})
    return lines


def _short_key(key: str) -> str:
    return key.removeprefix("feature_cols.")


def _short(value: Any) -> str:
    if not isinstance(value, dict | list):
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip().strip("{}")


def markdown(tuner: Tuner, rows: Sequence[Row], monitor: Any) -> str:
    lines = table(tuner, rows)
    header = list(lines[0])
    text = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    text += ["| " + " | ".join(_cell(line[name]) for name in header) + " |" for line in lines]
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("finished", "unfinished", "not started") if s in states)
    text += ["", f"{tuner.file.name}: {counts}. Sorted by {_short(monitor)} on valid; test takes no part in it."]
    return "\n".join(text) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def plot(tuner: Tuner, rows: Sequence[Row], monitor: Any, path: Path) -> None:
    """Left the finished experiments in order, right one panel per swept key: what each value gave."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    done = [(row, row.score, row.result) for row in rows if row.score is not None and row.result is not None]
    keys = tuner.swept
    sizes = [len(tuner.space[key]) for key in keys]
    height = max(4.5, 0.7 * len(keys) + 0.33 * sum(sizes))
    figure = plt.figure(figsize=(13 if keys else 6, height), layout="constrained")
    parts: Any = figure.subfigures(1, 2) if keys else [figure]
    axes = parts[0].subplots()
    ranks = range(1, len(done) + 1)
    if all(result.test for _, _, result in done):
        axes.plot(ranks, [Monitor(monitor).get_value(result.test) for *_, result in done], "o", color="#c9772c", ms=4)
        axes.plot([], [], "o", color="#c9772c", ms=4, label="test (not used for the order)")
    axes.plot(ranks, [score for _, score, _ in done], "o", color="#2f6db0", ms=4, label="valid")
    axes.set_xlabel("rank on valid")
    axes.set_ylabel(_short(monitor))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.set_title(f"{tuner.file.stem}: {len(done)} of {len(rows)} experiments", fontsize=10)
    if keys:
        panels = parts[1].subplots(len(keys), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        for panel, key in zip(panels, keys):
            _panel(panel, tuner.space[key], [(row.experiment.values[key], score) for row, score, _ in done])
            panel.set_title(_short_key(key), fontsize=9, loc="left")
        panels[-1].set_xlabel(f"valid {_short(monitor)} (line: mean)")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def _panel(axes: Any, values: Sequence[Any], scores: Sequence[tuple[Any, float]]) -> None:
    for y, value in enumerate(values):
        mine = [score for other, score in scores if _short(other) == _short(value)]
        axes.plot(mine, [y] * len(mine), "o", color="#2f6db0", ms=4, alpha=0.55)
        if mine:
            axes.plot([statistics.mean(mine)] * 2, [y - 0.3, y + 0.3], color="#c9772c", lw=2)
    labels = [_short(value).replace(", ", "\n" if isinstance(value, dict) else ", ") for value in values]
    axes.set_yticks(range(len(values)), labels, fontsize=8)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def summarize(tuner: Tuner, rows: Sequence[Row], params: Mapping[str, Any]) -> None:
    """Print the table and write ``summary.{md,csv,png}``; the picture needs a finished experiment."""
    monitor = params.get("monitor", "AUC")
    text = markdown(tuner, rows, monitor)
    print("\n" + text)
    with atomic_write(tuner.folder / "summary.md") as path:
        path.write_text(text, encoding="utf-8")
    lines = table(tuner, rows)
    with atomic_write(tuner.folder / "summary.csv") as path, open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    if any(row.result for row in rows):
        plot(tuner, rows, monitor, tuner.folder / "summary.png")
    print(f"in {tuner.folder}: summary.md, summary.csv and, from the first result on, summary.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="tuner YAML")
    parser.add_argument("--tag", default=None, help="run only experiments whose id contains this")
    parser.add_argument("--gpu", nargs="+", type=int, default=[-1], help="one worker per number; -1 is the CPU")
    parser.add_argument("--summary", action="store_true", help="run nothing, only show what there is")
    args = parser.parse_args(argv)
    with user_errors(f"python {shlex.join(sys.argv)}"):
        if find_spec("matplotlib") is None:
            raise ConfigError("the summary's picture needs matplotlib; pip install 'fuxictr_mm[plot]'.")
        tuner = read_tuner(args.config)
        experiments = prepare(tuner)
        chosen = [experiment for experiment in experiments if (args.tag or "") in experiment.expid]
        if not chosen:
            raise ConfigError(f"--tag {args.tag}: in none of the {len(experiments)} ids, e.g. {experiments[0].expid}.")
        print(f"{len(experiments)} experiments in {tuner.folder}", flush=True)
        if not args.summary and any(finished_result(experiment.experiment) is None for experiment in chosen):
            search(tuner, args.tag, args.gpu)
        rows = collect(experiments)
        summarize(tuner, rows, experiments[0].experiment.params)
    failed = [row.experiment for row in rows if row.result is None and row.experiment in chosen]
    if failed and not args.summary:
        for experiment in failed:
            print(f"error: {experiment.expid} has no result; see above and {_log(experiment)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
