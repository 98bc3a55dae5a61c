"""The page of results: what is on it, that it says the files' numbers, and that nothing from a file can act on it."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fuxictr_mm import cli
from fuxictr_mm.config.yaml_files import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
VOID = {"meta", "br", "hr", "img", "link", "input", "base", "embed", "source"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"
NAN = float("nan")


class Page(HTMLParser):
    """A parsed page; fails where an element is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []  # (innermost element, text)
        self.cells: list[dict[str, str]] = []  # attributes and text of table cells, with their section
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "section":
            self.section = values["id"]
        if tag in ("td", "th"):
            self.cells.append({**values, "tag": tag, "in": self.section, "text": ""})

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if {"td", "th"} & set(self.open):
            self.cells[-1]["text"] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(data for tag, data in self.texts if tag not in ("script", "style"))

    def row(self, name: str, section: str = "") -> list[dict[str, str]]:
        """The cells beside the first row head that begins with ``name``."""
        cells = [cell for cell in self.cells if cell["in"].startswith(section)]
        start = next(n for n, c in enumerate(cells) if c.get("scope") == "row" and c["text"].startswith(name))
        end = next((n for n in range(start + 1, len(cells)) if cells[n]["tag"] == "th"), len(cells))
        return cells[start + 1 : end]


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], Page]:
    """Builds the page of ``tmp_path / "in"``."""

    def run() -> Page:
        cli.main(["report", str(tmp_path / "in"), "--out", str(tmp_path / "page.html")])
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    (tmp_path / "in").mkdir()
    return run


def save(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "in" / name).write_text(text, encoding="utf-8")


def estimate(mean: float, difference: float, half: float | None) -> dict[str, float | None]:
    low, high = (None, None) if half is None else (difference - half, difference + half)
    return {"mean": mean, "std": None if half is None else 0.001, "difference": difference, "low": low, "high": high}


def variant(name: str, seeds: Sequence[int], difference: float = 0.0, half: float | None = None) -> dict[str, Any]:
    """AUC and gAUC move by ``difference``, logloss by as much the other way."""
    half = None if len(seeds) == 1 else half or 0.001
    means = {"AUC": 0.81230987, "gAUC": 0.84, "logloss": 0.43}
    signs = {"AUC": 1, "gAUC": 1, "logloss": -1}
    summary = {m: estimate(means[m] + signs[m] * difference, signs[m] * difference, half) for m in means}
    group = {"items": 40, "rows": 1234, "AUC": 0.7 + difference, "gAUC": None, "logloss": 0.5}
    runs = [
        {
            "seed": seed,
            "valid": means,
            "test": means,
            "by_frequency": {"test": {"cold": group, "warm": {**group, "rows": 5678}}, "valid": {"warm": group}},
            "curve": [
                {
                    "step": step,
                    "epoch": step / 100,
                    "train_loss": 0.6 - step / 1000,
                    "valid": {"AUC": 0.7 + step / 9999},
                }
                for step in (100, 200, 300)
            ],
            "warnings": ["valid AUC is far above test AUC"] if seed == 1 else [],
            "seconds": 12.0,
        }
        for seed in seeds
    ]
    return {
        "name": name,
        "overrides": {"use_se": False},
        "parameters": 1377889,
        "train_seconds": 127.4,
        "latency_p50_ms": 3.25,
        "summary": {"test": summary, "valid": summary},
        "runs": runs,
        "explained_variance": {"item_emb": {"txt_emb_MiniLM": [0.31, 0.2, 0.1]}},
    }


def ablation(variants: Sequence[dict[str, Any]], seeds: Sequence[int] = (1, 2, 3), **more: Any) -> dict[str, Any]:
    about = {"command": "python run_ablation.py --study parts", "commit": "abc1234", "machine": "2 cores, x86_64"}
    study = {"kind": "ablation", "study": "parts", "dataset_id": "LFM2k", "base_expid": "DIN", "seeds": list(seeds)}
    return {**study, **about, "date": "2026-11-20", "variants": list(variants), **more}


