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

from fuxictr_mm.errors import DataError, sentence
from fuxictr_mm.files import (
    atomic_write,
    check_writable,
    file_fingerprint,
    read_json,
    read_sealed,
    remove_leftovers,
    temporary_folder,
    write_json,
    write_sealed,
)
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
    pid = dead.stdout.strip()
    mine, elsewhere = f".a.model.{pid}-x1.tmp", f".a.model.{pid}@another.host-x1.tmp"
    for name in (mine, elsewhere, ".a.model.others.tmp", "a.model"):
        (tmp_path / name).touch()
    with atomic_write(target) as living:
        ours = tmp_path / living.name.replace(str(os.getpid()), pid)
        ours.touch()  # as this version names it
        remove_leftovers(tmp_path)
        left = {living.name, elsewhere, ".a.model.others.tmp", "a.model"}
        assert {path.name for path in tmp_path.iterdir()} == left


def test_a_temporary_folder_goes_and_so_do_those_of_the_dead(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with temporary_folder(tmp_path / "data") as folder:
        left = tmp_path / folder.name.replace(str(os.getpid()), dead.stdout.strip())
        left.mkdir()
        (left / "half.parquet").touch()
        with temporary_folder(tmp_path / "other"):
            assert folder.is_dir() and not left.exists()
    assert not list(tmp_path.iterdir())


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


class Recipe(BaseModel):
    name: str
    grams: list[float]


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "recipe.json"
    write_json(file, {"name": "Brötchen", "grams": [1, 2.5], "price": (math.inf, math.nan, 1e400)})
    assert "Brötchen" in file.read_text(encoding="utf-8")
    assert read_json(Recipe, file, "write it again") == Recipe(name="Brötchen", grams=[1.0, 2.5])
    content = read_json(dict[str, Any], file, "write it again")
    assert content["grams"][0] == 1 and content["price"] == [None, None, None]  # JSON has no such numbers


def test_a_sealed_file_shows_every_change(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    content = {"name": "Brötchen", "grams": [1, 2.5, math.nan], "of": {"b": 1, "a": Path("x")}}
    write_sealed(file, content)
    assert read_sealed(file, "bake") == {**content, "grams": [1, 2.5, None], "of": {"b": 1, "a": "x"}}
    whole = file.read_text(encoding="utf-8")
    for before, after in (("2.5", "2.6"), ("Brötchen", "Brotchen"), ('"b"', '"c"')):
        file.write_text(whole.replace(before, after), encoding="utf-8")
        with pytest.raises(DataError, match=r"recipe.json: damaged or changed by hand \(.*\); bake\."):
            read_sealed(file, "bake")
    write_json(file, {"name": "of an earlier version"})
    with pytest.raises(DataError, match="has no checksum, so it is damaged or of an earlier version; bake"):
        read_sealed(file, "bake")


def test_a_system_error_names_the_final_path_whatever_library_found_it(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    for err in (OSError(28, "No space left"), RuntimeError("I/O error: No space left on device (os error 28)")):
        with pytest.raises(OSError) as caught, atomic_write(target):
            raise err
        assert (caught.value.errno, caught.value.filename) == (28, str(target))
        assert sentence(caught.value) == (f"{target}: no space left on device; free some space, or name another place.")
    with pytest.raises(ValueError, match="its own"), atomic_write(target):
        raise ValueError("its own")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out.csv")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("x")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
    for path, what in ((tmp_path / "new", "a folder is where a file"), (tmp_path / "file" / "x", "a file is where a"),
                       (tmp_path / ("x" * 300), "choose a shorter name")):  # fmt: skip
        with pytest.raises(OSError) as caught:
            check_writable(path)
        assert what in sentence(caught.value)


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
