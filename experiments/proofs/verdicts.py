"""How a proof ends: its table, what is wrong, where it was measured, and its status."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_mm.run.provenance import current_commit, machine
from fuxictr_mm.study.runs import this_command
from fuxictr_mm.study.tables import markdown_table, write_text

__all__ = ["conclude"]


def conclude(file: Path, lines: Sequence[Mapping[str, Any]], sentence: str, wrong: Sequence[str]) -> None:
    """Write and print a table, a sentence below it and a line for each thing that is wrong.

    Raises:
        SystemExit: status 1 if something is, else 0.
    """
    text = markdown_table(lines) + f"\n{sentence}\n" + "".join(f"- {one}\n" for one in wrong)
    text += f"\nCommand: `{this_command()}`; commit {current_commit()}; {machine()}.\n"
    write_text(file, text)
    print(text)
    sys.exit(1 if wrong else 0)
