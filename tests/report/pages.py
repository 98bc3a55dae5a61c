"""A parsed page, and files of results that the tests of the report put on one."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fuxictr_mm.run import Result

VOID = {"meta", "br", "hr", "img", "link", "input", "base", "embed", "source"}
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
    study = {
        "kind": "ablation",
        "study": "parts",
        "dataset_id": "LFM2k",
        "base_expid": "DIN",
        "seeds": list(seeds),
        "over": None,
    }
    return {**study, **about, "date": "2026-11-20", "variants": list(variants), **more}


def explanation() -> dict[str, Any]:
    row = {"row": 17, "split": "test", "label": 1, "score": 0.8125, "target": "Nina Simone"}
    return {
        "kind": "explanation", "expid": "DIN_demo", "dataset_id": "LFM2k", "command": "python explain.py",
        "commit": "abc1234", "machine": "2 cores", "date": "2026-11-19",
        "summary": [
            {
                "layer": 0, "head": h, "entropy": 1.25, "entropy_uniform": 2.5, "share_on_padding": 0.0,
                "moved_by_target": None, "rows": 640,
            }
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


def write_result(folder: Path, expid: str, **more: Any) -> None:
    """A result as a run leaves it."""
    fields = {"valid": {}, "test": {}, "best_possible": {}, "parameters": 5, "seconds": 2.0, "commit": "abc1234"}
    Result(expid, "LFM2k", checkpoint=folder / "in" / f"{expid}.model", **{**fields, **more}).write()
