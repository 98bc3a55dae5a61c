"""Splits against a loop over the rows, and the sentence that each kind of bad data gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.util import hash_array

from fuxictr_mm.config.schema import Column, DatasetSchema
from fuxictr_mm.data import contract
from fuxictr_mm.data.contract import Split, iter_split, read_split
from fuxictr_mm.errors import DataError
from tests.synthetic import write_parquet

ITEM_IDS = np.array([3, 7, 20, 21, 50])
ROWS: dict[str, Any] = {
    "user_id": [10, 11, 10],
    "item_seq": [[0, 3, 7], [0, 0, 0], [50, 21, 20]],
    "item_id": [20, 3, 7],
    "likes_level": [1, 2, 3],
    "price": [0.5, 1.5, -2.5],
    "label": [1, 0, 0],
}


def make_schema(max_len: int = 100, vocab_size: int | None = 11) -> DatasetSchema:
    columns = (
        Column("likes_level", "categorical", vocab_size=vocab_size),
        Column("price", "numeric"),
        Column("item_id", "categorical", source="item"),
    )
    return DatasetSchema("item_id", "item_seq", "label", "user_id", columns, max_len)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a split of :data:`ROWS`, some columns replaced or (``None``) left out."""

    def write_rows(row_group_size: int = 1000, **changes: Any) -> Path:
        columns = {name: column for name, column in {**ROWS, **changes}.items() if column is not None}
        return write_parquet(pa.table(columns), tmp_path / "valid.parquet", row_group_size=row_group_size)

    return write_rows


def read(path: Path, item_ids: np.ndarray = ITEM_IDS, **changes: Any) -> Split:
    return read_split(path, make_schema(**changes), item_ids, require_label=True)


def histories(split: Split) -> list[list[int]]:
    return [part.tolist() for part in np.split(split.history_values, split.history_offsets[1:-1])]


def test_arrays_and_types(write: Callable[..., Path]) -> None:
    split = read(write())
    assert split.item.tolist() == [3, 1, 2] and split.item.dtype == np.int32
    assert histories(split) == [[1, 2], [], [5, 4, 3]] and split.history_values.dtype == np.int32
    assert split.history_offsets.tolist() == [0, 2, 2, 5] and split.history_offsets.dtype == np.int64
    assert split.context["likes_level"].tolist() == [1, 2, 3] and split.context["likes_level"].dtype == np.int32
    assert split.context["price"].tolist() == [0.5, 1.5, -2.5] and split.context["price"].dtype == np.float32
    assert split.label is not None and split.label.tolist() == [1, 0, 0] and split.label.dtype == np.float32
    assert split.group is not None and split.group.tolist() == [10, 11, 10] and split.group.dtype == np.int64
    assert len(split) == 3 and set(split.context) == {"likes_level", "price"}


@pytest.mark.parametrize(
    "item_seq",
    [
        [[3, 7], [], [50, 21, 20]],
        [[3, 0, 7, 0], [0], [50, 21, 20]],
        [[None, 3, 7], None, [50, 21, 20]],
        pa.array([[0, 3, 7], [0, 0, 0], [50, 21, 20]], pa.large_list(pa.int32())),
        pa.array([[0, 3, 7], None, [50, 21, 20]], pa.list_(pa.uint8(), 3)),
    ],
    ids=["ragged", "padding anywhere", "nulls", "large_list", "fixed_size_list"],
)
def test_forms_of_histories(write: Callable[..., Path], item_seq: Any) -> None:
    assert histories(read(write(item_seq=item_seq))) == [[1, 2], [], [5, 4, 3]]


def test_the_latest_items_are_kept(write: Callable[..., Path]) -> None:
    path = write()
    assert histories(read(path, max_len=2)) == [[1, 2], [], [4, 3]]
    assert histories(read(path, max_len=1)) == [[2], [], [3]]


def test_contiguous_ids_in_any_order_and_large_ones(write: Callable[..., Path]) -> None:
    path = write(item_seq=[[1, 2], [], [3]], item_id=[3, 2, 1])
    assert read(path, np.array([1, 2, 3])).item.tolist() == [3, 2, 1]
    assert histories(read(path, np.array([3, 1, 2]))) == [[2, 3], [], [1]]
    large = write(item_seq=[[10**15], [], [3]], item_id=[3, 3, 10**15])
    assert histories(read(large, np.array([3, 10**15]))) == [[2], [], [1]]


