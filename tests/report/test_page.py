"""The page of results: what is on it, that it says the files' numbers, and that nothing from a file can act on it."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.pages import (
    BENCHMARK,
    NAN,
    SEEDS_CSV,
    Page,
    ablation,
    estimate,
    everything,
    explanation,
    save,
    variant,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"


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
    assert "3 runs (full, seed 1; no SE, seed 1; no MHTA, seed 1):" in text
    assert "valid AUC is far above test AUC" in text


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
    broken["latency_p50_ms"] = None
    for run in broken["runs"]:
        run["curve"][1]["train_loss"] = NAN
        run["by_frequency"]["test"]["cold"]["AUC"] = None
    save(tmp_path, "a.json", ablation([variant("full", (1, 2, 3)), broken]))
    page = build()
    cells = page.row("broken")
    assert [cell["text"] for cell in cells[:2]] == ["—", "—"]
    assert "data-value" not in cells[0]
    assert [cell["text"] for cell in cells].count("—") == 4  # and valid AUC, latency
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


def test_what_a_result_does_not_have_is_left_out(build: Callable[[], Page], tmp_path: Path) -> None:
    arm = variant("only", (1,)) | {"latency_p50_ms": None, "explained_variance": {}}
    arm["summary"] = {"test": {"AUC": estimate(0.75, 0.0, None)}}
    arm["runs"][0] |= {"by_frequency": {}, "curve": [], "warnings": []}
    save(tmp_path, "a.json", ablation([arm], (1,)))
    save(tmp_path, "b.json", {**explanation(), "summary": [], "rows": []})
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
    arms = [variant(f"arm {n}", (1, 2)) for n in range(warned)]
    for n, arm in enumerate(arms):
        arm["runs"][0]["warnings"] = [f"test AUC is 0.{n} above valid AUC"]
    save(tmp_path, "many.json", ablation(arms, (1, 2)))
    page = build()
    summaries = [text for tag, text in page.texts if tag == "summary"]
    assert (folded in summaries) if folded else not [text for text in summaries if "more" in text]
    assert [text for tag, text in page.texts if tag == "b"] == [f"arm {n}, seed 1:" for n in range(warned)]


@pytest.mark.parametrize(
    ("arms", "whose"),
    [
        (1, "arm 0, seeds 1, 2"),
        (2, "4 runs (arm 0, seeds 1, 2; arm 1, seeds 1, 2)"),
        (5, "10 runs (arm 0, seeds 1, 2; arm 1, seeds 1, 2; arm 2, seeds 1, 2; 2 more)"),
    ],
)
def test_equal_warnings_of_many_runs_are_one_line(
    arms: int, whose: str, build: Callable[[], Page], tmp_path: Path
) -> None:
    many = [variant(f"arm {n}", (1, 2)) for n in range(arms)]
    for run in (run for arm in many for run in arm["runs"]):
        run["warnings"] = ["mind the gap"]
    save(tmp_path, "many.json", ablation(many, (1, 2)))
    page = build()
    assert [text for tag, text in page.texts if tag == "b"] == [f"{whose}:"]
    assert page.text.count("mind the gap") == 1


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
