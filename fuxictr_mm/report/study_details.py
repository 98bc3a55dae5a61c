"""What lies behind a study's figures: curves over its number and over training, item frequency, PCA."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from fuxictr_mm.report.charts import LARGE, Line, dot_rows, line_chart, scree, swatch
from fuxictr_mm.report.view import DASH, Cell, Figure, Part, Table, count, is_finite, number, number_cell
from fuxictr_mm.study.records import CurvePoint, Estimate, RunRecord, StudyRecord, VariantRecord

__all__ = ["estimate_of", "frequency_part", "metric_names", "number_part", "training_part", "variance_part"]

NAN = float("nan")
METRICS = ("AUC", "gAUC", "logloss")  # the usual ones
GROUPS = ("cold", "rare", "warm")
UNKNOWN = Estimate(mean=NAN, std=None, difference=NAN, low=None, high=None)


def metric_names(study: StudyRecord, split: str) -> list[str]:
    """The usual ones first."""
    found = dict.fromkeys(name for variant in study.variants for name in variant.summary.get(split, {}))
    return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]


def estimate_of(variant: VariantRecord, split: str, metric: str) -> Estimate:
    return variant.summary.get(split, {}).get(metric, UNKNOWN)


def number_part(study: StudyRecord, split: str) -> Part | None:
    placed = sorted(((v.x, v) for v in study.variants if is_finite(v.x)), key=lambda pair: pair[0])
    if len(placed) < 2:
        return None
    label = study.over or study.study
    figures = []
    for metric in metric_names(study, split):
        means = [(x, estimate_of(v, split, metric).mean) for x, v in placed]
        if not any(math.isfinite(y) for _, y in means):
            continue
        lines = [Line(f"mean {split} {metric}", means, 0)]
        for seed in dict.fromkeys(run.seed for _, v in placed for run in v.runs):
            points = [(x, getattr(r, split).get(metric, NAN)) for x, v in placed for r in v.runs if r.seed == seed]
            lines += [Line(f"seed {seed}", points, 0, thin=True)] if len(study.seeds) > 1 else []
        alt = f"{split} {metric} over {label}: " + "; ".join(f"{x:g} gives {number(y)}" for x, y in means)
        figures.append(Figure(f"{split} {metric}", line_chart(lines, label, metric, alt, [x for x, _ in placed])))
    note = f"The number of each variant that has one; thick: mean over {count(len(study.seeds), 'seed')}"
    note += ", thin: each seed." if len(study.seeds) > 1 else "."
    return Part(f"Over {label}", note, figures) if figures else None


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds, at the steps that every seed has (a seed that stopped early does not bend the mean)."""
    if not curves:
        return []
    by_step = [dict(curve) for curve in curves]
    shared = [step for step, _ in curves[0] if all(step in other for other in by_step)]
    return [(step, statistics.fmean(curve[step] for curve in by_step)) for step in shared]


def training_part(study: StudyRecord) -> Part | None:
    readings: list[tuple[str, Callable[[CurvePoint], float]]] = [
        ("train loss", lambda point: point.train_loss),
        ("valid AUC", lambda point: point.valid.get("AUC", NAN)),
    ]
    figures = []
    for label, reading in readings:
        lines = []
        for place, variant in enumerate(study.variants):
            curves = [[(float(point.step), reading(point)) for point in run.curve] for run in variant.runs if run.curve]
            if len(curves) > 1:
                lines += [Line(f"{variant.name}, one seed", curve, place, thin=True) for curve in curves]
            lines.append(Line(variant.name, mean_curve(curves), place))
        ends = [(line.name, [y for _, y in line.points if math.isfinite(y)]) for line in lines if not line.thin]
        if not any(math.isfinite(y) for line in lines for _, y in line.points):
            continue
        alt = f"{label} over training steps: " + "; ".join(
            f"{name} from {number(values[0])} to {number(values[-1])}" for name, values in ends if values
        )
        figures.append(Figure(label, line_chart(lines, "step", label, alt, width=LARGE)))
    if not figures:
        return None
    legend = [(swatch(place), variant.name) for place, variant in enumerate(study.variants)]
    note = "One line per variant: thick the mean over seeds (at the steps that all of them have), thin each seed."
    return Part("Training curves", note, figures, legend, large=True)