def test_one_row(write: Callable[..., Path]) -> None:
    split = read(write(**{name: column[:1] for name, column in ROWS.items()}))
    assert len(split) == 1 and histories(split) == [[1, 2]]


@pytest.mark.parametrize(
    "label", [[True, False, False], [1.0, 0.0, 0.0], np.array([1, 0, 0], np.int8), np.array([1, 0, 0], np.float32)]
)
def test_labels_of_any_type(write: Callable[..., Path], label: Any) -> None:
    split = read(write(label=label))
    assert split.label is not None and split.label.tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
def test_integers_of_any_width(write: Callable[..., Path], kind: pa.DataType) -> None:
    changes = {name: pa.array(ROWS[name], kind) for name in ("user_id", "item_id", "likes_level")}
    split = read(write(**changes, price=pa.array([1, 2, 3], kind)))
    assert split.item.tolist() == [3, 1, 2] and split.context["price"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("batch_rows", [1, 2, 1000])
def test_text_users_become_their_hashes(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, batch_rows: int
) -> None:
    monkeypatch.setattr(contract, "CHUNK_ROWS", batch_rows)
    split = read(write(user_id=pa.array(["bob", "ann", "bob"]).cast(kind), row_group_size=1))
    bob, ann = hash_array(np.array(["bob", "ann"], object)).view(np.int64).tolist()
    assert split.group is not None and split.group.tolist() == [bob, ann, bob]


def test_a_test_split_may_lack_labels(write: Callable[..., Path]) -> None:
    path = write(label=None)
    split = read_split(path, make_schema(), ITEM_IDS, require_label=False)
    assert split.label is None and len(split) == 3
    with pytest.raises(DataError, match=r"valid\.parquet: column 'label' is missing; found \['user_id'"):
        read(path)


@pytest.mark.parametrize("row_group_size", [1, 2, 1000])
@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 1000])
def test_chunks_are_the_rows_of_the_file(write: Callable[..., Path], row_group_size: int, chunk_rows: int) -> None:
    """Whatever the row groups are, every chunk but the last is full; what is kept is as in the file."""
    path = write(row_group_size, user_id=["ann", "bob", "ann"], label=None, note=[[1], None, []])
    chunks = list(iter_split(path, make_schema(), ITEM_IDS, label=False, keep=("user_id",), chunk_rows=chunk_rows))
    assert [len(chunk) for chunk, _ in chunks] == {1: [1, 1, 1], 2: [2, 1]}.get(chunk_rows, [3])
    assert [item for chunk, _ in chunks for item in chunk.item.tolist()] == [3, 1, 2]
    assert [history for chunk, _ in chunks for history in histories(chunk)] == [[1, 2], [], [5, 4, 3]]
    assert [user for _, kept in chunks for user in kept["user_id"].to_pylist()] == ["ann", "bob", "ann"]
    assert all(chunk.label is None and chunk.group is None and set(kept) == {"user_id"} for chunk, kept in chunks)


def test_a_chunk_may_have_no_history_at_all(write: Callable[..., Path]) -> None:
    path = write(item_seq=pa.array([None, [], [0]], pa.list_(pa.int64())))
    (chunk, _), *more = iter_split(path, make_schema(), ITEM_IDS, label=True)
    assert not more and histories(chunk) == [[], [], []] and chunk.label is not None
    with pytest.raises(DataError, match="holds padding"):
        read(path)


def test_rows_are_counted_over_all_chunks(write: Callable[..., Path]) -> None:
    path = write(item_id=[20, 3, 8], user_id=[1, None, 3])
    chunks = iter_split(path, make_schema(), ITEM_IDS, label=True, chunk_rows=1, if_unknown="ask for it")
    next(chunks), next(chunks)
    with pytest.raises(
        DataError, match=r"'item_id', row 2 \(counted from 0\): found 8; the item .* such id; ask for it\.$"
    ):
        next(chunks)
    kept = iter_split(path, make_schema(), np.array([*ITEM_IDS, 8]), label=True, keep=["user_id"], chunk_rows=1)
    next(kept)
    with pytest.raises(DataError, match=r"column 'user_id', row 1 \(counted from 0\): null"):
        next(kept)
    with pytest.raises(DataError, match="column 'ID' is missing"):
        next(iter_split(path, make_schema(), ITEM_IDS, label=True, keep=["ID"]))


