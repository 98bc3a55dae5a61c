"""The proof of wrong values: what is written by hand, a hundredth of the rest, and that it notices what is wrong."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fuxictr_mm.errors import ConfigError
from tests.experiments.scripts import load_script


@pytest.fixture
def proof() -> Any:
    return load_script("proofs.wrong_values")


def test_values_are_refused_by_their_key_or_read_as_they_are_meant(proof: Any, tmp_path: Path) -> None:
    place = proof.Workplace(tmp_path)
    trials = [*islice(proof.written(place), 0, None, 4), *islice(proof.of_every_key(place), 0, None, 97)]
    found = proof.try_all(trials)
    wrong = [(t.way, t.key, t.value, why) for t, (verdict, why) in found.items() if verdict == "wrong"]
    assert len(found) > 100 and not wrong
    assert {verdict for verdict, _ in found.values()} == {"refused", "read right"}


def refuse(sentence: str) -> Any:
    raise ConfigError(sentence)


@pytest.mark.parametrize(
    ("do", "meant", "why"),
    [
        (lambda: 1 / 0, None, "ZeroDivisionError after 0 steps"),
        (lambda: refuse("key 'rate': found x"), None, "the sentence does not name epochs"),
        (lambda: refuse("key 'epochs':\nfound x"), None, "no sentence"),
        (lambda: -1, "REFUSED", "taken in silence, as -1"),
        (lambda: True, 1, "read as True where 1 is meant"),
        (lambda: 2, 1, "read as 2 where 1 is meant"),
    ],
)
def test_what_is_wrong_is_noticed(proof: Any, do: Any, meant: Any, why: str) -> None:
    trial = proof.Trial("experiment", "epochs", "x", do, proof.REFUSED if meant == "REFUSED" else meant)
    verdict, found = proof.judge(trial)
    assert verdict == "wrong" and why in found
