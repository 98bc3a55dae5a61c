"""A run that cannot end well is refused before anything is touched, and one that is going on is left alone."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import only_one
from fuxictr_mm.run import Experiment, check_runs, run_experiment
from tests import REPOSITORY
from tests.run.test_resume import config  # noqa: F401
from tests.run.test_run import load

HOLD = """
import sys
from fuxictr_mm.files import only_one
with only_one(sys.argv[1], "another run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def with_labels(experiment: Experiment, split: str, label: float) -> None:
    path = Path(experiment[f"{split}_data"])
    table = pq.read_table(path)
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", pa.array([label] * len(table))), path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix not in (".log", ".lock")}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": 0}, "key 'epochs' of experiment din: found 0"),
        ({"eval_steps": 1000}, "eval_steps=1000 is more than the 20 steps of this training (2 epochs of 10 batches)"),
        ({"valid_data": None}, "dataset clusters: early stopping needs 'valid_data'"),
        ({"test_data": "gone.parquet"}, "gone.parquet: file not found"),
        ({"rebuild_dataset": True}, "rebuild_dataset: True (FuxiCTR's default) would rewrite the data files"),
        ({"attention": "self"}, "attention"),
        ({"optimizer": "foo"}, "optimizer: 'foo' is none of torch.optim's; "),
    ],
)
def test_a_refused_run_leaves_the_trained_one_as_it_was(
    change: dict[str, Any],
    sentence: str,
    config: Path,  # noqa: F811
) -> None:
    experiment = load("din", config, batch_size=60)
    first = run_experiment(experiment)
    before = contents(first.checkpoint.parent)
    log = first.checkpoint.with_suffix(".log").read_text()
    with pytest.raises((ConfigError, DataError), match=re.escape(sentence)):
        run_experiment(experiment.but(**change))
    assert contents(first.checkpoint.parent) == before
    assert first.checkpoint.with_suffix(".log").read_text().startswith(log)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_one_class_is_refused_before_the_first_step(
    split: str,
    config: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load("din", config)
    with_labels(experiment, split, 0.0)
    monkeypatch.setattr("fuxictr_mm.features.processor.MultimodalFeatureProcessor.fit", lambda _: pytest.fail("begun"))
    with pytest.raises(DataError, match=rf"{split}.parquet: column 'label' is 0 in every row; {split} needs rows with"):
        run_experiment(experiment)


@pytest.mark.parametrize("expid", ["din", "transformer"])
def test_batch_norm_needs_two_rows(expid: str, config: Path) -> None:  # noqa: F811
    experiment = load(expid, config, batch_norm=True, epochs=1)
    rows = pq.read_metadata(experiment["train_data"]).num_rows
    for size in (1, rows - 1):
        with pytest.raises(ConfigError, match=rf"batch_norm: {rows:,} rows in batches of {size:,} leave"):
            run_experiment(experiment.but(batch_size=size))
    assert rows % 64 != 1
    run_experiment(experiment.but(batch_size=64))
    check_runs([experiment.but(batch_size=rows - 1, batch_norm=False)])


def test_a_comparison_needs_test_labels(config: Path) -> None:  # noqa: F811
    experiment = load("din", config)
    check_runs([experiment], compares_test=True)
    with pytest.raises(ConfigError, match="there is no 'test_data', so no test AUC to compare"):
        check_runs([experiment.but(test_data=None)], compares_test=True)
    path = Path(experiment["test_data"])
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    check_runs([experiment])
    with pytest.raises(ConfigError, match=r"test.parquet: its rows have no labels, so there is no test AUC"):
        check_runs([experiment], compares_test=True)


def test_a_second_run_of_an_experiment_is_refused_and_the_first_goes_on(config: Path) -> None:  # noqa: F811
    experiment = load("din", config)
    first = run_experiment(experiment)
    before = contents(first.checkpoint.parent)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(experiment.file(".lock"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=rf"another run of experiment din on clusters .* process {holder.pid};"):
        run_experiment(experiment)
    assert contents(first.checkpoint.parent) == {**before, "din.lock.pid": f"{holder.pid}\n".encode()}
    holder.kill()  # however it ends, the next run may begin
    holder.wait()
    assert run_experiment(experiment).valid == first.valid
    assert not (first.checkpoint.parent / "din.lock.pid").exists()


def test_a_lock_may_be_entered_again_in_its_own_process(tmp_path: Path) -> None:
    with only_one(tmp_path / "x.lock", "outer"):
        with only_one(tmp_path / "x.lock", "inner"):
            pass
        assert (tmp_path / "x.lock.pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "x.lock.pid").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_every_entry_point_lets_threads_wait_without_spinning_long(given: dict[str, str], expected: str) -> None:
    """Set before torch is loaded, and not over what the user has set."""
    scripts = [path for path in (REPOSITORY / "experiments").glob("*.py") if path.stem != "hide_vectors"]
    assert len(scripts) >= 7
    for script in scripts:  # whatever loads torch has come by way of this import
        imports = re.findall(r"^(?:from|import) (.*)$", script.read_text(encoding="utf-8"), flags=re.M)
        ours = next(line for line in imports if "fuxictr" in line or "torch" in line)
        assert ours.startswith("fuxictr_mm.cli"), script.name
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {**{key: value for key, value in os.environ.items() if key not in names}, **given}
    code = "import os, sys, fuxictr_mm.cli; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [expected, "False"]
