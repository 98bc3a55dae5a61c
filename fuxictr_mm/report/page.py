"""Turn folders of results into one HTML page that needs no network.

``python report.py [FOLDER ...] [--out results/report.html]`` shows what lies in ``results/`` and
``benchmarks/results/``, or in the folders that are named: studies of run_ablation.py and run_seeds.py, attention of
explain.py, benchmarks, other Markdown tables, and ``*.result.json`` of single runs. A file that cannot be read gets one
line on the page and on stderr.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.config.places import CHECKOUT, of_results
from fuxictr_mm.files import atomic_write
from fuxictr_mm.report.read import read_folder
from fuxictr_mm.report.sections import section
from fuxictr_mm.report.view import Section

KINDS = {
    "study": "Studies",
    "attention": "Attention",
    "benchmark": "Benchmarks",
    "document": "Other results",
}
WITH_CODE = MarkdownIt("zero").enable("backticks")


def page(sections: Sequence[Section], problems: Sequence[str]) -> str:
    """The whole page; ``problems`` are sentences about files that are not on it."""
    anchors: dict[str, Section] = {}
    for one in sections:
        slug = re.sub(r"[^a-z0-9]+", "-", one.title.lower()).strip("-")
        anchors[f"{slug}-{len(anchors) + 1}"] = one
    groups = [
        (words, [(anchor, one) for anchor, one in anchors.items() if one.kind == kind]) for kind, words in KINDS.items()
    ]
    environment = Environment(
        loader=PackageLoader("fuxictr_mm", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = inline
    return environment.get_template("page.html.jinja").render(
        title=f"Results of fuxictr_mm, {newest(sections)}",
        subtitle=", ".join(f"{words}: {len(entries)}" for words, entries in groups if entries),
        groups=[(words, entries) for words, entries in groups if entries],
        warned=[(anchor, one) for anchor, one in anchors.items() if one.warnings],
        problems=problems,
    )


def newest(sections: Sequence[Section]) -> str:
    """The date of the newest result; a file's own date counts only where no result says one."""
    stated = [one.about.date for one in sections if one.about.date_is_stated]
    dates = stated or [one.about.date for one in sections]
    return f"newest {max(dates)}" if dates else "none"


def inline(text: str) -> Markup:
    """Text with what is between backticks as code; escaped."""
    return Markup(WITH_CODE.renderInline(text))


def main(argv: list[str] | None = None) -> None:
    """The verb ``report``."""
    parser = verb_parser("report", __doc__, "", "checkpoints/MMCTR_demo --out report.html")
    folders = [of_results(), *([of_results().parent / "benchmarks" / "results"] if CHECKOUT else [])]
    parser.add_argument("folders", nargs="*", type=Path, default=folders, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=of_results() / "report.html")
    args = parser.parse_args(argv)
    sections: list[Section] = []
    problems: list[str] = []
    for folder in args.folders:
        found, unread = read_folder(folder)
        sections += [section(one) for one in found]
        problems += unread
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f"not on the page: {problem}", file=sys.stderr)
    with atomic_write(args.out) as path:
        # JSON may hold half a surrogate pair, which no file can.
        path.write_text(page(sections, problems), encoding="utf-8", errors="replace")
    print(f"{len(sections)} results of {len(args.folders)} folders in {args.out}")
