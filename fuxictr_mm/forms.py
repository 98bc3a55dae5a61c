"""The forms in which ids, lists of ids, numbers and labels come, and how each is read: right, or not at all.

pandas writes whole numbers with nulls as floats, Spark writes decimals, polars large lists. Every reader of a column
asks here, so one file is understood in the same way by training, prediction, derivations and findings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from fuxictr_mm.errors import DataError

__all__ = [
    "GROUP", "ID", "IDS", "LABEL", "NUMBER", "VECTOR", "Form", "Misfit", "check_form", "group_numbers", "groups",
    "lists", "numbers", "whole_numbers",
]  # fmt: skip


class Misfit(ValueError):
    """A value that cannot be what its column is for; whoever knows file and column makes a sentence of it.

    Attributes:
        at: its place among the values, counted from 0.
        reason: the end of the sentence.
    """

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason


@dataclass(frozen=True)
class Form:
    """What a column is for.

    Attributes:
        what: what is expected in it, in words.
        admits: whether columns of a type can be read so.
    """

    what: str
    admits: Callable[[pa.DataType], bool]


def _is_whole(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _is_number(kind: pa.DataType) -> bool:
    return _is_whole(kind) or types.is_boolean(kind)


def _is_group(kind: pa.DataType) -> bool:
    return _is_whole(kind) or types.is_string(kind) or types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    # Lists that are all empty have no type of their own.
    return _is_list(kind) and (_is_whole(kind.value_type) or types.is_null(kind.value_type))


ID = Form("integer ids", _is_whole)
IDS = Form("lists of integer ids", _is_list_of_numbers)
NUMBER = Form("numbers", _is_number)
LABEL = Form("labels 0 and 1", _is_number)
GROUP = Form("integer or text ids", _is_group)
VECTOR = Form("lists of numbers", _is_list_of_numbers)


def check_form(path: str | Path, name: str, kind: pa.DataType, form: Form, note: str = "") -> None:
    """Refuse a column whose type cannot hold what the column is for.

    Args:
        path, name: where it is, for the sentence.
        kind: its type, plain, as ``open_parquet`` gives it.
        form: what it is for.
        note: what the sentence adds to ``form.what``.

    Raises:
        DataError: names the type and what to do.
    """
    if not form.admits(kind):
        raise DataError(f"{path}: column {name!r} has type {kind}; {form.what}{note} are expected, {_advice(kind)}.")


def _advice(kind: pa.DataType) -> str:
    inner = kind.value_type if _is_list(kind) else kind
    if types.is_null(inner):
        return "but it is null in every row, so fill it in"
    if types.is_string(inner) or types.is_large_string(inner):
        return "so convert it (cast digits to int64, number other texts, split texts of several ids into lists)"
    if types.is_temporal(inner):
        return "so convert it (to seconds or days, for example)"
    if _is_list(inner):
        return "so convert it (one list per row, without lists inside)"
    return "so convert it"


def whole_numbers(values: pa.Array) -> pa.Array:
    """Ids as integers that fit int64; null and NaN stay null.

    Args:
        values: (n,) of a type that :data:`ID` admits.

    Raises:
        Misfit: a value is no whole number, 2**63 or more, or a float so large that floats no longer count exactly.
    """
    kind = values.type
    if kind == pa.uint64():
        plain = values.fill_null(0).to_numpy(zero_copy_only=False)
        _refuse(plain >= 2**63, plain, "ids below 2**63 are expected, so number them anew")
        return values.cast(pa.int64())
    if types.is_integer(kind):
        return values
    if types.is_null(kind):
        return values.cast(pa.int64())
    if types.is_decimal(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            plain = np.array([0 if v is None else v for v in values.to_pylist()], object)
            bad = np.array([v != int(v) or not -(2**63) <= v < 2**63 for v in plain])
            _refuse(bad, plain, "a whole number below 2**63 is expected")
            raise
    floats = values.to_numpy(zero_copy_only=False)
    is_null = np.isnan(floats)
    floats = np.where(is_null, floats.dtype.type(0), floats)
    _refuse(floats != np.floor(floats), floats, "a whole number is expected")
    exact = 2 ** (np.finfo(floats.dtype).nmant + 1)
    _refuse(np.abs(floats) > exact, floats, f"{kind} counts exactly up to {exact:,} only, so store ids as integers")
    return pa.array(floats.astype(np.int64), mask=is_null)


def numbers(values: pa.Array) -> np.ndarray:
    """Numbers, labels or the parts of vectors as numpy has them: (n,) ints or floats; null is NaN.

    Args:
        values: of a type that :data:`NUMBER` admits.
    """
    if types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif types.is_decimal(values.type) or types.is_null(values.type):
        values = values.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False)


def groups(values: pa.Array) -> pa.Array:
    """Group ids as int64, or as text where they are text.

    Unsigned ids of 64 bits, as hash functions give them, keep their bits: 2**63 and more become negative, here and so
    for every reader, and stay distinct.

    Raises:
        Misfit: see :func:`whole_numbers`.
    """
    if values.type == pa.uint64():
        return values.view(pa.int64())
    return values.cast(pa.large_string()) if not _is_whole(values.type) else whole_numbers(values).cast(pa.int64())


def group_numbers(values: pa.Array) -> np.ndarray:
    """Group ids, none of them null, as (n,) int64: text becomes its hash of 64 bits, the same in every file.

    Raises:
        Misfit: see :func:`whole_numbers`.
    """
    from pandas.util import hash_array  # pandas takes a second to import

    ids = groups(values)
    if types.is_integer(ids.type):
        return ids.to_numpy(zero_copy_only=False)
    encoded = ids.dictionary_encode()
    return hash_array(np.array(encoded.dictionary.to_pylist(), object)).view(np.int64)[encoded.indices.to_numpy()]


def lists(values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Length of each list (n,) int64, 0 where it is null, and what is in them, one after the other.

    Args:
        values: of a type that :data:`IDS` or :data:`VECTOR` admits.
    """
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths, values.flatten()


def _refuse(is_bad: np.ndarray, found: np.ndarray, expected: str) -> None:
    if is_bad.any():
        at = int(is_bad.argmax())
        raise Misfit(at, f"found {found[at]}; {expected}")