def explanation() -> dict[str, Any]:
    row = {"row": 17, "split": "test", "label": 1, "score": 0.8125, "target": "Nina Simone"}
    return {
        "kind": "explanation", "expid": "DIN_demo", "dataset_id": "LFM2k", "command": "python explain.py",
        "commit": "abc1234", "machine": "2 cores",
        "summary": [
            {"layer": 0, "head": h, "entropy": 1.25, "entropy_uniform": 2.5, "share_on_padding": 0.0, "rows": 640}
            for h in (0, 1)
        ],
        "rows": [
            {**row, "history": ["Björk", "Low"], "attention": [[[0.125, 0.875], [0.5, 0.5]]]},
            {**row, "row": 18, "history": [], "attention": [[[], []]]},
        ],
    }  # fmt: skip


BENCHMARK = {
    "benchmark": "ranking", "command": "python benchmarks/ranking.py", "settings": {"rounds": 3}, "machine": "2 cores",
    "versions": {"torch": "2.13.0"}, "commit": "def5678", "date": "2026-11-21",
    "rows": [
        {"arm": "ours", "ms p50": 12.345678, "MB": 41303, "times": "1.0 (0.9 to 1.1)", "losses": [1.0, 2.0]},
        {"arm": "TransAct", "ms p50": NAN, "MB": None, "times": "2.0", "losses": []},
    ],
}  # fmt: skip
SEEDS_CSV = """expid,dataset_id,seed,split,AUC,gAUC,logloss,parameters,seconds
full,MMCTR_demo,1,valid,0.70,0.6,0.5,1000,10.0
full,MMCTR_demo,1,test,0.72,0.6,0.5,1000,10.0
full,MMCTR_demo,2,valid,0.71,0.6,0.5,1000,14.0
full,MMCTR_demo,2,test,0.74,0.6,0.5,1000,14.0
without,MMCTR_demo,1,valid,0.60,0.6,0.5,900,8.0
without,MMCTR_demo,1,test,0.62,,0.5,900,8.0
without,MMCTR_demo,2,valid,0.61,0.6,0.5,900,8.0
without,MMCTR_demo,2,test,0.63,,0.5,900,8.0
"""


def everything(folder: Path) -> None:
    three = [variant("full", (1, 2, 3)), variant("no SE", (1, 2, 3), -0.01), variant("no MHTA", (1, 2, 3), 0.0004)]
    save(folder, "parts_LFM2k.json", ablation(three))
    save(folder, "parts_LFM2k.md", "| a copy |\n| --- |\n| of the JSON |\n")
    over = [{**variant(str(x), (1,)), "x": x} for x in (1, 4, 32)]
    save(folder, "first_k_LFM2k.json", ablation(over, [1], study="first_k", over="first_k_cols"))
    save(folder, "attention_DIN_demo.json", explanation())
    save(folder, "ranking.json", BENCHMARK)
    save(folder, "arms.csv", SEEDS_CSV)
    save(
        folder,
        "arms.md",
        "| a copy |\n| --- |\n| x |\n\nCommand: `python run_seeds.py`\nSeeds [1, 2]; commit 75e7131.\n",
    )
    save(
        folder, "kills.md", "30 of 30 ended well.\n\n| run | same |\n| --- | --- |\n| 1 | yes |\n\nCommand: `kill.py`\n"
    )


