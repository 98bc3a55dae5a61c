"""Every form in which pandas, polars, pyarrow and Spark write ids, lists and numbers: read right, or refused.

The rows of the table in ``dataset_config/README.md``.
"""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.util import hash_array

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.data.contract import read_split
from fuxictr_mm.errors import DataError

SCHEMA = DatasetSchema(
    "item_id", "item_seq", "label", "user_id",
    (Column("level", "categorical", vocab_size=9), Column("price", "numeric"),
     Column("item_id", "categorical", "item")),
    5,
)  # fmt: skip
PLAIN: dict[str, Any] = {
    "user_id": [1, 2, 2],
    "item_id": [3, 1, 2],
    "item_seq": [[1, 2], [], [3]],
    "level": [1, 2, 3],
    "price": [1.0, 0.0, 2.0],
    "label": [1, 0, 1],
}
INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = [*INTEGERS, pa.float32(), pa.float64(), pa.decimal128(10, 2), pa.dictionary(pa.int8(), pa.int64())]
LISTS = [
    kind(inner)
    for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    for inner in (pa.int8(), pa.uint64(), pa.float64(), pa.decimal128(5, 0))
]


def read(folder: Path, **changes: Any) -> Any:
    try:
        pq.write_table(pa.table({**PLAIN, **changes}), folder / "x.parquet")
    except pa.ArrowNotImplementedError as err:
        pytest.skip(f"pyarrow {pa.__version__} cannot write this: {err}")
    return read_split(folder / "x.parquet", SCHEMA, np.array([1, 2, 3]), require_label=True, progress=False)


def check(split: Any) -> None:
    assert split.item.tolist() == PLAIN["item_id"] and split.history_values.tolist() == [1, 2, 3]
    assert np.diff(split.history_offsets).tolist() == [2, 0, 1]
    assert split.context["level"].tolist() == PLAIN["level"] and split.context["price"].tolist() == PLAIN["price"]
    assert split.label.tolist() == PLAIN["label"]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_forms_of_whole_numbers(kind: pa.DataType, tmp_path: Path) -> None:
    def of(values: list[Any]) -> pa.Array:
        if pa.types.is_dictionary(kind):
            return pa.array(values, pa.int64()).dictionary_encode()
        return pa.array([Decimal(int(v)) for v in values] if pa.types.is_decimal(kind) else values, kind)

    split = read(tmp_path, **{name: of(PLAIN[name]) for name in PLAIN if name != "item_seq"})
    check(split)
    assert split.group.tolist() == PLAIN["user_id"]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_forms_of_lists(kind: pa.DataType, tmp_path: Path) -> None:
    decimal = pa.types.is_decimal(kind.value_type)
    lists = [[Decimal(i) if decimal else i for i in ids] for ids in PLAIN["item_seq"]]
    check(read(tmp_path, item_seq=pa.array(lists, kind)))


def test_other_forms_that_are_read(tmp_path: Path) -> None:
    check(read(tmp_path, item_seq=pa.array([[1, 2], [0, 0], [0, 3]], pa.list_(pa.int64(), 2))))
    check(read(tmp_path, item_seq=pa.array([[1, None, 2], None, [3, 0]])))  # null is padding
    check(read(tmp_path, item_seq=pa.array([[1.0, 2.0], [np.nan], [3.0]])))  # pandas' null
    check(read(tmp_path, label=pa.array([True, False, True])))
    hashed = read(tmp_path, user_id=pa.array([2**63 + 5, 5, 5], pa.uint64())).group.tolist()
    assert hashed[1] == hashed[2] != hashed[0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_forms_of_text_users(kind: pa.DataType, tmp_path: Path) -> None:
    plain = pa.array(["a", "b", "b"])
    texts = plain.dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(plain.to_pylist(), kind)
    found = read(tmp_path, user_id=texts).group.tolist()
    assert found == hash_array(np.array(["a", "b", "b"], object)).view(np.int64).tolist()


REFUSED = [
    ("item_id", [3.5, 1, 2], "row 0 (counted from 0): found 3.5; a whole number is expected."),
    ("item_id", [3.0, None, 2], "row 1 (counted from 0): null; a value is expected in every row"),
    ("item_id", [3.0, float("nan"), 2], "row 1 (counted from 0): null; a value is expected in every row"),
    ("item_id", ["3", "1", "2"], "has type string; integer ids are expected, so convert it (cast digits to int64"),
    ("item_id", [True, False, True], "has type bool; integer ids are expected, so convert it."),
    ("item_id", pa.array([2**63, 1, 2], pa.uint64()), "found 9223372036854775808; ids below 2**63 are expected"),
    ("item_id", pa.array([3, 1, 2], pa.timestamp("s")), "has type timestamp"),
    ("item_id", [Decimal("3.5"), Decimal(1), Decimal(2)], "found 3.5; a whole number below 2**63"),
    ("item_id", [1e17, 1, 2], "row 0 (counted from 0): found 1e+17; double counts exactly up to"),
    ("item_id", pa.nulls(3), "has type null; integer ids are expected, but it is null in every row, so fill it in."),
    ("item_seq", ["1 2", "", "3"], "has type string; lists of integer ids are expected, so convert it"),
    ("item_seq", [["1"], [], ["3"]], "lists of integer ids are expected, so convert it (cast digits to int64"),
    ("item_seq", [[[1]], [], [[3]]], "one list per row, without lists inside"),
    ("item_seq", [[1, 2.5], [], [3]], "row 0 (counted from 0): found 2.5; a whole number is expected."),
    ("item_seq", [1, 2, 3], "has type int64; lists of integer ids are expected, so convert it."),
    ("level", [-1, 1, 2], "row 0 (counted from 0): found -1; an id in 0..8 is expected (vocab_size=9"),
    ("price", ["1", "2", "3"], "has type string; numbers (type: numeric) are expected, so convert it"),
    ("price", [1.0, float("inf"), 2.0], "row 1 (counted from 0): found inf; a finite number within float32"),
    ("label", [0, 2, 1], "row 1 (counted from 0): found 2; a label must be 0 or 1."),
    ("label", ["0", "1", "0"], "has type string; labels 0 and 1 are expected, so convert it"),
    ("user_id", [1.5, 2, 2], "row 0 (counted from 0): found 1.5; a whole number is expected."),
    ("user_id", ["a", None, "b"], "row 1 (counted from 0): null; a value is expected in every row"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "sentence"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_forms_that_are_refused(name: str, values: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"x\.parquet: column '{name}'.*{re.escape(sentence)}"):
        read(tmp_path, **{name: values})
