"""Pictures: variants as bars or over a number, and a sweep with a panel per swept key."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_mm.errors import needs
from fuxictr_mm.files import atomic_write
from fuxictr_mm.run import Result
from fuxictr_mm.study.records import Estimate
from fuxictr_mm.study.runs import Outcome
from fuxictr_mm.study.tables import compare

__all__ = ["plot_bars", "plot_curve", "plot_sweep", "plot_training"]

LIGHT_BLUE, BLUE, ORANGE = "#8fb3d9", "#2f6db0", "#c9772c"


def plot_bars(outcomes: Sequence[Outcome], path: Path) -> None:
    """Left test AUC, a dot per seed; right the paired difference to the first variant with its 95 % interval.

    Bars stand on the right alone: the axis on the left does not begin at zero, so their lengths would mislead.
    """
    figure = _figure(12, 0.45 * len(outcomes) + 1.5)
    left, right = figure.subplots(1, 2, sharey=True)
    places, figures = range(len(outcomes)), _auc(outcomes)
    left.plot([one.mean for one in figures], places, "|", color=LIGHT_BLUE, markersize=18, markeredgewidth=4)
    for y, outcome in enumerate(outcomes):
        left.plot(outcome.values("AUC"), [y] * len(outcome.results), "k.", markersize=5)
    values = [value for outcome in outcomes for value in outcome.values("AUC")]
    margin = 0.15 * (max(values) - min(values)) + 0.002
    left.set_xlim(min(values) - margin, max(values) + margin)
    left.set_yticks(places, [outcome.name for outcome in outcomes])
    left.grid(axis="y", color="lightgrey", linewidth=0.6)
    left.invert_yaxis()
    left.set_xlabel("test AUC (stroke: mean, dots: seeds)")
    right.barh(places, [one.difference for one in figures], xerr=_halves(figures), color=LIGHT_BLUE, capsize=3)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel(_difference_label(outcomes))
    _save(figure, path)


def plot_training(result: Result, path: Path) -> None:
    """The course of one training: AUC on valid, the best possible one if it is known, and the mean training loss."""
    figure = _figure(8, 4)
    axes = figure.subplots()
    epochs = [entry["epoch"] for entry in result.curve]
    auc = [entry["valid"].get("AUC") for entry in result.curve]
    axes.plot(epochs, auc, "o-", color=BLUE, markersize=4, label="valid AUC")
    if "valid" in result.best_possible:
        axes.axhline(result.best_possible["valid"], color="black", linewidth=0.8, linestyle="--", label="best possible")
    axes.set_xlabel("epoch")
    axes.set_ylabel("valid AUC")
    loss = axes.twinx()
    loss.plot(epochs, [entry["train_loss"] for entry in result.curve], ".-", color=ORANGE, label="training loss")
    loss.set_ylabel("training loss")
    handles = [*axes.get_legend_handles_labels()[0], *loss.get_legend_handles_labels()[0]]
    axes.legend(handles, [handle.get_label() for handle in handles], fontsize=8, loc="center right")
    axes.set_title(f"{result.expid} on {result.dataset_id}", fontsize=10)
    _save(figure, path)


def plot_curve(outcomes: Sequence[Outcome], x: Sequence[float], label: str, path: Path) -> None:
    """The same over a number: left test AUC with its standard deviation, right the paired difference."""
    figure = _figure(12, 4.5)
    left, right = figure.subplots(1, 2)
    figures = _auc(outcomes)
    style: dict[str, Any] = {"color": ORANGE, "capsize": 3, "marker": "o", "markersize": 4}
    left.errorbar(x, [one.mean for one in figures], yerr=[one.std or 0 for one in figures], **style)
    for place, outcome in zip(x, outcomes):
        left.plot([place] * len(outcome.results), outcome.values("AUC"), "k.", markersize=3)
    left.set_ylabel("test AUC (mean ± std, dots: seeds)")
    right.errorbar(x, [one.difference for one in figures], yerr=_halves(figures), **style)
    right.axhline(0, color="black", linewidth=0.8)
    right.set_ylabel(_difference_label(outcomes))
    for axes in (left, right):
        if min(x) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{place:g}" for place in x])
        axes.set_xlabel(label)
    _save(figure, path)


def plot_sweep(
    title: str,
    metric: str,
    valid: Sequence[float],
    test: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
) -> None:
    """Left the finished runs in order, right a panel per swept key: what each value gave.

    Args:
        metric: name of what is on the axes.
        valid: one value per run, the best one first.
        test: the same runs on test; empty where there is none.
        panels: swept key -> value -> those of ``valid`` that it took part in.
    """
    sizes = [len(panel) for panel in panels.values()]
    figure = _figure(13 if panels else 6, max(4.5, 0.7 * len(panels) + 0.33 * sum(sizes)))
    parts: Any = figure.subfigures(1, 2) if panels else [figure]
    axes = parts[0].subplots()
    ranks = range(1, len(valid) + 1)
    if test:
        axes.plot(ranks, test, "o", color=ORANGE, ms=4, label="test (not used for the order)")
    axes.plot(ranks, valid, "o", color=BLUE, ms=4, label="valid")
    axes.set_xlabel("rank on valid")
    axes.set_ylabel(metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    axes.set_title(title, fontsize=10)
    if panels:
        column = parts[1].subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        for axes, (key, scores) in zip(column, panels.items()):
            _panel(axes, scores)
            axes.set_title(key, fontsize=9, loc="left")
        column[-1].set_xlabel(f"valid {metric} (line: mean)")
    _save(figure, path)


def _panel(axes: Any, scores: Mapping[str, Sequence[float]]) -> None:
    for y, mine in enumerate(scores.values()):
        axes.plot(mine, [y] * len(mine), "o", color=BLUE, ms=4, alpha=0.55)
        if mine:
            axes.plot([statistics.mean(mine)] * 2, [y - 0.3, y + 0.3], color=ORANGE, lw=2)
    axes.set_yticks(range(len(scores)), list(scores), fontsize=8)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def _auc(outcomes: Sequence[Outcome]) -> list[Estimate]:
    return [compare(outcome.values("AUC"), outcomes[0].values("AUC")) for outcome in outcomes]


def _halves(figures: Sequence[Estimate]) -> list[float] | None:
    """Half the width of each interval; ``None`` for one seed."""
    halves = [one.high - one.difference for one in figures if one.high is not None]
    return halves or None


def _difference_label(outcomes: Sequence[Outcome]) -> str:
    interval = ", 95 % interval" if len(outcomes[0].results) > 1 else ""
    return f"test AUC minus that of {outcomes[0].name!r}{interval}"


def _figure(width: float, height: float) -> Any:
    """A figure of its own, outside pyplot: drawn by Agg, with nothing to close."""
    return needs("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
