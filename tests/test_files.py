"""Nothing half-written survives, nothing half-read is believed."""

import math
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, file_fingerprint, read_json, remove_leftovers, write_json
from fuxictr_mm.parquet import open_parquet


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    with atomic_write(target) as path:
        path.write_text("whole")
    with pytest.raises(RuntimeError, match="in the middle"), atomic_write(target) as path:
        path.write_text("half")
        raise RuntimeError("in the middle")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "file") as path:
        path.write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_leftovers_of_the_dead_go_and_a_living_writers_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.model"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for name in (f".a.model.{dead.stdout.strip()}-x1.tmp", ".a.model.before.tmp", ".a.model2.before.tmp"):
        (tmp_path / name).touch()
    with atomic_write(target) as living:
        remove_leftovers(target)
        assert {path.name for path in tmp_path.iterdir()} == {living.name, ".a.model2.before.tmp"}


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    one.write_bytes(b"abc")
    same.write_bytes(b"abc")
    other.write_bytes(b"abd")
    assert file_fingerprint(one) == file_fingerprint(same) != file_fingerprint(other)
    assert len(file_fingerprint(one)) == 16


def test_open_parquet_refuses_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"item_id": [1, 2]}), whole)
    assert open_parquet(whole, ("item_id",)).num_rows == 2
    with pytest.raises(DataError, match=r"whole.parquet: column 'label' is missing; found \['item_id'\]"):
        open_parquet(whole, ("item_id", "label"))
    with pytest.raises(DataError, match=r"absent.parquet: file not found"):
        open_parquet(tmp_path / "absent.parquet")
    truncated = tmp_path / "truncated.parquet"
    truncated.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"truncated.parquet: not a whole parquet file \(.* bytes"):
        open_parquet(truncated)
    text = tmp_path / "text.parquet"
    text.write_text("item_id,label\n")
    with pytest.raises(DataError, match=r"text.parquet: not a whole parquet file"):
        open_parquet(text)


def test_a_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = file_fingerprint(file)
    assert file_fingerprint(file) == first
    file.write_bytes(b"two")
    assert file_fingerprint(file) != first
    (tmp_path / "b").write_bytes(b"one")
    assert file_fingerprint(tmp_path / "b") == first
    for age in (10, 20):  # old enough to be remembered
        file.write_bytes(b"%d" % age)
        os.utime(file, (time.time() - age, time.time() - age))
        assert file_fingerprint(file) == file_fingerprint(file) == file_fingerprint(shutil.copy(file, tmp_path / "c"))


def test_leftovers_of_one_file_are_removed(tmp_path: Path) -> None:
    for name in (".x[1].model.ab.tmp", ".x[1].model2.ab.tmp", "x[1].model", ".y.model.ab.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "x[1].model")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x[1].model2.ab.tmp", ".y.model.ab.tmp", "x[1].model"]


class Recipe(BaseModel):
    name: str
    grams: list[float]


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "recipe.json"
    write_json(file, {"name": "Brötchen", "grams": [1, 2.5, math.inf]})
    assert "Brötchen" in file.read_text(encoding="utf-8")
    assert read_json(Recipe, file, "write it again") == Recipe(name="Brötchen", grams=[1.0, 2.5, math.inf])
    assert read_json(dict[str, Any], file, "write it again")["grams"][0] == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"name": "x", "grams": [1, "two"]}', 'grams 2: Input should be a valid number, .*, found str "two"; bake.'),
        ('{"name": "x"}', "grams: Field required; bake."),
        ('{"name": 1, "grams": []}', "name: Input should be a valid string, found int 1; bake."),
        ("[1]", r"the file: Input should be an object, found list \[1\]; bake."),
        ('{"name": ', "the file: Invalid JSON: EOF while parsing a value at line 1 column 9; bake."),
        ("\udcff", "the file: Invalid JSON: expected value at line 1 column 1; bake."),
        ("[" * 100_000, "the file: Invalid JSON: recursion limit exceeded .*; bake."),
        ('{"name": "x", "grams": "' + 70 * "a" + '"}', r"grams: .*, found str \"a{56}\.\.\.; bake."),
    ],
)
def test_json_that_does_not_fit_is_named_with_its_place(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "recipe.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=f"^{re.escape(str(file))}: {sentence}$"):
        read_json(Recipe, file, "bake")


def test_json_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.json: cannot be read \(.*No such file.*\); bake\.$"):
        read_json(Recipe, tmp_path / "absent.json", "bake")
