"""A sample of the damages of ``experiments/results/damaged_files.md``, and that it notices what is wrong."""

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
    return load_script("proofs.damaged_files")


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_right(tmp_path: Path) -> None:
    script = REPOSITORY / "experiments" / "proofs" / "damaged_files.py"
    command = [sys.executable, "-W", "ignore", str(script), "--flips", "3", "--every", "5", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^0 of (\d+) ", (tmp_path / "damaged_files.md").read_text(), flags=re.M)
    assert found is not None and int(found[1]) > 30


class FakeRuns:
    """A process that ends as it is told to."""

    def __init__(self, folder: Path, status: int, said: str, scores: bytes) -> None:
        self.folder, self.status, self.said, self.scores = folder, status, said, scores

    def new(self) -> Path:
        config = self.folder / "c" / "config"
        config.mkdir(parents=True)
        return config

    def process(self, act: Any, notes: Path) -> tuple[int, str]:
        notes.mkdir()
        (notes / "scores.parquet").write_bytes(self.scores)
        return self.status, self.said


@pytest.mark.parametrize(
    ("status", "said", "scores", "how", "why"),
    [
        (2, "error: /x/a.model: damaged", b"", "refused", "error: /x/a.model: damaged"),
        (2, "error: something is damaged", b"", "wrong", "status 2"),
        (2, "Traceback ...\nerror: /x/a.model: damaged", b"", "wrong", "status 2"),
        (137, "", b"", "wrong", "status 137"),
        (1, "Traceback", b"", "wrong", "status 1"),
        (0, "", b"1", "read right", ""),
        (0, "", b"2", "wrong", "other bytes of scores"),
    ],
)
def test_what_is_wrong_is_noticed(
    proof: Any, status: int, said: str, scores: bytes, how: str, why: str, tmp_path: Path
) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "a.model").write_bytes(b"whole")
    judge = proof.Judge(FakeRuns(tmp_path, status, said, scores), {trained: {"scores": b"1"}})
    trial = proof.Trial("weights", "a.model", "empty", lambda path: path.write_bytes(b""), "score", trained)
    _, found, reason = judge(trial)
    assert found == how and reason.startswith(why)