def test_items_that_stand_unsorted_behind_the_others_are_found(write: Callable[..., Path]) -> None:
    """As :meth:`ItemTable.with_items` puts them."""
    ids = np.array([3, 7, 21, 50, 20])
    assert histories(read(write(), ids)) == [[1, 2], [], [4, 3, 5]]
    assert read(write(), ids).item.tolist() == [5, 1, 2]


row = st.tuples(st.lists(st.sampled_from([0, 0, 3, 7, 20, 21, 50, None]), max_size=7), st.sampled_from([3, 20, 50]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(row, min_size=1, max_size=12), group_rows=st.integers(1, 5), batch_rows=st.integers(1, 5),
       max_len=st.integers(1, 8))  # fmt: skip
def test_against_a_loop(
    write: Callable[..., Path],
    rows: list[tuple[list[int | None], int]],
    group_rows: int,
    batch_rows: int,
    max_len: int,
) -> None:
    index = {int(raw): i + 1 for i, raw in enumerate(ITEM_IDS)}
    rows = [*rows, ([3], 3)]  # one history at least
    n = len(rows)
    path = write(
        row_group_size=group_rows,
        user_id=list(range(n)),
        item_seq=pa.array([history for history, _ in rows], pa.list_(pa.int64())),
        item_id=[item for _, item in rows],
        likes_level=[i % 11 for i in range(n)],
        price=[i / 2 for i in range(n)],
        label=[i % 2 for i in range(n)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "CHUNK_ROWS", batch_rows)
        split = read(path, max_len=max_len)
    assert histories(split) == [[index[i] for i in history if i][-max_len:] for history, _ in rows]
    assert split.item.tolist() == [index[item] for _, item in rows]
    assert split.context["likes_level"].tolist() == [i % 11 for i in range(n)]
    assert split.label is not None and split.label.tolist() == [i % 2 for i in range(n)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"item_seq": None}, "column 'item_seq' is missing; found ['user_id', 'item_id', 'likes_level'"),
        ({"price": None}, "column 'price' is missing"),
        ({"item_id": ["20", "3", "7"]}, "column 'item_id' has type string; integer ids are expected"),
        (
            {"item_id": [20.0, 3.5, 7.0]},
            "column 'item_id', row 1 (counted from 0): found 3.5; a whole number is expected.",
        ),
        ({"item_seq": [1, 2, 3]}, "column 'item_seq' has type int64; lists of integer ids are expected"),
        ({"item_seq": [["3"], [], []]}, "column 'item_seq' has type list<item: string>; lists of integer ids"),
        ({"likes_level": ["1", "2", "3"]}, "'likes_level' has type string; integer ids (type: categorical) are"),
        ({"price": ["a", "b", "c"]}, "column 'price' has type string; numbers (type: numeric) are expected"),
        ({"label": ["1", "0", "0"]}, "column 'label' has type string; labels 0 and 1 are expected"),
        (
            {"user_id": [1.5, 2.0, 3.0]},
            "column 'user_id', row 0 (counted from 0): found 1.5; a whole number is expected",
        ),
        ({"item_id": [20, None, 7]}, "column 'item_id', row 1 (counted from 0): null; a value is expected"),
        ({"label": [1, 0, None]}, "column 'label', row 2 (counted from 0): null"),
        ({"likes_level": [None, 2, 3]}, "column 'likes_level', row 0 (counted from 0): null"),
        ({"price": [0.5, None, 1.0]}, "column 'price', row 1 (counted from 0): null"),
        ({"user_id": [1, 2, None]}, "column 'user_id', row 2 (counted from 0): null"),
        ({"label": [1, 0, 2]}, "column 'label', row 2 (counted from 0): found 2; a label must be 0 or 1."),
        ({"label": [1.0, 0.5, 0.0]}, "column 'label', row 1 (counted from 0): found 0.5; a label must be 0 or 1."),
        ({"label": [1.0, 0.0, float("nan")]}, "column 'label', row 2 (counted from 0): found nan"),
        ({"item_id": [20, 0, 7]}, "column 'item_id', row 1 (counted from 0): found 0; 0 is the padding item and"),
        ({"item_id": [20, 3, 8]}, "'item_id', row 2 (counted from 0): found 8; the item table has no such id"),
        ({"item_id": [20, -3, 8]}, "'item_id', row 1 (counted from 0): found -3; the item table has no such id"),
        ({"item_seq": [[0, 3], [], [0, 7, 99]]}, "'item_seq', row 2 (counted from 0): found id 99, which the item"),
        ({"item_seq": [[0, 3], [], [99]]}, "column 'item_seq', row 2 (counted from 0): found id 99, which the"),
        ({"item_seq": [[0, -1], [], [0, 7]]}, "column 'item_seq', row 0 (counted from 0): found id -1, which the"),
        ({"likes_level": [1, 11, 3]}, "row 1 (counted from 0): found 11; an id in 0..10 is expected (vocab_size=11"),
        ({"likes_level": [1, 2, -1]}, "row 2 (counted from 0): found -1; an id in 0..10 is expected"),
        ({"price": [0.5, float("nan"), 1.0]}, "column 'price', row 1 (counted from 0): found nan; a finite number"),
        ({"price": [0.5, 1.0, float("inf")]}, "column 'price', row 2 (counted from 0): found inf; a finite number"),
        ({"price": [1e300, 1.0, 1.0]}, "column 'price', row 0 (counted from 0): found 1e+300; a finite number"),
        ({"item_seq": [[0, 0], [], None]}, "'item_seq' holds padding (0 or null) only in all 3 rows"),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 1000])
