"""Real processes, really killed; three of them here, thirty in ``experiments/results/kill_and_resume.md``."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY


@pytest.mark.slow
def test_killed_processes_end_as_one_that_was_left_alone(tmp_path: Path) -> None:
    script = REPOSITORY / "experiments" / "proofs" / "kill_and_resume.py"
    command = [sys.executable, "-W", "ignore", str(script), "--kills", "3", "--out", str(tmp_path / "kill.md")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "kill.md").read_text()
    assert table.startswith("3 of 3 killed and resumed runs end with the weights")
    assert len(re.findall(r"^\| \d \| .* \| yes \|$", table, flags=re.M)) == 3
    assert "file " in table  # one of them while a checkpoint was being written
