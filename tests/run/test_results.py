"""The result of a run on disk: it comes back as it was, from wherever its folder lies by now."""

import json
from pathlib import Path

import pytest

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import write_sealed
from fuxictr_mm.run import Result

METRICS = {"AUC": 0.75, "gAUC": None}


def result(folder: Path) -> Result:
    groups = {"cold": {"items": 3, "rows": 1200, "AUC": 0.5, "gAUC": None}}
    curve = [{"step": 5, "epoch": 0.5, "train_loss": 0.6, "valid": {"AUC": 0.7}}]
    return Result(
        "x", "clusters", METRICS, {}, {"valid": 0.8}, 5, 2.0, folder / "x.model", "c0ffee", {"valid": groups}, curve,
        ["mind the gap"], "f1",
    )  # fmt: skip


def test_a_result_comes_back_from_another_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    result(here).write()
    here.rename(there)
    read = Result.read(there / "x.result.json")
    assert read == result(there)
    assert repr(read.by_frequency) == repr(result(there).by_frequency)  # counts stay whole numbers


def test_a_damaged_result_is_named_with_its_place(tmp_path: Path) -> None:
    result(tmp_path).write()
    file = tmp_path / "x.result.json"
    file.write_text(file.read_text().replace('"AUC": 0.75', '"AUC": 0.76'))
    with pytest.raises(DataError, match=r"x.result.json: damaged or changed by hand .*; train the experiment again"):
        Result.read(file)
    content = json.loads(file.read_text())
    del content["checksum"]
    write_sealed(file, {**content, "valid": {"AUC": "good"}})
    with pytest.raises(
        DataError, match=r"x.result.json: valid, AUC: .*, found str \"good\"; train the experiment again"
    ):
        Result.read(file)