def test_every_kind_of_result_has_its_section(build: Callable[[], Page], tmp_path: Path) -> None:
    everything(tmp_path)
    page = build()
    kinds = [attributes["data-kind"] for attributes in page.all("section")]
    assert kinds == ["study", "study", "study", "attention", "benchmark", "document"]
    titles = [data for tag, data in page.texts if tag in ("h3", "summary")]
    for part in ("Metrics", "Differences to full", "Training curves", "By item frequency, test", "PCA", "Heads"):
        assert part in titles, titles
    assert "By item frequency, valid" in titles
    assert "Over first_k_cols" in titles
    assert next(data for tag, data in page.texts if tag == "title") == "Results of fuxictr_mm, newest 2026-11-21"
    text = page.text
    for origin in ("python run_ablation.py --study parts", "abc1234", "2 cores, x86_64", "1, 2, 3", "rounds: 3"):
        assert origin in text
    assert "commit 75e7131" in text  # from the Markdown beside the csv
    assert "a copy" not in text
    assert "30 of 30 ended well." in text
    assert "full, seed 1:" in text and "valid AUC is far above test AUC" in text


def test_the_page_stands_alone(build: Callable[[], Page], tmp_path: Path) -> None:
    everything(tmp_path)
    page = build()
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.all("a")]
    assert len(links) >= 7
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    for tag, attributes in page.elements:
        assert "src" not in attributes and "srcset" not in attributes, tag
        assert tag not in ("link", "img", "iframe", "object", "base")
    assert "http" not in page.source.replace("http-equiv", "")
    assert "@import" not in page.source and "url(" not in page.source
    charts = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(charts) >= 12
    assert all(len(attributes["aria-label"]) > 20 for attributes in charts)


def test_numbers_are_those_of_the_file(build: Callable[[], Page], tmp_path: Path) -> None:
    everything(tmp_path)
    page = build()
    auc, difference, *_ = page.row("no SE", "parts")
    assert auc["text"] == "0.8023± 0.0010"
    assert float(auc["data-value"]) == 0.81230987 - 0.01
    assert difference["text"] == "✗ −0.0100[−0.0110, −0.0090]"
    assert "worse" in difference["class"]
    assert "1,377,889" in [cell["text"] for cell in page.row("full", "parts")]
    assert "3.25" in [cell["text"] for cell in page.row("full", "parts")]
    milliseconds, megabytes, times = page.row("ours", "ranking")
    assert (milliseconds["text"], milliseconds["data-value"]) == ("12.35", "12.345678")
    assert (megabytes["text"], times["text"]) == ("41,303", "1.0 (0.9 to 1.1)")
    assert [cell["text"] for cell in page.row("TransAct", "ranking")] == ["—", "—", "2.0"]
    assert "Only in the file: losses." in page.text
    shares = page.row("Björk")
    assert [cell["text"] for cell in shares] == ["12.5\N{NO-BREAK SPACE}%", "50.0\N{NO-BREAK SPACE}%"]
    assert [cell["style"] for cell in shares] == ["--share: 0.143", "--share: 0.571"]
    assert "score 0.8125" in page.text


def test_what_is_not_known_is_a_dash_and_no_zero(build: Callable[[], Page], tmp_path: Path) -> None:
    broken = variant("broken", (1, 2, 3), -0.01)
    broken["summary"]["test"]["AUC"] = {"mean": NAN, "std": None, "difference": NAN, "low": None, "high": NAN}
    broken |= {"parameters": None, "latency_p50_ms": None}
    for run in broken["runs"]:
        run["curve"][1]["train_loss"] = NAN
        run["by_frequency"]["test"]["cold"]["AUC"] = None
    save(tmp_path, "a.json", ablation([variant("full", (1, 2, 3)), broken]))
    page = build()
    cells = page.row("broken")
    assert [cell["text"] for cell in cells[:2]] == ["—", "—"]
    assert "data-value" not in cells[0]
    assert [cell["text"] for cell in cells].count("—") == 5  # and valid AUC, parameters, latency
    cold = next(c for c in page.all("svg") if c.get("aria-label", "").startswith("test AUC on cold"))
    assert "broken —" in cold["aria-label"]
    assert "nan" not in page.text.lower().split()
    # the gap of the curve: two lines of one step each are no line
    curves = page.source[page.source.index('aria-label="train loss') :].split("</svg>")[0]
    assert curves.count("<polyline") == 4  # full: mean and three seeds


