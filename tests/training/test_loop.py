"""A training that is stopped at any step and resumed ends bit by bit where one ends that was left alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from fuxictr.pytorch.models import BaseModel
from torch.utils.data import DataLoader

from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
from fuxictr_mm.models import DIN_SE_MHTA, MultimodalRankModel
from fuxictr_mm.training.checkpoint import read_file, write_file
from fuxictr_mm.training.progress import Progress, state_file
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

STEPS = 6  # per epoch


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it runs."""


class OwnOrder:
    """As our loader: the order follows from the number of the epoch."""

    def __init__(self, feature_map: Any) -> None:
        self.batches = [tiny_challenge_batch(feature_map, seed=seed) for seed in range(STEPS)]
        self.epoch = 0

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        return self.iterate()

    def iterate(self, start: int = 0) -> Iterator[Any]:
        order = torch.randperm(STEPS, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        self.epoch += 1
        for number in order[start:]:
            yield self.batches[number]


def global_order(feature_map: Any) -> DataLoader:
    """As the challenge's loader: the order follows from torch's global generator."""
    batches = [tiny_challenge_batch(feature_map, seed=seed) for seed in range(STEPS)]
    return DataLoader(batches, batch_size=None, shuffle=True)  # type: ignore[arg-type]


LOADERS = {"own order": OwnOrder, "global order": global_order}


class Run:
    """One training with dropout, in a folder of its own."""

    fit: dict[str, Any]

    def __init__(self, folder: Path, loader: str = "own order", **changes: Any) -> None:
        self.fit = {"epochs": 3, "checkpoint_steps": 4, "learning_rate": 0.01}
        self.fit |= {key: changes.pop(key) for key in list(changes) if key in ("epochs", "checkpoint_steps", "seed")}
        torch.manual_seed(3)
        feature_map = tiny_feature_map(folder)
        widths = {"dnn_hidden_units": [8, 6], "num_heads": 2, "net_dropout": 0.4, "eval_steps": 5}
        options = {**MODEL_KWARGS, **widths, "early_stop_patience": 99, "learning_rate": 0.01, **changes}
        self.model: MultimodalRankModel = DIN_SE_MHTA(feature_map, model_id="tiny", model_root=str(folder), **options)
        self.train = LOADERS[loader](feature_map)
        self.valid = [tiny_challenge_batch(feature_map, seed=seed) for seed in (50, 51, 52)]
        self.steps = 0
        self.scores: list[float] = []
        self.state = state_file(self.model.checkpoint)

        original_step, original_evaluate = self.model.train_step, self.model.evaluate

        def counted(batch: Any) -> torch.Tensor:
            self.steps += 1
            return original_step(batch)

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = original_evaluate(*args, **kwargs)
            self.scores.append(next(iter(result.values())))
            return result

        self.model.train_step = counted  # type: ignore[method-assign]
        self.model.evaluate = noted  # type: ignore[method-assign]

    def at_step(self, number: int, action: Any) -> "Run":
        """Do ``action`` when step ``number`` of this process begins."""
        step = self.model.train_step

        def with_action(batch: Any) -> torch.Tensor:
            if self.steps + 1 == number:
                action()
            return step(batch)

        self.model.train_step = with_action  # type: ignore[method-assign]
        return self

    def go(self, resume: bool = False, **changes: Any) -> "Run":
        self.model.fit(self.train, validation_data=self.valid, resume=resume, **{**self.fit, **changes})
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()


@pytest.fixture(autouse=True)
def _signals_of_a_terminal() -> Iterator[None]:
    """A suite that runs behind ``&`` has inherited a SIGINT that is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kill() -> None:
    raise KilledError


def assert_same(one: Run, other: Run) -> None:
    assert all(torch.equal(value, other.weights()[name]) for name, value in one.weights().items())
    moments = [run.model.optimizer.state_dict()["state"] for run in (one, other)]
    for index, state in moments[0].items():
        assert all(torch.equal(state[key], moments[1][index][key]) for key in state)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("step", [1, 4, 5, 6, 7, 11, 13, 18])
def test_killed_and_resumed(step: int, loader: str, tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone", loader).go()
    assert alone.steps == 3 * STEPS
    with pytest.raises(KilledError):
        Run(tmp_path / "killed", loader).at_step(step, kill).go()
    resumed = Run(tmp_path / "killed", loader)
    torch.manual_seed(999)  # whatever another process has drawn
    if not resumed.state.exists():
        torch.manual_seed(3)
        Run(tmp_path / "other", loader)  # the same draws as building a model takes
    resumed.go(resume=True)
    assert_same(resumed, alone)
    assert resumed.scores == alone.scores[len(alone.scores) - len(resumed.scores) :]


@pytest.mark.parametrize(
    "options",
    [
        {"accumulation_steps": 4},  # some states lie within a group
        {"accumulation_steps": 4, "lr_schedule": "linear", "checkpoint_steps": 1},
        {"early_stop_patience": 2, "checkpoint_steps": 1},
        {"monitor": "logloss", "monitor_mode": "min", "embedding_regularizer": 0.01},
        {"optimizer": "SGD", "save_best_only": False},
        {"checkpoint_steps": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", [3, 8, 12])
def test_everything_that_a_step_depends_on_is_kept(options: dict[str, Any], step: int, tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone", **options).go()
    with pytest.raises(KilledError):
        Run(tmp_path / "killed", **options).at_step(step, kill).go()
    resumed = Run(tmp_path / "killed", **options).go(resume=True)
    assert_same(resumed, alone)
    assert resumed.model._best_metric == alone.model._best_metric
    assert resumed.model._stopping_steps == alone.model._stopping_steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(number: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    alone = Run(tmp_path / "alone").go()
    stopped = Run(tmp_path / "stopped").at_step(8, lambda: os.kill(os.getpid(), number))
    with pytest.raises(
        TrainingInterrupted, match=r"stopped in epoch 2 after batch 2 of 6; the state is in .*tiny.state"
    ):
        stopped.go()
    assert signal.getsignal(number) is before
    assert stopped.steps == 8  # the step was finished, none was begun
    resumed = Run(tmp_path / "stopped").go(resume=True)
    assert resumed.steps == 3 * STEPS - 8
    assert_same(resumed, alone)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_signal_during_an_evaluation(loader: str, tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone", loader).go()
    stopped = Run(tmp_path / "stopped", loader)
    forward = stopped.model.forward

    def with_signal(batch: Any) -> Any:
        if not stopped.model.training and stopped.steps == 5:
            signal.raise_signal(signal.SIGINT)
        return forward(batch)

    stopped.model.forward = with_signal  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted, match="stopped in epoch 1 after batch 5 of 6"):
        stopped.go()
    assert stopped.scores == []
    resumed = Run(tmp_path / "stopped", loader).go(resume=True)
    assert resumed.scores == alone.scores
    assert_same(resumed, alone)


def test_the_second_signal_acts_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = Run(tmp_path).at_step(2, twice)
    with pytest.raises(KeyboardInterrupt) as raised:
        run.go()
    assert not isinstance(raised.value, TrainingInterrupted)
    assert run.steps == 1


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = Run(tmp_path).at_step(8, lambda: signal.raise_signal(signal.SIGINT)).go()
    assert run.steps == 3 * STEPS


def test_the_last_step_can_be_interrupted_too(tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone").go()
    with pytest.raises(TrainingInterrupted):
        Run(tmp_path / "stopped").at_step(18, lambda: signal.raise_signal(signal.SIGINT)).go()
    resumed = Run(tmp_path / "stopped").go(resume=True)
    assert resumed.steps == 0
    assert_same(Run(tmp_path / "stopped").go(resume=True), Run(tmp_path / "alone").go(resume=True))
    assert all(torch.equal(value, alone.weights()[name]) for name, value in resumed.weights().items())


def test_an_ended_training_is_not_repeated_and_keeps_its_time(tmp_path: Path) -> None:
    first = Run(tmp_path).go()
    assert set(read_file(first.state)) == {"format", "identity", "seconds", "finished", "curve"}
    again = Run(tmp_path).go(resume=True)
    assert again.steps == 0
    assert again.model.train_seconds == first.model.train_seconds > 0
    assert all(torch.equal(value, first.weights()[name]) for name, value in again.weights().items())


def test_the_curve_is_that_of_a_training_left_alone(tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone", metrics=["AUC", "logloss"]).go().model.curve
    assert {type(value) for entry in alone for value in entry["valid"].values()} == {float}
    assert [entry["step"] for entry in alone] == [5, 10, 15]
    assert alone[0]["epoch"] == pytest.approx(5 / STEPS)
    assert all(set(entry["valid"]) == {"AUC", "logloss"} and 0 < entry["train_loss"] < 2 for entry in alone)
    with pytest.raises(KilledError):
        Run(tmp_path / "killed", metrics=["AUC", "logloss"]).at_step(14, kill).go()
    assert Run(tmp_path / "killed", metrics=["AUC", "logloss"]).go(resume=True).model.curve == alone
    assert Run(tmp_path / "killed", metrics=["AUC", "logloss"]).go(resume=True).model.curve == alone  # it has ended


def test_a_signal_in_an_evaluation_keeps_its_train_loss(tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone").go().model.curve
    run = Run(tmp_path / "stopped")
    evaluate = run.model.evaluate

    def signalled(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*args, **kwargs)

    run.model.evaluate = signalled  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted):
        run.go()
    assert Run(tmp_path / "stopped").go(resume=True).model.curve == alone


def test_without_resume_training_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        Run(tmp_path).at_step(9, kill).go()
    leftover = tmp_path / "tiny" / ".tiny.state.999999999-abc.tmp"
    leftover.write_bytes(b"half a file")
    anew = Run(tmp_path).go()
    assert anew.steps == 3 * STEPS
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["tiny.lock", "tiny.model", "tiny.state"]


def killed(folder: Path, **options: Any) -> Run:
    with pytest.raises(KilledError):
        Run(folder, **options).at_step(9, kill).go()
    return Run(folder, **options)


def test_a_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    with pytest.raises(ConfigError, match=r"tiny.state: that training began with epochs = 3, now it is 4; restore"):
        run.go(resume=True, epochs=4)
    with pytest.raises(ConfigError, match=r"began with learning_rate = 0.01, now it is 0.02"):
        run.go(resume=True, learning_rate=0.02)
    run.go(resume=True, gpu=3, verbose=0, train_data="moved.parquet")  # the machine does not matter


def test_a_state_of_another_model_names_the_parameter(tmp_path: Path) -> None:
    killed(tmp_path)
    other = Run(tmp_path, dnn_hidden_units=[9, 6])
    with pytest.raises(DataError, match=r"tiny.state: parameter 'dnn.mlp.0.weight' has shape \(8, .*expects \(9, "):
        other.go(resume=True)


def test_other_data_are_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    run.train.fingerprint = "other"
    with pytest.raises(ConfigError, match="that training began with training data = 6, now it is other"):
        run.go(resume=True)


def test_another_item_column_is_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    run.model.feature_map.features["item_emb"]["item_column"] = "item_emb-2.safetensors"
    with pytest.raises(ConfigError, match="that training began with digest of features = "):
        run.go(resume=True)


def test_a_truncated_state_is_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    run.state.write_bytes(run.state.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"tiny.state: not a whole checkpoint"):
        run.go(resume=True)


def moments(state: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in state["optimizer"]["state"].values() if one["exp_avg"].dim() == 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("rng"), "a training state without 'rng'; delete it to start anew"),
        (lambda s: s.update(curve="x"), "curve is a str where a list belongs"),
        # torch's fused Adam would read beyond the end of these, which takes the process down.
        (lambda s: moments(s).update(exp_avg=torch.zeros(1)), r"exp_avg of parameter \d+ of .* is \(1,\), exp"),
        (lambda s: moments(s).update(exp_avg_sq=torch.tensor(0.0)), r"exp_avg_sq of parameter \d+ .* is \(\), exp"),
        (lambda s: moments(s).pop("step"), r"parameter \d+ of its optimizer has \['exp_avg', 'exp_avg_sq'\], expected"),
        (lambda s: moments(s)["exp_avg"].fill_(torch.nan), "is torch.float32 or not finite"),
        (lambda s: s["optimizer"]["param_groups"][0]["params"].pop(), "its optimizer has other groups"),
        (lambda s: s["rng"].update(torch=torch.zeros(3, dtype=torch.uint8)), "does not fit this training"),
        (lambda s: s["gradients"].update({"no such": torch.ones(1)}), "KeyError: 'no such'"),
        (lambda s: next(iter(s["model"].values())).fill_(torch.inf), "values of .* that are NaN or inf"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    run = killed(tmp_path)
    state = read_file(run.state)
    change(state)
    write_file(state, run.state)
    before, generators = content(tmp_path), torch.get_rng_state()
    with pytest.raises(DataError, match=rf"tiny.state: .*{sentence}"):
        run.go(resume=True)
    assert content(tmp_path) == before and torch.equal(torch.get_rng_state(), generators)


@pytest.mark.parametrize("optimizer", ["adam", "AdamW", "Adagrad", "RMSprop", "SGD", "NAdam", "Adafactor"])
def test_states_of_other_optimizers_fit(optimizer: str, tmp_path: Path) -> None:
    if not hasattr(torch.optim, optimizer) and optimizer != "adam":
        pytest.skip(f"torch {torch.__version__} has no {optimizer}")
    options = {"optimizer": optimizer}
    whole = Run(tmp_path / "whole", **options).go()
    killed(tmp_path / "again", **options)
    assert_same(Run(tmp_path / "again", **options).go(resume=True), whole)


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.state.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.ones(2)}, run.state)
    with pytest.raises(DataError, match="no training state of this package"):
        run.go(resume=True)


@pytest.mark.parametrize(("what", "batch"), [("a score", 3), ("a gradient", 2)])
def test_a_training_that_diverges_says_where_and_can_be_resumed(
    what: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(tmp_path / "whole").go(checkpoint_steps=1)
    again = Run(tmp_path / "again")
    steps: list[int] = []
    real = MultimodalRankModel.compute_loss

    def poisoned(self: Any, answer: Any, labels: Any) -> torch.Tensor:
        steps.append(1)
        return real(self, answer, labels) * (torch.inf if len(steps) == batch and what == "a gradient" else 1.0)

    forward = MultimodalRankModel.forward

    def scored(self: Any, inputs: Any) -> Any:
        answer = forward(self, inputs)
        is_bad = self.training and len(steps) == batch - 1 and what == "a score"
        return {"y_pred": answer["y_pred"] * (torch.nan if is_bad else 1.0)}

    with monkeypatch.context() as patch:
        patch.setattr(MultimodalRankModel, "compute_loss", poisoned)
        patch.setattr(MultimodalRankModel, "forward", scored)
        with pytest.raises(DataError, match=rf"diverged in epoch 1, batch {batch}: {what} is not finite, at"):
            again.go(checkpoint_steps=1)
    assert_same(Run(tmp_path / "again").go(resume=True, checkpoint_steps=1), whole)


def test_a_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for context, _, _ in run.valid:
        context["label"].zero_()
    with pytest.raises(DataError, match="validation AUC is not a number in epoch 1: the valid split holds one class"):
        run.go()


def test_a_training_that_would_never_be_evaluated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval_steps=19 is more than the 18 steps .*3 epochs of 6 batches"):
        Run(tmp_path, eval_steps=19).go()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "changes", "sentence"),
    [
        ({"eval_steps": 19}, {}, "eval_steps=19 is more than the 18 steps"),
        ({}, {"epochs": 0}, "key 'epochs': found 0; at least 1 is expected"),
        ({}, {"epochs": "3"}, "key 'epochs': found '3'; a whole number is expected"),
        ({}, {"max_gradient_norm": -1.0}, "key 'max_gradient_norm': found -1.0; more than 0"),
        ({}, {"checkpoint_steps": 0}, "key 'checkpoint_steps': found 0; at least 1"),
        ({}, {"validation_data": None}, "fit needs validation_data"),
        ({}, {"resume": True, "epochs": 4}, "began with epochs = 3, now it is 4"),
        ({"dnn_hidden_units": [9, 6]}, {"resume": True}, r"parameter 'dnn.mlp.0.weight' has shape \(8, "),
    ],
    ids=str,
)
def test_a_refused_training_touches_nothing(
    options: dict[str, Any], changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    killed(tmp_path)
    (tmp_path / "tiny" / ".tiny.state.999999999-abc.tmp").write_bytes(b"half a file")
    before = content(tmp_path)
    assert {"tiny/tiny.model", "tiny/tiny.state"} <= set(before)
    run = Run(tmp_path, **options)
    attributes = dict(vars(run.model))
    with pytest.raises((ConfigError, DataError), match=sentence):
        run.model.fit(run.train, **{"validation_data": run.valid, **run.fit, **changes})
    assert content(tmp_path) == before
    assert vars(run.model) == attributes
    assert run.steps == 0


def test_no_batch_to_train_on_is_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    before = content(tmp_path)
    with pytest.raises(DataError, match="the training data hold no batch"):
        run.model.fit([], validation_data=run.valid, **run.fit)
    assert content(tmp_path) == before


def test_the_state_of_an_older_version_is_refused(tmp_path: Path) -> None:
    run = killed(tmp_path)
    torch.save({**read_file(run.state), "format": "fuxictr_mm training state 2"}, run.state)
    with pytest.raises(
        DataError, match=r"tiny.state: no training state of this package \('fuxictr_mm training state 4"
    ):
        run.go(resume=True)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"accumulation_steps": 0}, "key 'accumulation_steps': found 0; at least 1 is expected"),
        ({"accumulation_steps": 2.5}, "key 'accumulation_steps': found 2.5; a whole number"),
        ({"lr_schedule": "cosine"}, "key 'lr_schedule': found 'cosine'; one of 'none' or 'linear' is expected"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(option: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Run(tmp_path, **option)


def test_every_field_of_progress_is_saved_and_restored(tmp_path: Path) -> None:
    run = killed(tmp_path)
    state = read_file(run.state)
    names = {field.name for field in fields(Progress)}
    assert names <= set(state)
    others = {name: object() for name in names}
    assert vars(Progress().restored(others)) == others
    restored = Progress().restored(state)
    assert (restored.epoch, restored.batches_done, restored.total_steps) == (1, 2, 8)
    assert restored.best_metric > 0 and restored.seconds > 0 and len(restored.curve) == 1


def test_the_hosts_names_are_those_of_progress(tmp_path: Path) -> None:
    """A model that keeps the host's own methods, or a script that reads what they write."""
    model = Run(tmp_path).go().model
    names = ("_epoch_index", "_batch_index", "_total_steps", "_stopping_steps", "_stop_training", "_best_metric")
    assert [getattr(model, name) for name in names[:3]] == [2, STEPS - 1, 3 * STEPS]
    for name, field in zip(names, ("epoch", "batch_index", "total_steps", "stopping_steps", "stop_training")):
        setattr(model, name, 7)
        assert getattr(model.progress, field) == getattr(model, name) == 7
    model._best_metric = 0.25
    BaseModel.checkpoint_and_earlystop(model, {"AUC": 0.75})
    assert model.progress.best_metric == 0.75
    assert model.progress.stopping_steps == 0


def test_a_tracker_gets_each_entry_of_the_curve(tmp_path: Path) -> None:
    run, seen = Run(tmp_path), []
    run.model.on_evaluation.append(seen.append)
    run.go()
    assert seen == run.model.curve and len(seen) == 3
    seen[0]["valid"].clear()  # a copy: what a tracker does with it does not change the curve
    assert run.model.curve[0]["valid"]


def test_a_failing_tracker_changes_nothing_and_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone = Run(tmp_path / "alone").go()
    run, seen = Run(tmp_path / "tracked"), []

    def offline(entry: dict[str, Any]) -> None:
        torch.rand(1)  # draws from the generator that dropout draws from
        raise ConnectionError("no network")

    run.model.on_evaluation += [offline, seen.append]
    run.go()
    assert [entry["step"] for entry in seen] == [5, 10, 15]
    assert_same(run, alone)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "offline" in warnings[0] and "failed at step 5: ConnectionError('no network')" in warnings[0]


def test_a_script_cannot_train_to_the_checkpoint_of_a_living_training(tmp_path: Path) -> None:
    """Also without the runner: both would write the same files, and load each other's best weights."""
    run = Run(tmp_path)
    lock = Path(run.model.checkpoint).with_suffix(".lock")
    hold = (
        "import sys; from fuxictr_mm.files import only_one\nwith only_one(sys.argv[1], ''): print(), sys.stdin.read()"
    )
    command = [sys.executable, "-u", "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        with pytest.raises(ConfigError, match=rf"another training of tiny is going on in process {other.pid};"):
            run.go()
    assert run.steps == 0 and not Path(run.model.checkpoint).exists()
