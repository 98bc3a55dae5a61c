"""A folder of results -> records; a file that cannot be read is named and does not stop the others."""

import csv
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.report.from_json import about_file, named, read_json, read_text, shown
from fuxictr_mm.report.records import About, Block, Document, Metrics, Run, Study, Variant, summarize

__all__ = ["read_folder"]

NAN = float("nan")
SEED_COLUMNS = ("expid", "dataset_id", "seed", "split")  # of run_seeds.py; its metrics follow
NOT_METRICS = (*SEED_COLUMNS, "parameters", "seconds")
SEED_NAME = re.compile(r"_seed\d+$")
NO_RESULTS = (".params.json", ".feature_map.json", "README.md")  # beside a checkpoint, or beside tables


def read_folder(folder: Path) -> tuple[list[Block], list[str]]:
    """Read every result in a folder (not in those below it).

    A Markdown or csv file beside a JSON of the same name is its copy for people and is passed over; a Markdown file
    beside a csv of run_seeds.py says where that comes from.

    Returns:
        The results by file name, and one sentence for each file that could not be read.

    Raises:
        ConfigError: no such folder, or nothing in it that could be a result.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name one with results (*.json, *.csv, *.md).")
    readers: dict[str, Callable[[Path], Block | tuple[str, About, Variant]]] = {
        ".json": read_json,
        ".csv": _read_seeds,
        ".md": _read_document,
    }
    files = [f for f in sorted(folder.iterdir()) if f.suffix in readers and f.is_file()]
    files = [f for f in files if not f.name.endswith(NO_RESULTS)]
    if not files:
        raise ConfigError(
            f"{folder}: no results in it; expected *.json, *.csv or *.md, as run_ablation.py writes them."
        )
    blocks: list[Block] = []
    runs: dict[str, list[tuple[About, Variant]]] = {}  # results of single runs, by data
    problems = []
    for file in files:
        try:
            if _is_copy(file):
                continue
            block = readers[file.suffix](file)
            if isinstance(block, tuple):
                runs.setdefault(block[0], []).append(block[1:])
            else:
                blocks.append(block)
        except DataError as err:
            problems.append(str(err))
    blocks += [_single_runs(folder, dataset_id, found) for dataset_id, found in runs.items()]
    return blocks, problems


def _is_copy(file: Path) -> bool:
    if file.suffix != ".json" and file.with_suffix(".json").is_file():
        return True
    if file.suffix == ".md":
        table = file.with_suffix(".csv")
        return table.is_file() and _is_of_seeds(table)
    return file.suffix == ".csv" and file.with_suffix(".md").is_file() and not _is_of_seeds(file)


def _is_of_seeds(file: Path) -> bool:
    return read_text(file).split("\n", 1)[0].strip().split(",")[:4] == list(SEED_COLUMNS)


def _single_runs(folder: Path, dataset_id: str, found: Sequence[tuple[About, Variant]]) -> Study:
    """Results of runs on the same data side by side; runs whose ids differ by their seed are one variant."""
    by_name: dict[str, list[Variant]] = {}
    for _, variant in found:
        name, _, seed = variant.name.rpartition("_seed") if SEED_NAME.search(variant.name) else (variant.name, "", "")
        by_name.setdefault(name, []).append(replace(variant, runs=[replace(variant.runs[0], seed=seed)]))
    variants = [
        replace(
            alike[0], name=name, runs=[variant.runs[0] for variant in alike],
            train_seconds=statistics.fmean(variant.train_seconds for variant in alike),
        )
        for name, alike in by_name.items()
    ]  # fmt: skip
    seeds = sorted({run.seed for variant in variants for run in variant.runs if run.seed}, key=int)
    commits = sorted({about.commit for about, _ in found if about.commit})
    about = About(shown(folder), max(about.date for about, _ in found), commit=", ".join(commits))
    return Study(about, f"runs in {folder.name}", dataset_id, "", seeds, summarize(variants))


def _read_seeds(file: Path) -> Study:
    """The csv of run_seeds.py, as a study; the Markdown file beside it says command, commit and machine."""
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
    except csv.Error as err:
        raise DataError(f"{shown(file)}: not a csv table ({err}); write the file again.") from err
    if not _is_of_seeds(file) or not rows:
        raise DataError(
            f"{shown(file)}: no table of run_seeds.py (columns {', '.join(SEED_COLUMNS)}, ... and at least one row), "
            "and no Markdown file of this name beside it; move it elsewhere."
        )
    runs: dict[str, dict[str, dict[str, Metrics]]] = {}  # expid -> seed -> split -> metrics
    sizes: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(rows, start=2):
        place = f"{shown(file)}, line {number}"
        if None in row or None in row.values():
            raise DataError(f"{place}: not one value for each of the {len(rows[0])} columns; write the file again.")
        metrics = {k: _csv_number(v, f"{place}: {k!r}") for k, v in row.items() if k and k not in NOT_METRICS}
        runs.setdefault(row["expid"], {}).setdefault(row["seed"], {})[row["split"]] = metrics
        size = [_csv_number(row.get(key), f"{place}: {key!r}") for key in ("parameters", "seconds")]
        sizes.setdefault(row["expid"], []).append((size[0], size[1]))
    variants = [
        Variant(
            expid, {}, sizes[expid][0][0], statistics.mean(seconds for _, seconds in sizes[expid]), NAN, {},
            [Run(seed, splits.get("valid", {}), splits.get("test", {})) for seed, splits in seeds.items()], {},
        )
        for expid, seeds in runs.items()
    ]  # fmt: skip
    beside = file.with_suffix(".md")
    notes = [block for block in _markdown(read_text(beside)) if isinstance(block, str)] if beside.is_file() else []
    datasets = list(dict.fromkeys(row["dataset_id"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    return Study(about_file(file, notes=notes), file.stem, ", ".join(datasets), "", seeds, summarize(variants))


def _csv_number(text: object, place: str) -> float:
    try:
        return float(str(text)) if text else NAN
    except ValueError as err:
        raise DataError(f"{place} is {named(text)}, expected a number; write the file again.") from err


def _read_document(file: Path) -> Document:
    return Document(about_file(file), file.stem, _markdown(read_text(file)))


def _markdown(text: str) -> list[str | list[list[str]]]:
    """Paragraphs and pipe tables of a Markdown text; everything else in it stays text."""
    blocks: list[str | list[list[str]]] = []
    for paragraph in re.split(r"\n\s*\n", text):
        table: list[list[str]] = []
        words: list[str] = []
        for line in paragraph.strip().splitlines():
            if not line.startswith("|"):
                words.append(line.strip())
            elif not re.fullmatch(r"[|:\-\s]+", line):  # not the line below the head
                cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
                table.append([cell.strip().replace("\\|", "|") for cell in cells])
        if table:
            blocks.append(table)
        if words:
            blocks.append("\n".join(words))
    return blocks