def test_one_seed_has_no_interval_and_marks_nothing(build: Callable[[], Page], tmp_path: Path) -> None:
    save(tmp_path, "a.json", ablation([variant("full", (1,)), variant("no SE", (1,), -0.05)], [1]))
    page = build()
    auc, difference, *_ = page.row("no SE")
    assert (auc["text"], difference["text"]) == ("0.7623", "−0.0500")
    table = [cell["text"] for cell in page.cells]
    assert not [text for text in table if "✓" in text or "✗" in text or "[" in text]
    assert 'class="whisker"' not in page.source
    assert 'class="bar single"' in page.source
    assert "without a second seed there is no interval" in page.text


@pytest.mark.parametrize(
    ("difference", "half", "tone", "sign"),
    [(0.01, 0.002, "better", "✓"), (-0.01, 0.002, "worse", "✗"), (0.01, 0.02, "unclear", "")],
)
def test_marks_say_better_or_worse_for_each_metric(
    build: Callable[[], Page], tmp_path: Path, difference: float, half: float, tone: str, sign: str
) -> None:
    save(tmp_path, "a.json", ablation([variant("full", (1, 2)), variant("other", (1, 2), difference, half)], [1, 2]))
    cells = build().row("other")
    for cell in (cells[1], cells[3], cells[5]):  # AUC and gAUC rise, logloss falls
        assert cell["class"].split() == ["number", tone]
        assert cell["text"].startswith(f"{sign} " if sign else ("+", "−"))


def test_rows_keep_the_studys_order_and_the_best_of_each_column_is_marked(
    build: Callable[[], Page], tmp_path: Path
) -> None:
    seeds = (1, 2)
    arms = [variant("b", seeds), variant("a", seeds, 0.01), variant("c", seeds, -0.01)]
    save(tmp_path, "a.json", ablation(arms, seeds))
    page = build()
    assert [cell["text"][0] for cell in page.cells if cell.get("scope") == "row"][:3] == ["b", "a", "c"]
    stars = {name: [n for n, cell in enumerate(page.row(name)) if "★" in cell["text"]] for name in "abc"}
    assert stars == {"a": [0, 2, 4, 6], "b": [], "c": []}  # AUC, gAUC, logloss; AUC on valid
    save(tmp_path, "a.json", ablation([variant("b", seeds), variant("a", seeds)], seeds))
    assert "★" not in "".join(cell["text"] for cell in build().cells)  # where all are equal, none is the best


def test_optional_keys_may_be_missing(build: Callable[[], Page], tmp_path: Path) -> None:
    arm = {"name": "only", "summary": {"test": {"AUC": {"mean": 0.75}}}}
    save(tmp_path, "a.json", {"kind": "ablation", "variants": [arm]})
    save(tmp_path, "b.json", {"kind": "explanation", "expid": "x", "rows": []})
    save(tmp_path, "c.json", {"settings": {}, "rows": []})
    page = build()
    assert page.row("only")[0]["text"] == "0.7500"
    assert {attributes["data-kind"] for attributes in page.all("section")} == {"study", "attention", "benchmark"}
    parts = [data for tag, data in page.texts if tag == "h3"]
    assert parts == ["Metrics"]
    assert "Warnings" not in page.text


