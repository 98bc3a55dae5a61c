"""What is to be encoded: the texts or pictures of the items, each distinct one once."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from fuxictr_mm.encode.encoders import Kind
from fuxictr_mm.errors import ConfigError, DataError, needs

__all__ = ["Inputs", "Task", "open_picture"]

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Task:
    """One column of vectors that is to be made.

    Attributes:
        name: of the column.
        kind: what is encoded.
        source: columns whose texts are joined, separated by commas; or a column of paths; or a path with ``{column}``.
        model: see :mod:`~fuxictr_mm.encode.encoders`.
    """

    name: str
    kind: Kind
    source: str
    model: str

    @classmethod
    def parse(cls, text: str, kind: Kind) -> "Task":
        """Read ``[NAME:]SOURCE=MODEL``.

        Raises:
            ConfigError: it has another form.
        """
        found = re.fullmatch(r"(?:(?P<name>\w+):)?(?P<source>[^=]+)=(?P<model>.+)", text)
        if found is None:
            raise ConfigError(
                f"--{kind} {text}: SOURCE=MODEL is expected, e.g. title,overview=sentence-transformers/NAME."
            )
        return cls(found["name"] or f"{kind}_emb", kind, found["source"], found["model"])


@dataclass(frozen=True)
class Inputs:
    """The inputs of a task.

    Attributes:
        digests: per item, of its input; ``None``: it has none.
        by_digest: each distinct input once, in the order of the items: a text, or the path of a picture.
        absent: items without text or path, or whose file is not there.
    """

    digests: Sequence[bytes | None]
    by_digest: dict[bytes, Any]
    absent: int

    @classmethod
    def of(cls, task: Task, items: pl.DataFrame, folder: Path) -> "Inputs":
        """Find the inputs of all items.

        Args:
            items: the item table.
            folder: where relative paths begin.

        Raises:
            DataError: a column is missing, or no item has an input.
        """
        is_path = task.kind == "image"
        columns = _FIELD.findall(task.source) or ([task.source] if is_path else task.source.split(","))
        if missing := [column for column in columns if column not in items.columns]:
            raise DataError(
                f"--{task.kind} {task.source}: the items have no column {missing[0]!r}; found {items.columns}."
            )
        digests: list[bytes | None] = []
        by_digest: dict[bytes, Any] = {}
        rows = items.select(columns).iter_rows()
        for row in tqdm(rows, f"{task.name}: inputs", items.height, unit=" items", disable=None):
            found = _path(task.source, columns, row, folder) if is_path else _text(row)
            if found is None:
                digests.append(None)
                continue
            content = found.read_bytes() if isinstance(found, Path) else found.encode()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            by_digest.setdefault(digest, found)
            digests.append(digest)
        absent = sum(digest is None for digest in digests)
        if not by_digest:
            example = (
                f" (looked for {_path(task.source, columns, items.select(columns).row(0), folder, True)})"
                if is_path
                else ""
            )
            raise DataError(f"--{task.kind} {task.source}: no item has one{example}; check the name and the paths.")
        return cls(digests, by_digest, absent)


def _text(cells: Sequence[Any]) -> str | None:
    return " ".join(str(cell).strip() for cell in cells if cell is not None and str(cell).strip()) or None


def _path(source: str, columns: Sequence[str], cells: Sequence[Any], folder: Path, anyway: bool = False) -> Path | None:
    if any(cell is None or not str(cell).strip() for cell in cells):
        return None
    named = dict(zip(columns, cells))
    text = _FIELD.sub(lambda found: str(named[found[1]]), source) if _FIELD.search(source) else str(cells[0])
    path = folder / text
    return path if anyway or path.is_file() else None


def open_picture(path: Path) -> Any:
    """An RGB ``PIL.Image``, or ``None`` if the file cannot be read as a picture.

    Raises:
        ConfigError: pillow is not installed.
    """
    image = needs("PIL.Image", "encode")
    try:
        with image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError):
        return None
