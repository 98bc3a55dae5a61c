"""A sample of the kills and system errors of ``experiments/results/kill_everywhere.md``, and that it notices a tear."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import REPOSITORY
from tests.experiments.scripts import load_script


@pytest.fixture
def proof() -> Any:
    return load_script("proofs.kill_everywhere")


@pytest.mark.slow
def test_runs_end_as_one_that_was_left_alone_or_in_a_sentence(tmp_path: Path) -> None:
    script = REPOSITORY / "experiments" / "proofs" / "kill_everywhere.py"
    command = [sys.executable, "-W", "ignore", str(script), "--every", "29", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^0 of (\d+) ", (tmp_path / "kill_everywhere.md").read_text(), flags=re.M)
    assert found is not None and int(found[1]) > 30


class FakeRuns:
    """Runs that end as they are told to, and leave what they are told to."""

    def __init__(self, folder: Path, proof: Any, ends: list[tuple[int, str]], leaves: dict[str, bytes]) -> None:
        self.folder, self.proof, self.ends, self.leaves = folder, proof, ends, leaves

    def new(self) -> Path:
        config = self.folder / "c" / "config"
        config.mkdir(parents=True)
        for name, content in self.leaves.items():
            (config / name).write_bytes(content)
        return config

    def go(self, config: Path, fault: Any) -> Any:
        return self.proof.Ended(*self.ends.pop(0), 5)


@pytest.mark.parametrize(
    ("error", "ends", "leaves", "why"),
    [
        (0, [(137, ""), (0, "")], {"x": b"2"}, "differs in x"),
        (0, [(137, ""), (0, "")], {"x": b"1", ".x.tmp": b""}, "differs in .x.tmp"),
        (0, [(137, ""), (2, "error: no")], {}, "the next run ends with status 2"),
        (28, [(1, "Traceback"), (0, "")], {"x": b"1"}, "status 1: 'Traceback'"),
        (28, [(2, "error: no space left"), (0, "")], {"x": b"1"}, "no sentence with its path"),
        (28, [(2, "Traceback\nerror: FOLDER"), (0, "")], {"x": b"1"}, "no sentence with its path"),
        (28, [(2, "error: FOLDER: no space left"), (0, "")], {"x": b"1"}, ""),
        (28, [(0, ""), (0, "")], {"x": b"1"}, ""),
        (0, [(137, ""), (0, "")], {"x": b"1"}, ""),
    ],
)
def test_what_is_wrong_is_noticed(
    proof: Any, error: int, ends: list[tuple[int, str]], leaves: dict[str, bytes], why: str, tmp_path: Path
) -> None:
    ends = [(status, said.replace("FOLDER", str(tmp_path))) for status, said in ends]
    fault = proof.Fault(at=3, error=error)
    _, _, wrong = proof.judge(FakeRuns(tmp_path, proof, ends, leaves), {"x": b"1"}, fault)
    assert wrong.startswith(why) if why else not wrong
