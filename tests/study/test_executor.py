"""Many runs: side by side, failing, interrupted and continued, and one engine at a time."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuxictr_mm.cli import main
from fuxictr_mm.run import Experiment, finished_result, resolve_experiment, run_experiment
from fuxictr_mm.study import executor
from fuxictr_mm.study.executor import execute
from fuxictr_mm.study.runs import Variant
from tests.run.test_run import BASE, EXPERIMENTS
from tests.study.meeting import Dying, Meeting
from tests.synthetic import write_cluster_dataset


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory with ``full`` and ``no_se`` that can run, and ``odd`` that fails when its model is built."""
    dataset = write_cluster_dataset(tmp_path, rows=400)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    full = {**EXPERIMENTS["din"], "dataset_id": "clusters", "epochs": 2}
    odd = {**full, "num_heads": 3, "attention_dim": 10}
    models = {"Base": BASE, "full": full, "no_se": {**full, "use_se": False}, "odd": odd}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    return tmp_path


def run_of(expid: str, config: Path, seed: int, model_class: type | None = None, **changes: Any) -> Experiment:
    experiment = resolve_experiment(expid, config, **changes)
    if model_class:
        experiment = replace(experiment, model_class=model_class)
    return Variant(expid, experiment).run(seed)


def metrics(runs: list[Experiment]) -> list[Any]:
    results = [finished_result(run) for run in runs]
    return [result and (result.valid, result.test, result.curve) for result in results]


