"""Tables in one file and in many parts, as Spark writes them: the same rows, or one sentence."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_mm.errors import DataError
from fuxictr_mm.parquet import open_parquet, parts_of, table_fingerprint

ROWS = {"a": list(range(10)), "b": [[i] for i in range(10)]}


def write(folder: Path, cuts: tuple[int, ...] = (0, 4, 4, 10)) -> Path:
    """A folder of parts beside what Spark leaves there; one part has no rows."""
    folder.mkdir()
    table = pa.table(ROWS)
    for number, (start, end) in enumerate(pairwise(cuts)):
        pq.write_table(table.slice(start, end - start), folder / f"part-{number:05}.parquet", row_group_size=3)
    for name in ("_SUCCESS", ".part-00000.parquet.crc", "_metadata"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize("name", ["parts", "parts/*", "parts/part-*.parquet", "par*"])
def test_parts_are_one_table(name: str, tmp_path: Path) -> None:
    write(tmp_path / "parts")
    table = open_parquet(tmp_path / name, ["a"])
    assert table.num_rows == 10 and table.read(["a", "b"]).to_pydict() == ROWS
    for size in (1, 3, 7, 100):
        batches = list(table.iter_batches(size, ["a"]))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert [value for batch in batches for value in batch.column(0).to_pylist()] == ROWS["a"]
    assert table.place(3) == (tmp_path / "parts" / "part-00000.parquet", 3)
    assert table.place(4) == (tmp_path / "parts" / "part-00002.parquet", 0)


def test_the_fingerprint_follows_every_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "parts")
    before = table_fingerprint(folder)
    assert before == table_fingerprint(folder) == table_fingerprint(folder / "*")
    pq.write_table(pa.table({"a": [1], "b": [[1]]}), folder / "part-00003.parquet")
    assert table_fingerprint(folder) != before


def touch(name: str) -> Any:
    return lambda folder: (folder / name).write_bytes(b"x")


def unlike(folder: Path) -> None:
    pq.write_table(pa.table({"a": ["x"], "b": [[1]]}), folder / "part-00009.parquet")


def partition(folder: Path) -> None:
    (folder / "day=1").mkdir()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (touch("notes.csv"), r"parts: a folder, in which notes.csv is no .parquet file"),
        (touch("part-00009.parquet"), r"part-00009.parquet: not a whole parquet file \(1 bytes"),
        (unlike, r"part-00009.parquet: column 'a' has the type string here and the type int64 in part-00000.parquet"),
        (partition, r"parts: a folder of partitions \(day=1, ...\), whose names are not read"),
        (lambda folder: (folder / "_temporary").mkdir(), r"a folder _temporary, so the job that writes it has not"),
        (lambda folder: [part.unlink() for part in folder.glob("part*")], r"parts: a folder without parquet files"),
    ],
)  # fmt: skip
def test_folders_that_are_no_table(change: Any, sentence: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts")
    change(folder)
    with pytest.raises(DataError, match=sentence):
        open_parquet(folder)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"x.csv: a .csv file; tables are read from parquet, so convert it"):
        open_parquet(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"no file matches"):
        open_parquet(tmp_path / "*.parquet")
    with pytest.raises(DataError, match=r"absent: file not found"):
        open_parquet(tmp_path / "absent")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice.parquet: column 'a' occurs 2 times; keep one of them"):
        open_parquet(tmp_path / "twice")
    assert parts_of(tmp_path / "twice") == [tmp_path / "twice.parquet"]
