"""Is a column read wrong in any of the forms that tables come in? Every column of a split in every form.

``python proofs/odd_formats.py`` writes one small split over and over, each time with one of its columns in another
form: the types of Arrow, alone and in five kinds of lists, and what pandas and polars make of their own types. A form
is right if the contract reads the same values from it, or refuses it in a sentence that names file and column. Writes
``results/odd_formats.md``; ends with status 1 if one is wrong.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from verdicts import conclude

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.data.contract import Split, read_split
from fuxictr_mm.errors import DataError

HERE = Path(__file__).resolve().parents[1]
SCHEMA = DatasetSchema(
    "item_id", "item_seq", "label", "user_id",
    (Column("level", "categorical", vocab_size=9), Column("price", "numeric"),
     Column("item_id", "categorical", "item")),
    5,
)  # fmt: skip
PLAIN: dict[str, list[Any]] = {
    "user_id": [1, 2, 2],
    "item_id": [3, 1, 2],
    "item_seq": [[1, 2], [3, 1], [3, 2]],
    "level": [1, 2, 3],
    "price": [1, 0, 2],
    "label": [1, 0, 1],
}
Write = Callable[[Path, str], None]
Make = Callable[[list[Any]], Any]
NUMBERS = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{str(kind): kind for kind in (pa.float16(), pa.float32(), pa.float64())},
    **{str(kind): kind for kind in (pa.decimal128(9, 0), pa.decimal128(9, 3), pa.decimal256(40, 0))},
    "bool": pa.bool_(),
    **{str(kind): kind for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(2))},
    **{str(kind): kind for kind in (pa.timestamp("s"), pa.date32(), pa.duration("s"), pa.time32("s"), pa.null())},
}  # fmt: skip
LISTS: dict[str, Callable[[pa.DataType], pa.DataType]] = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
    "fixed_size_list": lambda kind: pa.list_(kind, 2),
}


@dataclass(frozen=True)
class Trial:
    """One column in one form; ``write`` writes the split and raises what the library cannot write."""

    writer: str
    column: str
    form: str
    write: Write


def as_kind(value: Any, kind: pa.DataType) -> Any:
    """A number as a value of this type."""
    if isinstance(value, list):
        return [as_kind(one, kind) for one in value]
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return str(value)
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return b"%02d" % value
    if pa.types.is_boolean(kind):
        return bool(value)
    if pa.types.is_date(kind):
        return date(2024, 1, 1 + value)
    if pa.types.is_null(kind):
        return None
    return np.float16(value) if kind == pa.float16() else value


def of_arrow() -> Iterator[tuple[str, Make]]:
    """Name of a form -> what puts the values of a column into it."""

    def plain(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([as_kind(value, kind) for value in values], kind)

    def encoded(values: list[Any], kind: pa.DataType) -> pa.Array:
        return plain(values, kind).dictionary_encode()

    def wrapped(values: list[Any], kind: pa.DataType, wrap: Callable[[pa.DataType], pa.DataType]) -> pa.Array:
        lists = [value if isinstance(value, list) else [value, value] for value in values]
        return pa.array([as_kind(one, kind) for one in lists], wrap(kind))

    def nested(values: list[Any], kind: pa.DataType) -> pa.Array:
        return wrapped(
            [[np.atleast_1d(value).tolist()] for value in values], kind, lambda kind: pa.list_(pa.list_(kind))
        )

    for name, kind in NUMBERS.items():
        yield name, partial(plain, kind=kind)
        yield f"dictionary of {name}", partial(encoded, kind=kind)
        yield f"list of lists of {name}", partial(nested, kind=kind)
        for wrapper, wrap in LISTS.items():
            yield f"{wrapper} of {name}", partial(wrapped, kind=kind, wrap=wrap)
    yield "struct", lambda values: pa.array([{"a": value} for value in values])
    yield "map", lambda values: pa.array([[("a", 1)] for _ in values], pa.map_(pa.string(), pa.int64()))
    yield "text of a list", lambda values: pa.array([str(value) for value in values])
    yield "text with spaces", lambda values: pa.array([str(value).strip("[]").replace(",", "") for value in values])


def of_pandas() -> Iterator[tuple[str, Make]]:
    """The same of pandas."""

    def text(values: list[Any], dtype: str) -> Any:
        return pd.Series([str(value) for value in values], dtype=dtype)

    def arrays(values: list[Any], make: Callable[[Any], Any]) -> Any:
        return pd.Series([make(np.atleast_1d(np.asarray(value))) for value in values])

    own = ("Int8", "Int64", "UInt32", "Float32", "Float64", "boolean", "category")
    for name in (*own, "int64[pyarrow]", "double[pyarrow]"):
        yield name, partial(pd.Series, dtype=name)
    for name in ("string", "string[pyarrow]", "object", "category"):
        yield f"{name} of text", partial(text, dtype=name)
    yield "object of arrays", partial(arrays, make=lambda values: values)
    yield "object of float arrays", partial(arrays, make=lambda values: values.astype(float))
    yield "object of tuples", partial(arrays, make=lambda values: tuple(values.tolist()))
    yield "datetime", lambda values: pd.Series(pd.to_datetime(np.ravel(values)[: len(values)]))


def of_polars() -> Iterator[tuple[str, Make]]:
    """The same of polars."""

    def cast(values: list[Any], kind: Any) -> Any:
        return pl.Series("x", values).cast(kind)

    def text(values: list[Any], kind: Any) -> Any:
        return cast([str(value) for value in values], kind)

    kinds: list[Any] = [pl.Int8, pl.Int16, pl.Int64, pl.UInt8, pl.UInt64, pl.Float32, pl.Float64, pl.Boolean, pl.Date]
    for kind in (*kinds, pl.Decimal(9, 0)):
        yield str(kind), partial(cast, kind=kind)
        yield f"List of {kind}", partial(cast, kind=pl.List(kind))
        yield f"Array of {kind}", partial(cast, kind=pl.Array(kind, 2))
    for kind in (pl.String, pl.Categorical, pl.Binary, pl.Enum([str(number) for number in range(9)])):
        yield str(kind), partial(text, kind=kind)


def trials() -> Iterator[Trial]:
    """Every column in every form of every library."""

    def arrow(path: Path, column: str, make: Make) -> None:
        pq.write_table(pa.table({**PLAIN, column: make(PLAIN[column])}), path)

    def pandas(path: Path, column: str, make: Make) -> None:
        pd.DataFrame({**PLAIN, column: make(PLAIN[column])}).to_parquet(path)

    def polars(path: Path, column: str, make: Make) -> None:
        pl.DataFrame({**PLAIN, column: make(PLAIN[column])}).write_parquet(path)

    libraries = (("pyarrow", arrow, of_arrow), ("pandas", pandas, of_pandas), ("polars", polars, of_polars))
    for writer, write, forms in libraries:
        for form, make in forms():
            for column in PLAIN:
                yield Trial(writer, column, form, partial(write, make=make))


def judge(trial: Trial, expected: Split, folder: Path) -> tuple[str, str]:
    """``("cannot be written" | "refused" | "read right" | "wrong", why)``."""
    path = folder / "split.parquet"
    try:
        trial.write(path, trial.column)
    except Exception as err:  # each library has errors of its own for values that a type of its own does not hold
        return "cannot be written", str(err)
    try:
        found = read_split(path, SCHEMA, np.array([1, 2, 3]), require_label=True, progress=False)
    except DataError as err:
        named = path.name in str(err) and repr(trial.column) in str(err) and "\n" not in str(err)
        return ("refused", str(err)) if named else ("wrong", f"the sentence does not name it: {err}")
    except Exception as err:
        return "wrong", f"{type(err).__name__}: {err}"
    differs = [name for name, values in _values(expected).items() if _values(found)[name] != values]
    # Of a form that holds other values, as booleans do, what is read must be these.
    stored = pq.read_table(path).column(trial.column).to_pylist()
    if differs and stored != PLAIN[trial.column] and differs == [trial.column]:
        read = _values(found)[trial.column]
        if trial.column == "user_id":
            stored = [[one == other for other in stored] for one in stored]
        return ("read right", "") if read == stored else ("wrong", f"read as {read} where {stored} is stored")
    return ("wrong", f"read {differs} as {_values(found)[differs[0]]}") if differs else ("read right", "")


def _values(split: Split) -> dict[str, Any]:
    assert split.label is not None and split.group is not None
    bounds = split.history_offsets.tolist()
    return {
        "item_id": split.item.tolist(),
        "item_seq": [split.history_values[start:stop].tolist() for start, stop in pairwise(bounds)],
        "label": split.label.tolist(),
        # Which rows are of one user: the number of a text is its hash.
        "user_id": (split.group[:, None] == split.group).tolist(),
        **{name: values.tolist() for name, values in split.context.items()},
    }


def prove(folder: Path) -> dict[Trial, tuple[str, str]]:
    """Each trial, how it ended and why."""
    pq.write_table(pa.table(PLAIN), folder / "plain.parquet")
    expected = read_split(folder / "plain.parquet", SCHEMA, np.array([1, 2, 3]), require_label=True, progress=False)
    return {trial: judge(trial, expected, folder) for trial in trials()}


def table(found: dict[Trial, tuple[str, str]]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for writer in ("pyarrow", "pandas", "polars", "all"):
        count = Counter(how for trial, (how, _) in found.items() if writer in (trial.writer, "all"))
        endings = {how: count[how] for how in ("refused", "read right", "wrong")}
        lines.append({"written by": writer, "tried": sum(endings.values()), **endings})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="odd_formats.") as name:
        found = prove(Path(name))
    lines = table(found)
    wrong = [
        f"{trial.writer}, {trial.column} as {trial.form}: {why}"
        for trial, (how, why) in found.items()
        if how == "wrong"
    ]
    sentence = f"{len(wrong)} of {lines[-1]['tried']} forms are handled wrongly."
    conclude(args.out / "odd_formats.md", lines, sentence, wrong)


if __name__ == "__main__":
    main()
