"""Tables as people have them, in polars: csv and its kin, parquet, RecBole's atomic files, tables in memory."""

import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import system_error
from fuxictr_mm.parquet import open_parquet, parts_of

__all__ = ["read_table"]

TEXTS = (".csv", ".tsv", ".txt", ".data", ".inter", ".item", ".user")
SEPARATORS = "\t;|,"
# RecBole's types of columns -> how the text of a cell is read.
RECBOLE: dict[str, Any] = {
    "token": pl.String,
    "float": pl.Float64,
    "token_seq": pl.List(pl.String),
    "float_seq": pl.List(pl.Float32),
}


def read_table(
    source: Any, *, names: Sequence[str] | None = None, separator: str | None = None, as_text: Sequence[str] = ()
) -> pl.DataFrame:
    """Read a table whole.

    Args:
        source: a table of pandas, polars or pyarrow; or one path or several: a text file (``.csv``, ``.tsv``, ``.txt``,
            ``.data``, RecBole's ``.inter``, ``.item``, ``.user``; also ``.gz``), or parquet as
            :func:`~fuxictr_mm.parquet.parts_of` admits it.
        names: of the columns, for text files without a header.
        separator: of a text file; default: the one of tab, ``;``, ``|`` and ``,`` that its first line has most of.
        as_text: columns of text files that are not to be taken for numbers, such as ids.

    Raises:
        DataError: a file is missing, empty or cannot be read as its suffix says.
    """
    if isinstance(source, str | Path):
        source = [source]
    if not isinstance(source, list | tuple):
        return _in_memory(source)
    frames = [_read(Path(path), names, separator, as_text) for path in source]
    columns = frames[0].columns
    for path, frame in zip(source, frames):
        if frame.columns != columns:
            raise DataError(f"{path}: has the columns {frame.columns}, but {source[0]} has {columns}; make them alike.")
    frame = pl.concat(frames, how="vertical_relaxed")
    if not frame.height:
        raise DataError(f"{source[0]}: no rows; at least one is expected.")
    return frame


def _in_memory(table: Any) -> pl.DataFrame:
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if isinstance(table, pl.DataFrame):
        return table
    if type(table).__module__.startswith("pandas"):
        return pl.from_pandas(table)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read(path: Path, names: Sequence[str] | None, separator: str | None, as_text: Sequence[str]) -> pl.DataFrame:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in TEXTS:
        parts = parts_of(path)
        open_parquet(path)  # says what is wrong with it
        return pl.read_parquet(parts, glob=False)
    if not path.is_file():
        raise DataError(f"{path}: file not found; check the path.")
    first = _first_line(path)
    if not first.strip():
        raise DataError(f"{path}: its first line is empty; a table is expected.")
    sign = separator or Counter({sign: first.count(sign) for sign in SEPARATORS}).most_common(1)[0][0]
    if first.count(sign) == 0:
        raise DataError(f"{path}: one column only, by the line {first.strip()[:60]!r}; say how columns are separated.")
    header = first.rstrip("\r\n").split(sign)
    typed = {name: name.partition(":")[2] for name in header} if names is None else {}
    is_recbole = bool(typed) and all(kind in RECBOLE for kind in typed.values())
    text = [name for name in header if is_recbole or name.strip('"') in as_text]
    width = len(header)
    if names is not None and len(names) != width:
        raise DataError(
            f"{path}: {len(names)} names of columns are given, but its first line has {width}: {first[:80]!r}."
        )
    try:
        frame = pl.read_csv(
            path,
            separator=sign,
            has_header=names is None,
            new_columns=list(names) if names else None,
            schema_overrides={name: pl.String for name in ([*as_text] if names else text)} or None,
            infer_schema_length=10_000,
            quote_char=None if suffix in (".inter", ".item", ".user", ".data") else '"',
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read as a table ({str(err).splitlines()[0]}); check its form.") from err
    return _recbole(frame, path) if is_recbole else frame


def _first_line(path: Path) -> str:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            return str(stream.readline())
    except UnicodeDecodeError as err:
        raise DataError(f"{path}: is no UTF-8 text ({err.reason} at byte {err.start}); convert it.") from err
    except OSError as err:
        raise system_error(err, path) or DataError(f"{path}: cannot be read ({err}).") from err


def _recbole(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """RecBole's typed header: ``name:token``, cells of a ``_seq`` separated by spaces."""
    columns = []
    for name in frame.columns:
        plain, _, kind = name.partition(":")
        cell = pl.col(name)
        if kind.endswith("_seq"):
            cell = cell.fill_null("").str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
        columns.append(cell.cast(RECBOLE[kind], strict=True).alias(plain))
    try:
        return frame.select(columns)
    except pl.exceptions.PolarsError as err:
        raise DataError(f"{path}: a cell is not of its column's type ({str(err).splitlines()[0]}).") from err