def test_nothing_from_a_file_becomes_markup(build: Callable[[], Page], tmp_path: Path) -> None:
    arms = [variant("full", (1, 2)), variant(HOSTILE, (1, 2), -0.01)]
    for arm in arms:
        arm["overrides"] = {HOSTILE: HOSTILE}
        arm["explained_variance"] = {HOSTILE: {HOSTILE: [0.5]}}
        arm["summary"]["test"][HOSTILE] = estimate(0.5, 0.1, 0.01)
        for run in arm["runs"]:
            run["warnings"] = [HOSTILE]
            run["by_frequency"]["test"][HOSTILE] = {"AUC": 0.5}
    names = dict.fromkeys(("study", "dataset_id", "base_expid", "command", "commit", "machine", "over"), HOSTILE)
    save(tmp_path, "a.json", ablation(arms, (1, 2), **names) | {"date": HOSTILE})
    over = [{**arm, "x": n + 1} for n, arm in enumerate(arms)]
    save(tmp_path, "x.json", ablation(over, (1, 2), **names))
    seen = explanation()
    seen |= {"expid": HOSTILE, "dataset_id": HOSTILE}
    seen["rows"][0] |= {"target": HOSTILE, "history": [HOSTILE, HOSTILE], "split": HOSTILE}
    seen["summary"][0][HOSTILE] = 1.0
    save(tmp_path, "b.json", seen)
    save(
        tmp_path, "c.json", {**BENCHMARK, "settings": {HOSTILE: HOSTILE}, "rows": [{HOSTILE: HOSTILE, "n": [HOSTILE]}]}
    )
    save(tmp_path, "d.csv", SEEDS_CSV.replace("without", "<script>alert(1)</script>"))
    save(tmp_path, "d.md", f"Command: `{HOSTILE}`\n")
    save(tmp_path, "e.md", f"# {HOSTILE}\n\n| {HOSTILE} |\n| --- |\n| {HOSTILE} |\n")
    save(tmp_path, "<img src=x>.json", f'{{"kind": "{HOSTILE[:8]}"}}')
    page = build()
    assert len(page.all("script")) == 1
    assert [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)] == []
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "div", "nav", "ul", "li",
        "a", "small", "main", "b", "section", "dl", "dt", "dd", "code", "table", "caption", "thead", "tbody", "tr",
        "th", "td", "span", "figure", "figcaption", "svg", "g", "line", "rect", "circle", "polyline", "text", "details",
        "summary", "script",
    }  # fmt: skip
    assert page.text.count(HOSTILE) >= 20
    assert "49" not in [data.strip() for _, data in page.texts]


@pytest.mark.parametrize(("warned", "folded"), [(3, None), (5, "2 more")])
def test_many_warnings_of_one_study_are_folded(
    warned: int, folded: str | None, build: Callable[[], Page], tmp_path: Path
) -> None:
    save(tmp_path, "many.json", ablation([variant(f"arm {n}", (1, 2)) for n in range(warned)]))
    page = build()
    summaries = [text for tag, text in page.texts if tag == "summary"]
    assert (folded in summaries) if folded else not [text for text in summaries if "more" in text]
    assert [text for tag, text in page.texts if tag == "b"] == [f"arm {n}, seed 1:" for n in range(warned)]


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
        "cut.json": "not valid JSON",
        "unknown.json": "no result of a known kind",
        "list.json": "where an object is expected",
        "text.json": "variants 1: 'parameters' is str \"many\", expected a number",
        "none.json": "'variants' is empty",
        "bare.json": "'summary' has no metrics",
        "longer.json": "attention over 2 positions, but the history has 1 items",
        "other.csv": "no table of run_seeds.py",
        "short.csv": "line 10: not one value for each of the 9 columns",
        "words.csv": "line 3: 'AUC' is str \"high\", expected a number",
        "binary.json": "cannot be read as text",
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
    result = {"dataset_id": "LFM2k", "valid": metrics, "best_possible": {}, "parameters": 5, "seconds": 2.0}
    result |= {"checkpoint": "x.model", "commit": "abc1234", "params_fingerprint": "0"}
    save(tmp_path, "one.result.json", {**result, "expid": "one", "test": metrics, "warnings": ["mind the gap"]})
    save(tmp_path, "two.result.json", {**result, "expid": "two", "test": {**metrics, "AUC": 0.8}})
    save(tmp_path, "one.params.json", {"not": "a result"})
    save(tmp_path, "one.feature_map.json", {"not": "a result"})
    page = build()
    assert len(page.all("section")) == 1
    assert [cell["text"] for cell in page.row("two")[:2]] == ["★ 0.8000", "+0.0500"]
    assert "one:" in page.text and "mind the gap" in page.text
    assert "abc1234" in page.text


