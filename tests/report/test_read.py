"""What the page reads: every kind of file, by itself and beside others, whole and damaged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuxictr_mm import cli
from tests import REPOSITORY
from tests.report.pages import (
    SEEDS_CSV,
    Page,
    ablation,
    explanation,
    save,
    variant,
    write_result,
)

EXPERIMENTS = REPOSITORY / "experiments"


def test_damaged_files_are_named_and_do_not_stop_the_others(
    build: Callable[[], Page], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ablation([variant("full", (1, 2, 3)), variant("no SE", (1, 2, 3))])
    save(tmp_path, "good.json", good)
    save(tmp_path, "cut.json", json.dumps(good)[:500])
    save(tmp_path, "unknown.json", {"kind": "recipe", "flour": 500})
    save(tmp_path, "list.json", [1, 2])
    save(tmp_path, "text.json", ablation([{**variant("full", (1,)), "parameters": "many"}]))
    save(tmp_path, "none.json", ablation([]))
    save(tmp_path, "bare.json", ablation([{"name": "full"}]))
    seen = explanation()
    seen["rows"][0]["history"] = ["Björk"]
    save(tmp_path, "longer.json", seen)
    save(tmp_path, "other.csv", "a,b\n1,2\n")
    save(tmp_path, "short.csv", SEEDS_CSV + "without,MMCTR_demo,3\n")
    save(tmp_path, "words.csv", SEEDS_CSV.replace("0.72", "high"))
    (tmp_path / "in" / "binary.json").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "in" / "notes.txt").write_text("no result")
    page = build()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not on the page: ")]
    expected = {
        "cut.json": "the file: Invalid JSON: EOF while parsing",
        "unknown.json": "no result of a known kind",
        "list.json": "the file: Input should be an object, found list [1, 2]",
        "text.json": "variants 1, parameters: Input should be a valid integer, unable to parse string as an integer, "
        'found str "many"',
        "none.json": "variants: List should have at least 1 item after validation, not 0, found list []",
        "bare.json": "variants 1, overrides: Field required; run the study again.",
        "longer.json": "rows 1: attention over 2 positions, but the history has 1 items",
        "other.csv": "no table of run_seeds.py",
        "short.csv": "line 10: not one value for each of the 9 columns",
        "words.csv": "line 3: AUC: Input should be a valid number, unable to parse string as a number, "
        'found str "high"',
        "binary.json": "the file: Invalid JSON: ",
    }
    assert len(lines) == len(expected)
    for name, words in expected.items():
        [line] = [line for line in lines if f"{os.sep}{name}" in line]
        assert words in line
        assert line.removeprefix("not on the page: ") in page.text
    assert len(page.all("section")) == 1
    assert page.row("no SE")[0]["text"] == "0.8123± 0.0010"


@pytest.mark.parametrize("name", ["in", "absent"])
def test_a_folder_without_results_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "picture.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path / name), "--out", str(tmp_path / "page.html")])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}: no ")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("module", ["jinja2", "markdown_it"])
def test_a_missing_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path)])
    assert capsys.readouterr().err == f"error: this needs {module}; run: pip install 'fuxictr_mm[report]'.\n"


def test_marks_of_markdown_are_text_but_for_code_and_tables(build: Callable[[], Page], tmp_path: Path) -> None:
    text = (
        "# Of *one*\n[a](http://x.y) ![b](c.png) `code|*x*`\n\n| a | b |\n|:--|---|\n| `x` \\| y | 1,234 | 9 |\n| z |\n"
    )
    save(tmp_path, "notes.md", f"{text}\n- item\n\n| no | table |\n")
    page = build()
    assert "# Of *one*\n[a](http://x.y) ![b](c.png) " in page.text
    assert ("code", "code|*x*") in page.texts
    assert [cell["text"] for cell in page.cells] == ["a", "b", "`x` | y", "1,234", "z", "—"]
    assert "- item" in page.text and "| no | table |" in page.text


def test_a_csv_of_seeds_is_summarised_as_a_study_is(build: Callable[[], Page], tmp_path: Path) -> None:
    save(tmp_path, "arms.csv", SEEDS_CSV)
    page = build()
    auc, difference, gauc, *_ = page.row("without")
    assert auc["text"] == "0.6250± 0.0071"
    # differences -0.10 and -0.11: mean -0.105, their deviation 0.00707, t(1) = 12.706 -> 0.0635
    assert difference["text"] == "✗ −0.1050[−0.1685, −0.0415]"
    assert gauc["text"] == "—"
    assert [cell["text"] for cell in page.row("full")[-2:]] == ["1,000", "12"]
    assert "1, 2" in page.text


def test_results_of_single_runs_stand_side_by_side(build: Callable[[], Page], tmp_path: Path) -> None:
    metrics = {"AUC": 0.75, "gAUC": 0.7, "logloss": 0.4}
    write_result(tmp_path, "one", valid=metrics, test=metrics, warnings=["mind the gap"])
    write_result(tmp_path, "two", valid=metrics, test={**metrics, "AUC": 0.8})
    save(tmp_path, "one.params.json", {"not": "a result"})
    save(tmp_path, "one.feature_map.json", {"not": "a result"})
    page = build()
    assert len(page.all("section")) == 1
    assert [cell["text"] for cell in page.row("two")[:2]] == ["★ 0.8000", "+0.0500"]
    assert "one:" in page.text and "mind the gap" in page.text
    assert "abc1234" in page.text


def test_results_of_seeds_are_one_variant(build: Callable[[], Page], tmp_path: Path) -> None:
    for name, auc, seconds in (
        ("a_seed1", 0.7, 2.0),
        ("a_seed2", 0.8, 4.0),
        ("b_seed1", 0.9, 1.0),
        ("b_seed2", 0.98, 1.0),
    ):
        write_result(tmp_path, name, test={"AUC": auc}, seconds=seconds)
    page = build()
    assert [cell["text"] for cell in page.row("a")] == ["0.7500± 0.0707", "reference", "5", "3"]
    assert page.row("b")[1]["text"].startswith("✓ +0.1900")
    assert "2 variants, 2 seeds" in page.text


def test_the_repositorys_own_results_in_a_process_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, str(EXPERIMENTS / "report.py"), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "not on the page" not in ended.stderr
    page = Page(out.read_text(encoding="utf-8"))
    for file in [*(EXPERIMENTS / "results").glob("*.json"), *(EXPERIMENTS / "benchmarks" / "results").glob("*.json")]:
        assert str(file.relative_to(REPOSITORY)) in page.text
