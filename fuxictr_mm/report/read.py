"""A folder of results -> what was found in it; a file that cannot be read is named and does not stop the others."""

import re
from datetime import date
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from fuxictr_mm.config.places import home
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import read_json
from fuxictr_mm.report.records import About, Benchmark, Document, Explanation, Found
from fuxictr_mm.report.runs import is_of_seeds, single_runs, study_of_seeds
from fuxictr_mm.run import Result
from fuxictr_mm.study.records import StudyRecord

__all__ = ["read_folder"]

NO_RESULTS = (".params.json", ".feature_map.json", "README.md")  # beside a checkpoint, or beside tables
MARKDOWN = MarkdownIt("zero").enable("table")  # paragraphs and tables; everything else is text


def read_folder(folder: Path) -> tuple[list[Found], list[str]]:
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
    readers = {".json": _read_json, ".csv": _read_seeds, ".md": _read_document}
    files = [f for f in sorted(folder.iterdir()) if f.suffix in readers and f.is_file()]
    files = [f for f in files if not f.name.endswith(NO_RESULTS)]
    if not files:
        raise ConfigError(
            f"{folder}: no results in it; expected *.json, *.csv or *.md, as run_ablation.py writes them."
        )
    found: list[Found] = []
    runs: dict[str, list[Result]] = {}  # results of single runs, by data
    problems = []
    for file in files:
        try:
            if _is_copy(file):
                continue
            content = readers[file.suffix](file)
        except DataError as err:
            problems.append(str(err).replace(str(file), _shown(file)))
            continue
        if isinstance(content, Result):
            runs.setdefault(content.dataset_id, []).append(content)
        else:
            found.append(Found(_about(file, content), content))
    for dataset_id, results in runs.items():
        commits = ", ".join(sorted({result.commit for result in results}))
        about = About(_shown(folder), max(_written(result.file) for result in results), commit=commits)
        found.append(Found(about, single_runs(f"runs in {folder.name}", dataset_id, results)))
    return found, problems


def _is_copy(file: Path) -> bool:
    if file.suffix != ".json" and file.with_suffix(".json").is_file():
        return True
    if file.suffix == ".md":
        table = file.with_suffix(".csv")
        return table.is_file() and is_of_seeds(_read_text(table))
    return file.suffix == ".csv" and file.with_suffix(".md").is_file() and not is_of_seeds(_read_text(file))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{file}: cannot be read as text ({err}); write the file again.") from err


def _shown(file: Path) -> str:
    """The path within the repository or the current folder, or as it is outside."""
    file = file.resolve()
    return str(file.relative_to(home())) if file.is_relative_to(home()) else str(file)


def _written(file: Path) -> str:
    return date.fromtimestamp(file.stat().st_mtime).isoformat()


def _about(file: Path, content: object) -> About:
    stated = getattr(content, "date", "")[:10]
    is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", stated) is not None
    origin = {name: getattr(content, name, "") for name in ("command", "commit", "machine")}
    beside = file.with_suffix(".md")
    has_notes = file.suffix == ".csv" and beside.is_file()
    notes = [block for block in _markdown(_read_text(beside)) if isinstance(block, str)] if has_notes else []
    return About(_shown(file), stated if is_day else _written(file), is_day, **origin, notes=notes)


def _read_json(file: Path) -> StudyRecord | Explanation | Benchmark | Result:
    content = read_json(dict[str, Any], file, "write the file again with its command")
    kind = content.get("kind")
    if kind == "ablation":
        return StudyRecord.read(file)
    if kind == "explanation":
        return Explanation.read(file)
    if kind is None and "rows" in content and {"benchmark", "settings"} & set(content):
        return read_json(Benchmark, file, "run the benchmark again")
    if kind is None and {"expid", "valid", "checkpoint"} <= set(content):
        return Result.read(file)
    raise DataError(
        f"{file}: no result of a known kind (keys {', '.join(content)[:60]}); expected an ablation, an explanation, a "
        "benchmark or a run's *.result.json; move it elsewhere."
    )


def _read_seeds(file: Path) -> StudyRecord:
    return study_of_seeds(_read_text(file), str(file), file.stem)


def _read_document(file: Path) -> Document:
    return Document(file.stem, _markdown(_read_text(file)))


def _markdown(text: str) -> list[str | list[list[str]]]:
    """Paragraphs and pipe tables of a Markdown text."""
    blocks: list[str | list[list[str]]] = []
    table: list[list[str]] = []
    for token in MARKDOWN.parse(text):
        if token.type == "table_open":
            table = []
            blocks.append(table)
        elif token.type == "tr_open":
            table.append([])
        elif token.type == "inline" and token.level > 1:  # in a cell
            table[-1].append(token.content)
        elif token.type == "inline":
            blocks.append(token.content)
    return blocks
