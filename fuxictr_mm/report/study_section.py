"""A study -> its section: metrics, differences, curves, item frequency, PCA."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from fuxictr_mm.report.charts import Bar, difference_bars
from fuxictr_mm.report.records import About
from fuxictr_mm.report.study_details import (
    estimate_of,
    frequency_part,
    metric_names,
    number_part,
    training_part,
    variance_part,
)
from fuxictr_mm.report.view import (
    Cell,
    Figure,
    Part,
    Section,
    Table,
    count,
    is_finite,
    number,
    number_cell,
    origin,
    pairs,
)
from fuxictr_mm.study.records import Estimate, StudyRecord, VariantRecord

__all__ = ["study_section"]

NAN = float("nan")
LOWER_IS_BETTER = ("logloss", "binary_crossentropy")
SIGNS = {"better": "✓", "worse": "✗"}


def study_section(about: About, study: StudyRecord) -> Section:
    split = "test" if any(variant.summary.get("test") for variant in study.variants) else "valid"
    parts = [
        _metrics_part(study, split),
        _differences_part(study, split),
        number_part(study, split),
        training_part(study),
    ]
    parts += [frequency_part(study, name) for name in ("test", "valid")]
    parts.append(variance_part(study))
    seeds = ", ".join(map(str, study.seeds))
    where = origin(about, ("seeds", seeds), ("data", study.dataset_id), ("base experiment", study.base_expid))
    subtitle = count(len(study.variants), "variant") + (f", {count(len(study.seeds), 'seed')}" if seeds else "")
    is_on_one = study.dataset_id and ", " not in study.dataset_id
    title = f"{study.study} on {study.dataset_id}" if is_on_one else study.study
    return Section("study", title, subtitle, about, where, [part for part in parts if part], _warnings(study))


def _warnings(study: StudyRecord) -> list[tuple[str, str]]:
    """Each sentence once, with the runs that it is about."""
    found: dict[str, dict[str, list[int | None]]] = {}  # sentence -> variant -> seeds
    for variant in study.variants:
        for run in variant.runs:
            for warning in run.warnings:
                found.setdefault(warning, {}).setdefault(variant.name, []).append(run.seed)
    return [(_whose(runs), warning) for warning, runs in found.items()]


def _whose(runs: Mapping[str, Sequence[int | None]]) -> str:
    """A variant with its seeds; of several, how many runs they are, and the first three by name."""
    names = []
    for name, found in runs.items():
        seeds = ", ".join(str(seed) for seed in found if seed is not None)
        names.append(f"{name}, seed{'s' if len(found) > 1 else ''} {seeds}" if seeds else name)
    if len(names) == 1:
        return names[0]
    more = f"; {len(names) - 3} more" if len(names) > 3 else ""
    return f"{sum(map(len, runs.values()))} runs ({'; '.join(names[:3])}{more})"


def _reference(study: StudyRecord) -> str:
    return f"{study.over or ''} {study.variants[0].name}".strip()


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    low, high = estimate.low, estimate.high
    return (low, high) if is_finite(low) and is_finite(high) else None


def _tone(metric: str, estimate: Estimate) -> str:
    """better or worse where the interval excludes 0, unclear where it does not, empty without an interval."""
    if (interval := _interval(estimate)) is None:
        return ""
    if interval[0] <= 0 <= interval[1]:
        return "unclear"
    return "better" if (estimate.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _interval_text(estimate: Estimate) -> str:
    interval = _interval(estimate)
    return f"[{number(interval[0], '+.4f')}, {number(interval[1], '+.4f')}]" if interval else ""


def _difference_text(estimate: Estimate) -> str:
    return f"{number(estimate.difference, '+.4f')} {_interval_text(estimate)}".strip()


def _best(study: StudyRecord, split: str, metric: str) -> float:
    means = [estimate_of(variant, split, metric).mean for variant in study.variants]
    finite = [mean for mean in means if is_finite(mean)]
    if len(set(finite)) < 2:
        return NAN
    return min(finite) if metric in LOWER_IS_BETTER else max(finite)


def _metrics_part(study: StudyRecord, split: str) -> Part:
    metrics = metric_names(study, split)
    columns: list[tuple[str, Callable[[int, VariantRecord], Cell]]] = []
    for metric in metrics:
        columns.append((f"{split}\N{NO-BREAK SPACE}{metric}", _mean_cell(study, split, metric)))
        if len(study.variants) > 1:
            columns.append((f"Δ\N{NO-BREAK SPACE}{metric}", _difference_cell(split, metric)))
    if split == "test":
        columns += [
            (f"valid\N{NO-BREAK SPACE}{m}", _mean_cell(study, "valid", m))
            for m in metric_names(study, "valid")
            if m == "AUC"
        ]
    columns.append(("parameters", lambda _, variant: number_cell(variant.parameters, ",.0f")))
    columns.append(("train\N{NO-BREAK SPACE}s", lambda _, variant: number_cell(variant.train_seconds, ",.0f")))
    if any(is_finite(variant.latency_p50_ms) for variant in study.variants):
        columns.append(("p50\N{NO-BREAK SPACE}ms", lambda _, variant: number_cell(variant.latency_p50_ms, ".3g")))
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
        if any(_tone(m, estimate_of(v, split, m)) for v in study.variants[1:] for m in metrics):
            note += (
                ", with its 95 % interval; ✓ better, ✗ worse: the interval excludes 0 (each comparison by itself, "
                "not corrected for their number)."
            )
        else:
            note += "; without a second seed there is no interval, so no difference is marked."
    if any(is_finite(variant.latency_p50_ms) for variant in study.variants):
        note += " p50 ms: median time to rank the candidates of one user."
    return Part(
        "Metrics",
        note,
        tables=[Table(f"{study.study}: metrics by variant", ["variant", *(c[0] for c in columns)], rows)],
    )


def _mean_cell(study: StudyRecord, split: str, metric: str) -> Callable[[int, VariantRecord], Cell]:
    best = _best(study, split, metric)

    def cell(_: int, variant: VariantRecord) -> Cell:
        estimate = estimate_of(variant, split, metric)
        spread = f"± {number(estimate.std)}" if is_finite(estimate.std) else ""
        return number_cell(estimate.mean, best=estimate.mean == best, below=spread)

    return cell


def _difference_cell(split: str, metric: str) -> Callable[[int, VariantRecord], Cell]:
    def cell(place: int, variant: VariantRecord) -> Cell:
        if place == 0:
            return Cell("reference")
        estimate = estimate_of(variant, split, metric)
        tone = _tone(metric, estimate)
        cell = number_cell(estimate.difference, "+.4f", tone=tone, below=_interval_text(estimate))
        return replace(cell, text=f"{SIGNS[tone]} {cell.text}") if tone in SIGNS else cell

    return cell


def _differences_part(study: StudyRecord, split: str) -> Part | None:
    others = study.variants[1:]
    figures = []
    for metric in metric_names(study, split):
        estimates = [(variant, estimate_of(variant, split, metric)) for variant in others]
        if not any(is_finite(estimate.difference) for _, estimate in estimates):
            continue
        bars = [
            Bar(v.name, e.difference, _interval(e), _tone(metric, e), _difference_text(e)) for v, e in estimates
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
