"""A study -> its section: metrics, differences, curves, item frequency, PCA."""

import math
from collections.abc import Callable
from dataclasses import replace

from markupsafe import Markup

from fuxictr_mm.report.charts import Bar, difference_bars
from fuxictr_mm.report.records import Estimate, Study, Variant
from fuxictr_mm.report.study_details import frequency_part, number_part, training_part, variance_part
from fuxictr_mm.report.view import Cell, Figure, Part, Section, Table, count, number, number_cell, origin, pairs

__all__ = ["study_section"]

NAN = float("nan")
LOWER_IS_BETTER = ("logloss", "binary_crossentropy")
SIGNS = {"better": "✓", "worse": "✗"}


def study_section(study: Study) -> Section:
    split = "test" if any(variant.summary.get("test") for variant in study.variants) else "valid"
    parts = [
        _metrics_part(study, split),
        _differences_part(study, split),
        number_part(study, split),
        training_part(study),
    ]
    parts += [frequency_part(study, name) for name in ("test", "valid")]
    parts.append(variance_part(study))
    seeds = ", ".join(study.seeds)
    where = origin(study.about, ("seeds", seeds), ("data", study.dataset_id), ("base experiment", study.base_expid))
    subtitle = count(len(study.variants), "variant") + (f", {count(len(study.seeds), 'seed')}" if seeds else "")
    is_on_one = study.dataset_id and ", " not in study.dataset_id
    title = f"{study.name} on {study.dataset_id}" if is_on_one else study.name
    return Section("study", title, subtitle, study.about, where, [part for part in parts if part], _warnings(study))


def _warnings(study: Study) -> list[tuple[str, str]]:
    """Each sentence once per variant, with the seeds that it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for variant in study.variants:
        for run in variant.runs:
            for warning in run.warnings:
                found.setdefault((variant.name, warning), []).append(run.seed)
    lines = []
    for (name, warning), seeds in found.items():
        words = f", seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if any(seeds) else ""
        lines.append((name + words, warning))
    return lines


def _reference(study: Study) -> str:
    return f"{study.over} {study.variants[0].name}".strip()


def _tone(metric: str, estimate: Estimate) -> str:
    """better or worse where the interval excludes 0, unclear where it does not, empty without an interval."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    if estimate.low <= 0 <= estimate.high:
        return "unclear"
    return "better" if (estimate.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _interval(estimate: Estimate) -> str:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"[{number(estimate.low, '+.4f')}, {number(estimate.high, '+.4f')}]"


def _difference_text(estimate: Estimate) -> str:
    return f"{number(estimate.difference, '+.4f')} {_interval(estimate)}".strip()


def _best(study: Study, split: str, metric: str) -> float:
    means = [variant.estimate(split, metric).mean for variant in study.variants]
    finite = [mean for mean in means if math.isfinite(mean)]
    if len(set(finite)) < 2:
        return NAN
    return min(finite) if metric in LOWER_IS_BETTER else max(finite)


def _metrics_part(study: Study, split: str) -> Part:
    metrics = study.metric_names(split)
    columns: list[tuple[str, Callable[[int, Variant], Cell]]] = []
    for metric in metrics:
        columns.append((f"{split}\N{NO-BREAK SPACE}{metric}", _mean_cell(study, split, metric)))
        if len(study.variants) > 1:
            columns.append((f"Δ\N{NO-BREAK SPACE}{metric}", _difference_cell(split, metric)))
    if split == "test":
        columns += [
            (f"valid\N{NO-BREAK SPACE}{m}", _mean_cell(study, "valid", m))
            for m in study.metric_names("valid")
            if m == "AUC"
        ]
    columns.append(("parameters", lambda _, variant: number_cell(variant.parameters, ",.0f")))
    columns.append(("train\N{NO-BREAK SPACE}s", lambda _, variant: number_cell(variant.train_seconds, ",.0f")))
    if any(math.isfinite(variant.latency_ms) for variant in study.variants):
        columns.append(("p50\N{NO-BREAK SPACE}ms", lambda _, variant: number_cell(variant.latency_ms, ".3g")))
    rows = [
        [
            Cell(variant.name, below=pairs(variant.overrides)),
            *(column(place, variant) for _, column in columns),
        ]
        for place, variant in enumerate(study.variants)
    ]
    note = "± is the standard deviation over seeds. " if len(study.seeds) > 1 else ""
    if len(study.variants) > 1:
        note += f"★ marks the best mean of its column. Δ is the difference to {_reference(study)}, paired by seed"
        if any(_tone(m, v.estimate(split, m)) for v in study.variants[1:] for m in metrics):
            note += (
                ", with its 95 % interval; ✓ better, ✗ worse: the interval excludes 0 (each comparison by itself, "
                "not corrected for their number)."
            )
        else:
            note += "; without a second seed there is no interval, so no difference is marked."
    if any(math.isfinite(variant.latency_ms) for variant in study.variants):
        note += " p50 ms: median time to rank the candidates of one user."
    return Part(
        "Metrics",
        note,
        tables=[Table(f"{study.name}: metrics by variant", ["variant", *(c[0] for c in columns)], rows)],
    )


def _mean_cell(study: Study, split: str, metric: str) -> Callable[[int, Variant], Cell]:
    best = _best(study, split, metric)

    def cell(_: int, variant: Variant) -> Cell:
        estimate = variant.estimate(split, metric)
        spread = f"± {number(estimate.std)}" if math.isfinite(estimate.std) else ""
        return number_cell(estimate.mean, best=estimate.mean == best, below=spread)

    return cell


def _difference_cell(split: str, metric: str) -> Callable[[int, Variant], Cell]:
    def cell(place: int, variant: Variant) -> Cell:
        if place == 0:
            return Cell("reference")
        estimate = variant.estimate(split, metric)
        tone = _tone(metric, estimate)
        cell = number_cell(estimate.difference, "+.4f", tone=tone, below=_interval(estimate))
        return replace(cell, text=f"{SIGNS[tone]} {cell.text}") if tone in SIGNS else cell

    return cell


def _differences_part(study: Study, split: str) -> Part | None:
    others = study.variants[1:]
    figures = []
    for metric in study.metric_names(split):
        estimates = [(variant, variant.estimate(split, metric)) for variant in others]
        if not any(math.isfinite(estimate.difference) for _, estimate in estimates):
            continue
        bars = [
            Bar(v.name, e.difference, e.low, e.high, _tone(metric, e), _difference_text(e)) for v, e in estimates
        ]  # fmt: skip
        alt = f"Difference of {split} {metric} to {_reference(study)}: " + "; ".join(
            f"{bar.name} {bar.text}" for bar in bars
        )
        direction = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        figures.append(Figure(f"{split} {metric} ({direction})", difference_bars(bars, alt)))
    if not figures:
        return None
    swatches = [("better", "better, interval excludes 0"), ("worse", "worse, interval excludes 0")]
    swatches += [("unclear", "interval includes 0"), ("single", "no interval")]
    legend = [(Markup('<span class="box {}"></span>').format(tone), words) for tone, words in swatches]
    note = "Bars are mean differences, whiskers their 95 % intervals."
    return Part(f"Differences to {_reference(study)}", note, figures, legend)
