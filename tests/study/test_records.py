"""The JSON of a study: every one that is kept is read and written back as it is."""

from pathlib import Path

import pytest

from fuxictr_mm.errors import DataError
from fuxictr_mm.study.records import StudyRecord
from tests import REPOSITORY

FILES = sorted((REPOSITORY / "experiments" / "results").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_kept_study_comes_back_byte_by_byte(file: Path, tmp_path: Path) -> None:
    record = StudyRecord.read(file)
    record.write(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kind": "ablation"', '"kind": "explanation"', "kind: Input should be 'ablation'"),
        ('"seeds"', '"sedes"', "seeds: Field required"),
        ('"mean": ', '"mean": null, "x": ', "mean: Input should be a valid number"),
        ("{", "[", "the file: Invalid JSON"),
    ],
)
def test_what_is_no_study_is_refused_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "study.json").write_text(FILES[0].read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        StudyRecord.read(tmp_path / "study.json")
