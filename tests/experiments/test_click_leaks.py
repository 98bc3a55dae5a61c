"""The proof that click vectors do not tell the label, on one small log; and that it notices when they do."""

import sys
from pathlib import Path

import pytest

from fuxictr_mm.models import item_vectors
from tests.experiments.scripts import load_script

LOG = {"a small log": (2000, 600, 8, 0.5, 10)}


@pytest.mark.parametrize("leaks", [False, True])
def test_a_log_without_anything_to_learn(leaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = load_script("proofs.click_leaks")
    monkeypatch.setattr(proof, "LOGS", LOG)
    monkeypatch.setattr(proof, "WITHIN", 0.03)  # few rows
    monkeypatch.setattr(sys, "argv", ["click_leaks.py", "--output", str(tmp_path), "--logs", *LOG])
    monkeypatch.delenv("FUXICTR_MM_REAL_DATA", raising=False)
    if leaks:  # compared by the clicks of all users, the row's own among them
        monkeypatch.setattr(item_vectors, "view_of_pair", lambda fold, distance: 0 * fold)
        with pytest.raises(SystemExit, match="these tell the label: a small log, own: mean"):
            proof.main()
    else:
        proof.main()
    table = (tmp_path / "click_leaks.md").read_text()
    assert ("Further than 0.03 from 0.5: 0 of 6." in table) != leaks
    assert "| a small log | 32,000 | " in table
