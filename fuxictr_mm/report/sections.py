"""Results -> sections of the page: studies, attention, benchmarks, documents."""

import math
from collections.abc import Sequence

from fuxictr_mm.report.records import Benchmark, Block, Document, Explained, Explanation, Looked, Study
from fuxictr_mm.report.study_section import study_section
from fuxictr_mm.report.view import DASH, Cell, Part, Section, Table, count, number, number_cell, origin, pairs, plain

__all__ = ["section"]

NAN = float("nan")


def section(block: Block) -> Section:
    """The section of one result."""
    if isinstance(block, Study):
        return study_section(block)
    if isinstance(block, Explanation):
        return _explanation(block)
    if isinstance(block, Benchmark):
        return _benchmark(block)
    return _document(block)


def _explanation(explanation: Explanation) -> Section:
    experiments = explanation.experiments
    parts = [_heads(experiments)] if any(one.summary for one in experiments) else []
    for place, row in enumerate(experiments[0].rows):
        same = [(one, one.rows[place]) for one in experiments if place < len(one.rows)]
        tables = [_shares(one.expid, seen) for one, seen in same if seen.history]
        note = (
            "Oldest first; the darker, the larger the share of the attention (full shade: this table's largest share)."
        )
        parts.append(Part(row.title, note if tables else "The history is empty.", tables=tables, folded=place > 0))
    first = experiments[0]
    expids = " and ".join(one.expid for one in experiments)
    where = origin(explanation.about, ("data", first.dataset_id), ("experiment", expids))
    title = f"Attention of {expids} on {first.dataset_id}"
    return Section("attention", title, count(len(first.rows), "row"), explanation.about, where, parts)


def _heads(experiments: Sequence[Looked]) -> Part:
    known = ("layer", "head", "rows", "entropy", "entropy_uniform")
    forms = {"layer": ".0f", "head": ".0f", "rows": ",.0f", "share_on_padding": ".2%"}
    lines = [(one.expid, line) for one in experiments for line in one.summary]
    names = [*known, *dict.fromkeys(name for _, line in lines for name in line if name not in known)]
    rows = []
    for expid, line in lines:
        ratio = line.get("entropy", NAN) / (line.get("entropy_uniform", NAN) or NAN)
        cells = [number_cell(line.get(name, NAN), forms.get(name, ".4f")) for name in names]
        rows.append([Cell(expid), *cells[: len(known)], number_cell(ratio, ".1%"), *cells[len(known) :]])
    note = "Mean entropy in nats; at 100 % of the uniform entropy a head gives every history item the same share."
    head = ["experiment", *known, "of uniform", *names[len(known) :]]
    return Part(
        "Heads", note, tables=[Table("attention by layer and head", [name.replace("_", " ") for name in head], rows)]
    )


def _shares(expid: str, row: Explained) -> Table:
    """A line per history item, a column per layer and head."""
    heads = [
        (f"layer\N{NO-BREAK SPACE}{n}, head\N{NO-BREAK SPACE}{m}", shares)
        for n, layer in enumerate(row.attention)
        for m, shares in enumerate(layer)
    ]
    # At least the equal share, so that nearly uniform attention does not look like contrast.
    largest = max([1 / len(row.history), *(s for _, shares in heads for s in shares if math.isfinite(s))])
    rows = []
    for place, item in enumerate(row.history):
        shades = [(shares[place], max(0.0, shares[place]) / largest) for _, shares in heads]
        cells = [number_cell(s, ".1%", share=round(shade, 3) if math.isfinite(shade) else None) for s, shade in shades]
        rows.append([Cell(item), *cells])
    groups = [(f"{expid}, score {number(row.score)}", len(heads))] if heads else []
    return Table(f"attention of {expid}, {row.title}", ["history item", *(name for name, _ in heads)], rows, groups)


def _benchmark(benchmark: Benchmark) -> Section:
    names = list(dict.fromkeys(name for row in benchmark.rows for name in row))
    nested = [name for name in names if any(isinstance(row.get(name), list | dict) for row in benchmark.rows)]
    shown = [name for name in names if name not in nested]
    rows = [[_any_cell(row.get(name)) for name in shown] for row in benchmark.rows]
    note = f"Only in the file: {', '.join(nested)}." if nested else ""
    where = origin(benchmark.about, ("settings", pairs(benchmark.settings)), ("versions", pairs(benchmark.versions)))
    tables = [Table(benchmark.name, shown, rows)] if rows and shown else []
    part = Part("", note or ("" if tables else "No rows."), tables=tables)
    return Section("benchmark", benchmark.name, "", benchmark.about, where, [part])


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


def _document(document: Document) -> Section:
    parts = []
    for block in document.blocks:
        if isinstance(block, str):
            parts.append(Part("", paragraphs=[block]))
        else:
            rows = [[_word_cell(text) for text in row] for row in block[1:]]
            parts.append(Part("", tables=[Table(document.name, block[0], rows)] if rows else ()))
    about = document.about
    return Section(
        "document", document.name, "", about, [("file", about.file), ("date", f"{about.date} (the file's)")], parts
    )


def _word_cell(text: str) -> Cell:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return Cell(DASH if text in ("", "-") else text)
    return Cell(DASH) if math.isnan(value) else Cell(text, repr(value))