def test_the_sentence_for_bad_values(
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    sentence: str,
    batch_rows: int,
) -> None:
    monkeypatch.setattr(contract, "CHUNK_ROWS", batch_rows)
    path = write(**changes)
    with pytest.raises(DataError) as refused:
        read(path)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_an_unknown_id_is_refused_even_where_max_len_would_cut_it(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="found id 99"):
        read(write(item_seq=[[99, 3], [], []]), max_len=1)


def test_without_a_vocabulary_an_id_must_fit_int32(write: Callable[..., Path]) -> None:
    assert read(write(likes_level=[1, 2, 2**31 - 2]), vocab_size=None).context["likes_level"][2] == 2**31 - 2
    with pytest.raises(DataError, match=r"found 4294967297; an id in 0\.\.2147483646 is expected \(the largest id\)"):
        read(write(likes_level=[1, 2, 2**32 + 1]), vocab_size=None)


def test_an_empty_split(write: Callable[..., Path]) -> None:
    path = write()
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match=r"valid\.parquet: 0 rows; a split needs at least one"):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet: file not found; check the path"):
        read(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("keep", [0, 3, 200, -10])
def test_a_truncated_file(write: Callable[..., Path], keep: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"valid\.parquet: not a whole parquet file \([\d,]+ bytes; .*download it"):
        read(path)


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_text("user_id,item_id\n1,2\n" * 10)
    with pytest.raises(DataError, match=r"train\.parquet: not a whole parquet file"):
        read(path)


def test_damage_that_only_reading_shows(write: Callable[..., Path]) -> None:
    path = write(row_group_size=1)
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)  # item_seq of the last row
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"valid\.parquet: damaged inside, cannot be decoded \(.*copy or download") as e:
        read(path)
    assert "\n" not in str(e.value)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "rows"), [("train", 221_635), ("valid", 23_995), ("test", 36_095)])
def test_real_splits_read(real_data: Path, name: str, rows: int) -> None:
    path = real_data / "lfm2k" / f"{name}.parquet"
    columns = (Column("likes_level", "categorical", vocab_size=11), Column("item_id", "categorical", source="item"))
    schema = DatasetSchema("item_id", "item_seq", "label", "user_id", columns, 50)
    split = read_split(path, schema, np.arange(1, 1426), require_label=True)
    raw = pq.read_table(path, columns=["item_seq", "item_id"])
    assert len(split) == rows
    assert split.label is not None and 0.19 < split.label.mean() < 0.21
    np.testing.assert_array_equal(split.item, raw["item_id"].to_numpy())
    flat = raw["item_seq"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(split.history_values, flat[flat != 0])
