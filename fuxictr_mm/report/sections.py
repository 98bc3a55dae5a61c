"""Results -> sections of the page: studies, attention, benchmarks, documents."""

import math
from collections.abc import Sequence
from pathlib import Path

from fuxictr_mm.report.records import About, Benchmark, Document, Explanation, Found, Head, Looked, Row
from fuxictr_mm.report.study_section import study_section
from fuxictr_mm.report.view import (
    DASH,
    Cell,
    Part,
    Section,
    Table,
    count,
    is_finite,
    number,
    number_cell,
    origin,
    pairs,
    plain,
)
from fuxictr_mm.study.records import StudyRecord

__all__ = ["section"]

# Of a head: column -> form of its numbers.
FORMS = {
    "layer": ".0f", "head": ".0f", "rows": ",.0f", "entropy": ".4f", "entropy_uniform": ".4f", "of_uniform": ".1%",
    "share_on_padding": ".2%", "moved_by_target": ".4f",
}  # fmt: skip


def section(found: Found) -> Section:
    """The section of one result."""
    about, content = found.about, found.content
    if isinstance(content, StudyRecord):
        return study_section(about, content)
    if isinstance(content, Explanation):
        return _explanation(about, content)
    if isinstance(content, Benchmark):
        return _benchmark(about, content)
    return _document(about, content)


def _explanation(about: About, explanation: Explanation) -> Section:
    experiments = explanation.experiments
    parts = [_heads(experiments)] if any(one.summary for one in experiments) else []
    for place, row in enumerate(explanation.rows):
        same = [(one, one.rows[place]) for one in experiments if place < len(one.rows)]
        tables = [_shares(one.expid, seen) for one, seen in same if seen.history]
        note = (
            "Oldest first; the darker, the larger the share of the attention (full shade: this table's largest share)."
        )
        parts.append(Part(_title(row), note if tables else "The history is empty.", tables=tables, folded=place > 0))
    expids = " and ".join(one.expid for one in experiments)
    where = origin(about, ("data", explanation.dataset_id), ("experiment", expids))
    title = f"Attention of {expids} on {explanation.dataset_id}"
    return Section("attention", title, count(len(explanation.rows), "row"), about, where, parts)


def _title(row: Row) -> str:
    label = "" if row.label is None else f", label {row.label}"
    return f"{row.split}, row {row.row}, target {row.target}{label}"


def _heads(experiments: Sequence[Looked]) -> Part:
    rows = [[Cell(one.expid), *_head_cells(head)] for one in experiments for head in one.summary]
    note = "Mean entropy in nats; at 100 % of the uniform entropy a head gives every history item the same share."
    names = ["experiment", *(name.replace("_", " ") for name in FORMS)]
    return Part("Heads", note, tables=[Table("attention by layer and head", names, rows)])


def _head_cells(head: Head) -> list[Cell]:
    ratio = head.entropy / head.entropy_uniform if head.entropy_uniform else None
    values = {**head.model_dump(), "of_uniform": ratio}
    return [number_cell(values[name], form) for name, form in FORMS.items()]


def _shares(expid: str, row: Row) -> Table:
    """A line per history item, a column per layer and head."""
    heads = [
        (f"layer\N{NO-BREAK SPACE}{n}, head\N{NO-BREAK SPACE}{m}", shares)
        for n, layer in enumerate(row.attention)
        for m, shares in enumerate(layer)
    ]
    # At least the equal share, so that nearly uniform attention does not look like contrast.
    largest = max([1 / len(row.history), *(s for _, shares in heads for s in shares if is_finite(s))])
    rows = []
    for place, item in enumerate(row.history):
        shades = [(shares[place], max(0.0, shares[place]) / largest) for _, shares in heads]
        cells = [number_cell(s, ".1%", share=round(shade, 3) if is_finite(shade) else None) for s, shade in shades]
        rows.append([Cell(item), *cells])
    groups = [(f"{expid}, score {number(row.score)}", len(heads))] if heads else []
    return Table(f"attention of {expid}, {_title(row)}", ["history item", *(name for name, _ in heads)], rows, groups)


def _benchmark(about: About, benchmark: Benchmark) -> Section:
    names = list(dict.fromkeys(name for row in benchmark.rows for name in row))
    nested = [name for name in names if any(isinstance(row.get(name), list | dict) for row in benchmark.rows)]
    shown = [name for name in names if name not in nested]
    rows = [[_any_cell(row.get(name)) for name in shown] for row in benchmark.rows]
    note = f"Only in the file: {', '.join(nested)}." if nested else ""
    where = origin(about, ("settings", pairs(benchmark.settings)), ("versions", pairs(benchmark.versions)))
    name = benchmark.benchmark or Path(about.file).stem
    tables = [Table(name, shown, rows)] if rows and shown else []
    part = Part("", note or ("" if tables else "No rows."), tables=tables)
    return Section("benchmark", name, "", about, where, [part])


def _any_cell(value: object) -> Cell:
    """Numbers with 4 significant digits, as in the benchmarks' own Markdown."""
    if value is None:
        return Cell(DASH)
    if isinstance(value, bool | str):
        return Cell(str(value))
    if isinstance(value, int):
        return Cell(f"{value:,}".replace("-", "−"), str(value))
    if isinstance(value, float):
        return number_cell(value, ",.0f" if abs(value) >= 1000 else ".4g")
    return Cell(plain(value))


def _document(about: About, document: Document) -> Section:
    parts = []
    for block in document.blocks:
        if isinstance(block, str):
            parts.append(Part("", paragraphs=[block]))
        else:
            rows = [[_word_cell(text) for text in row] for row in block[1:]]
            parts.append(Part("", tables=[Table(document.name, block[0], rows)] if rows else ()))
    return Section(
        "document", document.name, "", about, [("file", about.file), ("date", f"{about.date} (the file's)")], parts
    )


def _word_cell(text: str) -> Cell:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return Cell(DASH if text in ("", "-") else text)
    return Cell(DASH) if math.isnan(value) else Cell(text, repr(value))