@pytest.mark.slow
def test_two_workers_overlap_and_a_run_that_fails_or_dies_stops_no_other(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = {"model_root": str(tmp_path / "parallel")}
    names = [("full", 1), ("no_se", 1), ("full", 2), ("no_se", 2)]
    runs = [run_of(expid, config, seed, Meeting, **place) for expid, seed in names]
    odd, dying = run_of("odd", config, 1, **place), run_of("full", config, 3, Dying, **place)
    calls: list[set[str]] = []
    monkeypatch.setenv("MEET", "2")
    csv_file = tmp_path / "sweep.csv"
    order = [*runs[:2], odd, dying, *runs[2:]]
    failures = execute(order, [-1, -1], lambda ended: calls.append(set(ended)), csv_file=csv_file)

    assert failures == {
        "odd_seed1": "num_heads=3 must divide attention_dim=10.",
        "full_seed3": "its process ended with signal SIGKILL; the same command continues it",
    }
    assert [len(ended) for ended in calls] == [1, 2, 3, 4, 5, 6]
    assert "num_heads=3 must divide" in odd.file(".log").read_text()
    pids = {run.file(".begun").read_text() for run in runs}
    assert 2 <= len(pids) <= 3 and str(os.getpid()) not in pids  # one worker died and has been replaced
    assert len(csv_file.read_text().splitlines()) == 4

    # One after the other in this process: the same to the digit.
    monkeypatch.setenv("MEET", "1")
    alone = [run_of(expid, config, seed) for expid, seed in names]
    assert not execute(alone, [-1], lambda ended: None)
    assert None not in metrics(alone)
    assert metrics(alone) == metrics(runs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_and_the_same_command_continues(
    config: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    models = yaml.safe_load((config / "model_config.yaml").read_text())
    for name in ("full", "no_se"):
        models[name] |= {"epochs": 2000, "early_stop_patience": 5000}
    (config / "model_config.yaml").write_text(yaml.safe_dump(models))
    arguments = ["seeds", "--config", str(config), "--out", str(config / "out"), "--name", "se"]
    arguments += ["--expid", "full", "no_se", "--seeds", "1", "2"]
    command = [sys.executable, "-m", "fuxictr_mm", *arguments, "--gpu", "-1", "-1"]
    log = config / "stderr"
    # Not a pipe: reading its end would wait for the workers by itself. A suite behind "&" hands an ignored SIGINT on.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=log.open("w"), start_new_session=True, preexec_fn=heard)
    folder = config / "checkpoints" / "clusters"
    begun = [folder / f"{name}_seed1.log" for name in ("full", "no_se")]
    while not all(file.is_file() and "Epoch=2 start" in file.read_text() for file in begun):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    if number == signal.SIGINT:  # a terminal sends it to all, SIGTERM comes to one process
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    try:
        assert process.wait(timeout=60) == 130
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    err = log.read_text()
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("interrupted: the runs that were going on have saved or ended; continue with: python ")
    assert last.endswith("--gpu -1 -1")
    assert {file.name for file in folder.glob("*.state")} == {"full_seed1.state", "no_se_seed1.state"}
    assert not list(folder.glob("*_seed2.*")) and not (config / "out" / "se.md").exists()
    for pid in {line.split(" P")[1].split()[0] for file in begun for line in file.read_text().splitlines()[:1]}:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)

    # The same command, here on one worker and stopped again once it trains.
    capfd.readouterr()
    monkeypatch.setattr(executor, "run_experiment", partial(_stopped_in_the_next_epoch, begun[0]))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130
    assert "interrupted: stopped in epoch" in capfd.readouterr().err
    text = begun[0].read_text()
    assert text.count("training starts from the beginning") == text.count("Resume after epoch") == 1


def _stopped_in_the_next_epoch(log: Path, run: Experiment, **options: Any) -> None:
    """A run that hears SIGTERM when its log names one more epoch than before."""
    before = log.read_text().count("end ***")

    def watch() -> None:
        while log.read_text().count("end ***") == before:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    run_experiment(run, **options)


def test_a_second_engine_on_the_same_files_is_refused_and_names_the_first(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuner = {"base_config": ".", "base_expid": "full", "tuner_space": {"use_se": [True, False]}}
    (config / "sweep.yaml").write_text(yaml.safe_dump(tuner))
    study = {"base": {"clusters": {"expid": "full"}}, "variants": {"full": {}, "no SE": {"use_se": False}}}
    (config / "parts.yaml").write_text(yaml.safe_dump(study))
    out = ["--config", str(config), "--out", str(config / "out")]
    commands = {
        "out/.se.lock": ["seeds", "--expid", "full", "--name", "se", *out],
        "out/.parts_clusters.lock": ["study", "--study", str(config / "parts.yaml"), "--dataset", "clusters", *out],
        "sweep/.lock": ["tune", "--config", str(config / "sweep.yaml")],
    }
    for lock, command in commands.items():
        code = "import sys; from fuxictr_mm.files import only_one\nwith only_one(sys.argv[1], ''): print(1); input()"
        other = subprocess.Popen(
            [sys.executable, "-uc", code, str(config / lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert other.stdin and other.stdout and other.stdout.readline()
            with pytest.raises(SystemExit) as ended:
                main(command)
        finally:
            other.communicate(b"\n")
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("error: another ") and len(err.splitlines()) == 1
        assert f"is going on in process {other.pid}; wait until it has ended, or stop it" in err
    assert not (config / "checkpoints").exists()


def test_what_a_model_gets_wrong_is_named_and_the_others_go_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(self: Any, *args: Any, **options: Any) -> None:
        if self.field_excitation is None:
            raise RuntimeError("device full")
        plain(self, *args, **options)

    plain = Meeting.fit
    monkeypatch.setattr(Meeting, "fit", fit)
    runs = [run_of(expid, config, 1, Meeting) for expid in ("no_se", "full")]
    failures = execute(runs, [-1], lambda ended: None)
    assert failures == {"no_se_seed1": f"RuntimeError: device full (see {runs[0].file('.log')})"}
    assert "Traceback" in runs[0].file(".log").read_text()
    assert "Traceback" not in runs[1].file(".log").read_text()
    assert [found is None for found in metrics(runs)] == [True, False]


def test_a_sentence_before_a_run_has_its_log_is_not_put_into_that_of_another(config: Path) -> None:
    runs = [run_of("full", config, 1), run_of("no_se", config, 1, train_data=str(config / "gone.parquet"))]
    failures = execute(runs, [-1], lambda ended: None)
    assert list(failures) == ["no_se_seed1"] and "gone.parquet: file not found" in failures["no_se_seed1"]
    assert "gone.parquet" not in runs[0].file(".log").read_text()


def test_tables_are_written_when_all_variants_have_ended_with_a_seed(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = config / "out"
    seen: list[list[str]] = []

    def spied(run: Experiment, **options: Any) -> None:
        lines = (out / "se.csv").read_text().splitlines()[1:] if (out / "se.csv").is_file() else []
        seen.append([f"{line.split(',')[0]} {line.split(',')[2]}" for line in lines if ",test," in line])
        run_experiment(run, **options)

    monkeypatch.setattr(executor, "run_experiment", spied)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "seeds",
                "--config",
                str(config),
                "--out",
                str(out),
                "--name",
                "se",
                "--expid",
                "full",
                "odd",
                "--seeds",
                "1",
                "2",
            ]
        )
    assert ended.value.code == 1
    assert seen == [[], [], ["full 1"], ["full 1"]]
    err = capsys.readouterr().err.splitlines()
    sentence = "num_heads=3 must divide attention_dim=10."
    assert err[-2:] == [f"error: odd_seed1: {sentence}", f"error: odd_seed2: {sentence}"]
    assert "odd" not in (out / "se.md").read_text().split("Command")[0]


def test_threads_are_shared_out_unless_the_user_has_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with executor._threads_shared_out(2):
        assert os.environ["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    for workers, threads in ((3, "2"), (20, "1")):
        with executor._threads_shared_out(workers):
            assert os.environ["OMP_NUM_THREADS"] == threads
        assert "OMP_NUM_THREADS" not in os.environ


def test_a_command_without_gpu_numbers_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["seeds", "--expid", "full", "--name", "se", "--gpu"])
    assert "--gpu: expected at least one argument" in capsys.readouterr().err
