"""The proof of odd formats, whole, and that it notices what is wrong."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.experiments.scripts import load_script


@pytest.fixture
def proof() -> Any:
    return load_script("proofs.odd_formats")


@pytest.mark.filterwarnings("ignore")
def test_forms_are_read_right_or_refused(proof: Any, tmp_path: Path) -> None:
    found = proof.prove(tmp_path)
    assert not [(trial, why) for trial, (how, why) in found.items() if how == "wrong"]
    assert len(found) > 1000 and {how for how, _ in found.values()} >= {"refused", "read right"}


@pytest.mark.parametrize(
    ("column", "values", "how", "why"),
    [
        ("item_id", [3, 1, 1], "wrong", "read ['item_id'] as [3, 1, 1]"),
        ("price", [1.0, 0.0, 2.5], "wrong", "read ['price']"),
        ("item_seq", [[1, 2], [3, 1], [2, 3]], "wrong", "read ['item_seq']"),
        ("user_id", [1, 1, 2], "wrong", "read ['user_id']"),
        ("label", ["1", "0", "1"], "refused", ""),
        ("label", [1, 0, 1], "read right", ""),
    ],
)
def test_what_is_wrong_is_noticed(proof: Any, column: str, values: Any, how: str, why: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(proof.PLAIN), tmp_path / "plain.parquet")
    ids = proof.np.array([1, 2, 3])
    expected = proof.read_split(tmp_path / "plain.parquet", proof.SCHEMA, ids, require_label=True, progress=False)

    def write(path: Path, name: str) -> None:
        pq.write_table(pa.table({**proof.PLAIN, name: values}), path)

    # What the file says of itself is what was to be written, but the reader gives something else.
    patch = pytest.MonkeyPatch()
    real = pq.read_table
    patch.setattr(proof.pq, "read_table", lambda path: real(tmp_path / "plain.parquet"))
    try:
        found, reason = proof.judge(proof.Trial("pyarrow", column, "a form", write), expected, tmp_path)
    finally:
        patch.undo()
    assert found == how and (reason.startswith(why) if how == "wrong" else True)
