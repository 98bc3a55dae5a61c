"""JSON files of results -> records; what does not fit is refused with the place in the file and what was expected."""

import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fuxictr_mm.config.yaml_files import REPOSITORY
from fuxictr_mm.errors import DataError
from fuxictr_mm.report.records import (
    About,
    Benchmark,
    Block,
    Estimate,
    Explained,
    Explanation,
    Looked,
    Metrics,
    Run,
    Study,
    Variant,
)

__all__ = ["about_file", "named", "read_json", "read_text", "shown"]

NAN = float("nan")


class Record:
    """A JSON object, read key by key; ``place`` says in an error which one it is."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{place}: {named(value)} where an object is expected; write the file again.")
        self.value, self.place = value, place

    def get(self, key: str, kind: type, default: Any) -> Any:
        """The value under ``key``; ``default`` where it is missing or null."""
        value = self.value.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise DataError(f"{self.place}: {key!r} is {named(value)}, expected {kind.__name__}; write the file again.")
        return value

    def text(self, key: str) -> str:
        return str(self.get(key, str, ""))

    def number(self, key: str) -> float:
        return _number(self.value.get(key), f"{self.place}: {key!r}")

    def record(self, key: str) -> "Record":
        return Record(self.get(key, dict, {}), f"{self.place}, {key}")

    def records(self, key: str) -> "list[Record]":
        return [Record(v, f"{self.place}, {key} {n}") for n, v in enumerate(self.get(key, list, []), start=1)]

    def children(self) -> "dict[str, Record]":
        return {key: self.record(key) for key in self.value}

    def numbers(self) -> Metrics:
        return {key: self.number(key) for key in self.value}


def _number(value: object, place: str) -> float:
    if value is None:
        return NAN
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place} is {named(value)}, expected a number; write the file again.")
    try:
        return float(value)
    except OverflowError as err:
        raise DataError(f"{place} is a whole number beyond all floats; write the file again.") from err


def _numbers(values: object, place: str) -> list[float]:
    if not isinstance(values, list):
        raise DataError(f"{place} is {named(values)}, expected a list of numbers; write the file again.")
    return [_number(value, place) for value in values]


def named(value: object) -> str:
    text = json.dumps(value, default=str)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{shown(file)}: cannot be read as text ({err}); write the file again.") from err


def shown(file: Path) -> str:
    """The path within the repository, or as it is outside."""
    file = file.resolve()
    return str(file.relative_to(REPOSITORY)) if file.is_relative_to(REPOSITORY) else str(file)


def about_file(file: Path, record: Record | None = None, notes: Sequence[str] = ()) -> About:
    written = date.fromtimestamp(file.stat().st_mtime).isoformat()
    if record is None:
        return About(shown(file), written, notes=notes)
    stated = record.text("date")[:10]
    is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", stated) is not None
    command, commit, machine = (record.text(key) for key in ("command", "commit", "machine"))
    return About(shown(file), stated if is_day else written, is_day, command, commit, machine, notes)


def read_json(file: Path) -> Block | tuple[str, About, Variant]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as err:
        raise DataError(f"{shown(file)}: not valid JSON ({err}); write the file again with its command.") from err
    record = Record(content, shown(file))
    kind = record.value.get("kind")
    if kind == "ablation":
        return _study(file, record)
    if kind == "explanation":
        return _explanation(file, record)
    if kind is None and "rows" in content and {"benchmark", "settings"} & set(content):
        rows = [row.value for row in record.records("rows")]
        settings, versions = record.get("settings", dict, {}), record.get("versions", dict, {})
        return Benchmark(about_file(file, record), record.text("benchmark") or file.stem, settings, versions, rows)
    if kind is None and {"expid", "valid", "checkpoint"} <= set(content):
        return _result(file, record)
    raise DataError(
        f"{shown(file)}: no result of a known kind (keys {named(list(content))}); expected an ablation, an "
        "explanation, a benchmark or a run's *.result.json; move it elsewhere."
    )


def _study(file: Path, record: Record) -> Study:
    seeds = [str(seed) for seed in record.get("seeds", list, [])]
    variants = [_variant(variant) for variant in record.records("variants")]
    if not variants:
        raise DataError(f"{record.place}: 'variants' is empty; run the study again.")
    name = record.text("study") or file.stem
    data, base = record.text("dataset_id"), record.text("base_expid")
    return Study(about_file(file, record), name, data, base, seeds, variants, record.text("over"))


def _variant(record: Record) -> Variant:
    name = record.text("name")
    if not name:
        raise DataError(f"{record.place}: 'name' is missing; write the file again.")
    summary = {
        split: {
            metric: Estimate(*(e.number(key) for key in ("mean", "std", "difference", "low", "high")))
            for metric, e in metrics.children().items()
        }
        for split, metrics in record.record("summary").children().items()
    }
    if not any(summary.values()):
        raise DataError(f"{record.place}: 'summary' has no metrics; run the study again.")
    explained = {
        column: {modality: _numbers(v, f"{modalities.place}, {modality}") for modality, v in modalities.value.items()}
        for column, modalities in record.record("explained_variance").children().items()
    }
    return Variant(
        name=name,
        overrides=record.get("overrides", dict, {}),
        parameters=record.number("parameters"),
        train_seconds=record.number("train_seconds"),
        latency_ms=record.number("latency_p50_ms"),
        summary=summary,
        runs=[_run(run) for run in record.records("runs")],
        explained_variance=explained,
        x=record.number("x"),
    )


def _run(record: Record) -> Run:
    groups = {
        split: {group: metrics.numbers() for group, metrics in by_group.children().items()}
        for split, by_group in record.record("by_frequency").children().items()
    }
    curve = [(p.number("step"), p.number("train_loss"), p.record("valid").numbers()) for p in record.records("curve")]
    warnings = [str(warning) for warning in record.get("warnings", list, [])]
    seed = record.value.get("seed")
    return Run(
        "" if seed is None else str(seed), record.record("valid").numbers(), record.record("test").numbers(),
        groups, curve, warnings,
    )  # fmt: skip


def _result(file: Path, record: Record) -> tuple[str, About, Variant]:
    """A run's own result, as a variant with one run."""
    run = _run(record)
    variant = Variant(
        record.text("expid") or file.stem, {}, record.number("parameters"), record.number("seconds"), NAN, {}, [run], {}
    )
    return record.text("dataset_id"), about_file(file, record), variant