def test_results_of_seeds_are_one_variant(build: Callable[[], Page], tmp_path: Path) -> None:
    result = {"dataset_id": "LFM2k", "valid": {}, "parameters": 5, "checkpoint": "x.model", "commit": "abc1234"}
    for name, auc, seconds in (
        ("a_seed1", 0.7, 2.0),
        ("a_seed2", 0.8, 4.0),
        ("b_seed1", 0.9, 1.0),
        ("b_seed2", 0.98, 1.0),
    ):
        save(tmp_path, f"{name}.result.json", {**result, "expid": name, "test": {"AUC": auc}, "seconds": seconds})
    page = build()
    assert [cell["text"] for cell in page.row("a")] == ["0.7500± 0.0707", "reference", "5", "3"]
    assert page.row("b")[1]["text"].startswith("✓ +0.1900")
    assert "2 variants, 2 seeds" in page.text


def test_a_seed_that_stopped_early_does_not_bend_the_mean() -> None:
    mean_curve = importlib.import_module("fuxictr_mm.report.study_details").mean_curve
    assert mean_curve([[(1, 0.5), (2, 0.4), (3, 0.3)], [(1, 0.7), (2, 0.6)]]) == [(1, 0.6), (2, 0.5)]
    assert mean_curve([]) == []
    [(step, value)] = mean_curve([[(1, 0.5)], [(1, NAN)]])
    assert step == 1 and math.isnan(value)


def test_item_frequency_is_the_mean_of_the_seeds_that_have_it(build: Callable[[], Page], tmp_path: Path) -> None:
    arm = variant("full", (1, 2, 3))
    for run, auc in zip(arm["runs"], (0.5, 0.7, None)):
        run["by_frequency"] = {"test": {"cold": {"items": 3, "rows": 1200, "AUC": auc, "gAUC": None, "logloss": 0.4}}}
    save(tmp_path, "a.json", ablation([arm]))
    page = build()
    heads = [cell["text"] for cell in page.cells if "group" in cell.get("class", "")]
    assert heads == ["cold (3 items)"]
    frequency = page.source[page.source.index("By item frequency, test") :]
    rows = Page(f"<table>{frequency.split('<tbody>')[1].split('</tbody>')[0]}</table>")
    assert [cell["text"] for cell in rows.row("full")] == [
        "1,200",
        "0.6000± 0.1414 2 of 3 seeds",
        "—",
        "0.4000± 0.0000",
    ]


def test_a_pca_that_begins_another_is_drawn_once(build: Callable[[], Page], tmp_path: Path) -> None:
    wide, narrow, other = (variant(name, (1, 2)) for name in ("wide", "narrow", "other"))
    narrow["explained_variance"] = {"item_emb": {"txt_emb_MiniLM": [0.31, 0.2]}}
    other["explained_variance"] = {"item_emb": {"txt_emb_MiniLM": [0.9, 0.05]}}
    save(tmp_path, "a.json", ablation([wide, narrow, other], (1, 2)))
    labels = [attributes.get("aria-label", "") for attributes in build().all("svg")]
    scree = [label.replace("\N{NO-BREAK SPACE}", " ") for label in labels if label.startswith("Scree plot")]
    assert len(scree) == 2
    assert any("(wide, narrow): component 1 explains 31.0 %, all 3 61.0 %" in label for label in scree)
    assert any("(other): component 1 explains 90.0 %, all 2 95.0 %" in label for label in scree)


def test_the_repositorys_own_results_in_a_process_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, str(EXPERIMENTS / "report.py"), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "not on the page" not in ended.stderr
    page = Page(out.read_text(encoding="utf-8"))
    for file in [*(EXPERIMENTS / "results").glob("*.json"), *(EXPERIMENTS / "benchmarks" / "results").glob("*.json")]:
        assert str(file.relative_to(REPOSITORY)) in page.text