def frequency_part(study: StudyRecord, split: str) -> Part | None:
    found = dict.fromkeys(g for v in study.variants for run in v.runs for g in run.by_frequency.get(split, {}))
    groups = [g for g in GROUPS if g in found] + [g for g in found if g not in GROUPS]
    if not groups:
        return None
    columns = ("rows", *METRICS)
    rows = [
        [Cell(variant.name), *(_group_cell(variant.runs, split, g, column) for g in groups for column in columns)]
        for variant in study.variants
    ]
    heads = [(f"{group}{_items(study, split, group)}", len(columns)) for group in groups]
    table = Table(
        f"{study.study}: {split} metrics by item frequency", ["variant", *(columns * len(groups))], rows, heads
    )
    values = {g: [[_group_value(r, split, g, "AUC") for r in v.runs] for v in study.variants] for g in groups}
    span = [y for by_variant in values.values() for ys in by_variant for y in ys if math.isfinite(y)]
    figures = []
    for group in groups if span else ():
        lines = [
            (v.name, _group_cell(v.runs, split, group, "AUC").text, ys) for v, ys in zip(study.variants, values[group])
        ]
        alt = f"{split} AUC on {group} items: " + "; ".join(f"{name} {text}" for name, text, _ in lines)
        figures.append(Figure(f"{split} AUC, {group} items", dot_rows(lines, span, alt)))
    note = "Target items by clicks in train: cold 0, rare 1 to 4, warm 5 or more. Dots: seeds, tick: their mean."
    return Part(f"By item frequency, {split}", note, figures, tables=[table], folded=split == "valid")


def _group_value(run: RunRecord, split: str, group: str, column: str) -> float:
    value = run.by_frequency.get(split, {}).get(group, {}).get(column)
    return NAN if value is None else value


def _items(study: StudyRecord, split: str, group: str) -> str:
    counts = {_group_value(run, split, group, "items") for variant in study.variants for run in variant.runs}
    known = {int(count) for count in counts if math.isfinite(count)}
    return f" ({known.pop():,} items)" if len(known) == 1 else ""


def _group_cell(runs: Sequence[RunRecord], split: str, group: str, column: str) -> Cell:
    values = [v for v in (_group_value(run, split, group, column) for run in runs) if math.isfinite(v)]
    if not values:
        return Cell(DASH)
    mean = statistics.fmean(values)
    if column == "rows":
        return number_cell(mean, ",.0f")
    spread = f"± {number(statistics.stdev(values))}" if len(values) > 1 else ""
    some = f" {len(values)} of {len(runs)} seeds" if len(values) < len(runs) else ""
    return number_cell(mean, below=spread + some)


def variance_part(study: StudyRecord) -> Part | None:
    spectra: dict[tuple[str, str], list[tuple[list[float], list[str]]]] = {}
    for variant in study.variants:
        for column, modalities in variant.explained_variance.items():
            for modality, ratios in modalities.items():
                known = spectra.setdefault((column, modality), [])
                same = next((names for other, names in known if other == ratios), None)
                if same is not None:
                    same.append(variant.name)
                elif ratios:
                    known.append((ratios, [variant.name]))
    curves = [(*key, ratios, names) for key, found in spectra.items() for ratios, names in _widest(found)]
    if not curves:
        return None
    figures, lines, legend = [], [], []
    for place, (column, modality, ratios, names) in enumerate(curves):
        whose = ""
        if len(spectra[column, modality]) > 1:
            whose = f" ({', '.join(names) if len(names) < 4 else count(len(names), 'variant')})"
        title = f"{column}: {modality}{whose}"
        first, total = (number(sum(r for r in some if math.isfinite(r)), ".1%") for some in (ratios[:1], ratios))
        alt = f"Scree plot of {title}: component 1 explains {first}, all {len(ratios)} {total}"
        figures.append(Figure(f"{title}, all {len(ratios)}: {total}", scree(ratios, alt)))
        sums = [(n, sum(ratios[:n])) for n in range(1, len(ratios) + 1)]
        lines.append(Line(title, sums, place))
        legend.append((swatch(place), title))
    alt = "Share of variance kept by the first components: " + "; ".join(
        f"{x.name} {number(x.points[-1][1], '.1%')}" for x in lines
    )
    figures.append(Figure("kept by the first n components", line_chart(lines, "n", "share of variance", alt)))
    note = "Explained variance of each modality's PCA; one that begins another is drawn once, as the wider one."
    return Part("PCA", note, figures, legend)


def _widest(found: Iterable[tuple[list[float], list[str]]]) -> list[tuple[list[float], list[str]]]:
    """Leave out spectra that are the beginning of another one (the same PCA, cut earlier); their names move there."""
    kept: list[tuple[list[float], list[str]]] = []
    for ratios, names in sorted(found, key=lambda pair: -len(pair[0])):
        for wider, others in kept:
            if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(ratios, wider)):
                others.extend(names)
                break
        else:
            kept.append((ratios, list(names)))
    return kept