def _explanation(file: Path, record: Record) -> Explanation:
    other = record.record("compared_with")
    return Explanation(about_file(file, record), [_looked(one) for one in (record, other) if one.value])


def _looked(record: Record) -> Looked:
    summary = [line.numbers() for line in record.records("summary")]
    rows = [_explained(row) for row in record.records("rows")]
    return Looked(record.text("expid"), record.text("dataset_id"), summary, rows)


def _explained(record: Record) -> Explained:
    history = [str(item) for item in record.get("history", list, [])]
    attention = []
    for heads in record.get("attention", list, []):
        if not isinstance(heads, list):
            raise DataError(f"{record.place}: 'attention' is not [layer][head][position]; write the file again.")
        attention.append([_numbers(shares, f"{record.place}, attention") for shares in heads])
    for shares in (shares for heads in attention for shares in heads):
        if len(shares) != len(history):
            raise DataError(
                f"{record.place}: attention over {len(shares)} positions, but the history has {len(history)} items; "
                "write the file again."
            )
    forms = (("split", "{}"), ("row", "row {}"), ("target", "target {}"), ("label", "label {}"))
    texts = [form.format(record.value[key]) for key, form in forms if record.value.get(key) is not None]
    return Explained(", ".join(texts), record.number("score"), history, attention)
