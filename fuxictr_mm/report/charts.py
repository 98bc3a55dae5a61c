"""Charts as inline SVG: they take their colours from the page's style sheet, so they follow light and dark.

Each function returns one ``<svg>`` of ``WIDTH`` units with its description in words. Markup.format escapes names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["LARGE", "Bar", "Line", "difference_bars", "dot_rows", "line_chart", "scree", "swatch"]

WIDTH = 330
LARGE = 460  # the width of the few that deserve it
LEFT = 46  # of the plotting area of line charts; the tick labels stand there
ROW = 36  # height of a row: its words above, its mark below
STYLES = 24  # 8 colours, each in 3 kinds of dashes


@dataclass(frozen=True)
class Bar:
    """A row of :func:`difference_bars`; ``tone`` is better, worse, unclear, or empty without an interval."""

    name: str
    value: float
    interval: tuple[float, float] | None
    tone: str
    text: str


@dataclass(frozen=True)
class Line:
    """A line of :func:`line_chart`; NaN in a point leaves a gap. ``thin``: a single seed behind its mean."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    thin: bool = False


class Axis:
    """Values -> units of the drawing, linear or logarithmic, a little beyond ``values`` at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> None:
        self.logarithmic = logarithmic
        # Clipped, so that the span of any two floats is a float.
        inner = [max(-1e300, min(1e300, self._inner(v))) for v in values if math.isfinite(v)] or [0.0]
        low, high = min(inner), max(inner)
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def _inner(self, value: float) -> float:
        return math.log2(value) if self.logarithmic else value

    def __call__(self, value: float) -> float:
        share = (self._inner(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[tuple[float, str]]:
        """Round values with their labels; only for linear axes."""
        raw = (self.high - self.low) / about
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(n * step, f"{n * step:,.{digits}f}".replace("-", "−")) for n in numbers]


def _svg(height: float, alt: str, parts: Sequence[Markup], width: int = WIDTH) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, round(height), alt, Markup("").join(parts)
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _words(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, text)


def _dot(x: float, y: float, radius: float, kind: str, tip: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle>').format(
        x, y, radius, kind, tip
    )


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _row_head(name: str, text: str, top: float) -> list[Markup]:
    tip = Markup("<title>{}</title>").format(name)
    room = 48 - len(text)  # letters in WIDTH
    label = Markup('<text x="0" y="{:.1f}" class="name">{}{}</text>').format(top + 12, tip, shorten(name, room))
    return [label, _words(WIDTH, top + 12, text, "value", "end")]


def _rows_with_scale(axis: Axis, count: int) -> list[Markup]:
    """The scale below ``count`` rows; its lines are interrupted where the rows have their words."""
    height = ROW * count + 4
    parts = [_line(axis.start, height, axis.end, height, "axis")]
    for value, label in axis.ticks():
        x = axis(value)
        parts.append(_words(x, height + 15, label, "tick", "middle"))
        parts += [_line(x, row * ROW + 16, x, row * ROW + 32, "grid") for row in range(count)]
    return parts


def difference_bars(rows: Sequence[Bar], alt: str) -> Markup:
    """A bar from 0 per row, with its interval as a whisker."""
    finite = [v for row in rows for v in (row.value, *(row.interval or ())) if math.isfinite(v)]
    axis = Axis([0.0, *finite], 20, WIDTH - 20)
    parts = _rows_with_scale(axis, len(rows))
    for number, row in enumerate(rows):
        top = number * ROW
        parts += [*_row_head(row.name, row.text, top), _line(axis(0), top + 16, axis(0), top + 32, "zero")]
        if math.isfinite(row.value):
            x, zero = axis(row.value), axis(0)
            parts.append(
                Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10" class="bar {}"/>').format(
                    min(x, zero), top + 19, abs(x - zero), row.tone or "single"
                )
            )
        if row.interval:
            low, high = map(axis, row.interval)
            parts += [_line(low, top + 24, high, top + 24, "whisker")]
            parts += [_line(end, top + 20, end, top + 28, "whisker") for end in (low, high)]
    return _svg(ROW * len(rows) + 24, alt, parts)


def dot_rows(rows: Sequence[tuple[str, str, Sequence[float]]], span: Sequence[float], alt: str) -> Markup:
    """A row of dots per (name, text, values), one per value, and a tick at their mean.

    Args:
        span: values that the axis covers, so that panels side by side have the same one.
    """
    axis = Axis(span, 20, WIDTH - 20)
    parts = _rows_with_scale(axis, len(rows))
    for number, (name, text, values) in enumerate(rows):
        top = number * ROW
        parts += _row_head(name, text, top)
        finite = [value for value in values if math.isfinite(value)]
        parts += [_dot(axis(value), top + 24, 3.5, "dot", f"{name}: {value}") for value in finite]
        if finite:
            mean = axis(sum(finite) / len(finite))
            parts.append(_line(mean, top + 17, mean, top + 31, "mean"))
    return _svg(ROW * len(rows) + 24, alt, parts)


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    alt: str,
    x_ticks: Sequence[float] | None = None,
    width: int = WIDTH,
) -> Markup:
    """Lines over a number.

    Args:
        x_ticks: where the x axis has its numbers; by default at round ones. A logarithmic axis is taken for ticks that
            are positive and span a factor of 16 or more.
    """
    points = [(x, y) for line in lines for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
    bottom = 200 if width == WIDTH else 240
    logarithmic = bool(x_ticks) and min(x_ticks or [0]) > 0 and max(x_ticks or [0]) >= 16 * min(x_ticks or [1])
    x_axis = Axis([x for x, _ in points], LEFT, width - 10, logarithmic)
    y_axis = Axis([y for _, y in points], bottom, 18)
    parts = [_words(0, 10, y_label, "label"), _words(width - 10, bottom + 33, x_label, "label", "end")]
    for value, label in y_axis.ticks():
        y = y_axis(value)
        parts += [_line(LEFT, y, width - 10, y, "grid"), _words(LEFT - 6, y + 4, label, "tick", "end")]
    free = -math.inf  # where the last label ends
    for value, label in x_axis.ticks() if x_ticks is None else [(x, f"{x:g}") for x in sorted(set(x_ticks))]:
        x = x_axis(value)
        parts.append(_line(x, bottom, x, bottom + 4, "axis"))
        if x - 4 * len(label) > free:
            parts.append(_words(x, bottom + 17, label, "tick", "middle"))
            free = x + 4 * len(label)
    parts.append(_line(LEFT, bottom, width - 10, bottom, "axis"))
    for line in sorted(lines, key=lambda line: not line.thin):  # means above their seeds
        parts += _draw(line, x_axis, y_axis)
    return _svg(bottom + 40, alt, parts, width)


def _draw(line: Line, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    kind = f"{'thin' if line.thin else 'line'} {style(line.style)}"
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    drawn = []
    for piece in pieces:
        steps = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in piece)
        if len(piece) > 1:
            tip = Markup("<title>{}</title>").format(line.name)
            drawn.append(Markup('<polyline points="{}" class="{}">{}</polyline>').format(steps, kind, tip))
        if not line.thin and (len(piece) == 1 or len(line.points) <= 6):
            drawn += [
                _dot(x_axis(x), y_axis(y), 3, f"dot {style(line.style)}", f"{line.name}: {y} at {x:g}")
                for x, y in piece
            ]
        elif line.thin and len(piece) == 1:
            drawn.append(_dot(x_axis(piece[0][0]), y_axis(piece[0][1]), 2, f"dot faint {style(line.style)}", line.name))
    return drawn


def scree(ratios: Sequence[float], alt: str) -> Markup:
    """A column per principal component: its share of the variance."""
    bottom = 160
    axis = Axis([0.0, *ratios], bottom, 18)
    axis.low = 0.0
    parts = [_words(0, 10, "share of variance", "label"), _words(WIDTH - 10, bottom + 33, "component", "label", "end")]
    for value, label in axis.ticks():
        parts += [
            _line(LEFT, axis(value), WIDTH - 10, axis(value), "grid"),
            _words(LEFT - 6, axis(value) + 4, label, "tick", "end"),
        ]
    width = (WIDTH - 10 - LEFT) / max(1, len(ratios))
    every = math.ceil(len(ratios) / 8)
    for number, ratio in enumerate(ratios, start=1):
        x = LEFT + (number - 1) * width
        if math.isfinite(ratio):
            parts.append(
                Markup(
                    '<rect x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}" class="bar s0"><title>{}</title></rect>'
                ).format(
                    x + 0.1 * width, axis(ratio), 0.8 * width, bottom - axis(ratio), f"component {number}: {ratio}"
                )
            )
        if (number - 1) % every == 0:
            parts.append(_words(x + width / 2, bottom + 17, str(number), "tick", "middle"))
    parts.append(_line(LEFT, bottom, WIDTH - 10, bottom, "axis"))
    return _svg(bottom + 40, alt, parts)


def style(number: int) -> str:
    """Classes of the n-th line: a colour and, when those are used up, another kind of dashes."""
    number %= STYLES
    return f"s{number % 8} d{number // 8}"


def swatch(number: int) -> Markup:
    """What stands before a name in a legend."""
    return Markup('<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{}</svg>').format(
        _line(1, 5, 27, 5, f"line {style(number)}")
    )
