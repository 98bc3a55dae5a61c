"""FuxiCTR's training loop, so written that a run which is killed and resumed ends as if nothing had happened."""

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fuxictr_mm.config.keys import Positive, PositiveNumber, check_arguments
from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
from fuxictr_mm.files import only_one, remove_leftovers
from fuxictr_mm.training.checkpoint import load_weights, write_weights
from fuxictr_mm.training.progress import Progress, read_state, state_file, training_identity, write_state
from fuxictr_mm.training.replay import check_state, remaining_batches, rng_state, set_rng_state
from fuxictr_mm.training.signals import SignalInEvaluationError, Signals, UntilHeard
from fuxictr_mm.training.step import EfficientModel

__all__ = ["ResumableModel", "check_evaluations"]

CHEAP_METRICS = ("AUC", "logloss", "gAUC")


def check_evaluations(eval_steps: int | None, epochs: int, steps_per_epoch: int) -> None:
    """Refuse a training that would end before its first evaluation, and so keep no weights.

    Raises:
        ConfigError: see there; ``eval_steps`` of ``None`` or 0 are once per epoch.
    """
    last_step = epochs * steps_per_epoch
    if (eval_steps or steps_per_epoch) > last_step:
        raise ConfigError(
            f"eval_steps={eval_steps} is more than the {last_step} steps of this training ({epochs} epochs of "
            f"{steps_per_epoch} batches): nothing would be evaluated or saved; make it smaller."
        )


def _of_progress(name: str) -> Any:
    """An attribute of the model that is a field of its :class:`Progress`."""
    return property(
        lambda model: getattr(model.progress, name), lambda model, value: setattr(model.progress, name, value)
    )


class ResumableModel(EfficientModel):
    """A host model whose ``fit`` saves its state, stops between two steps, and resumes.

    Args:
        kwargs: see :class:`~fuxictr_mm.training.step.EfficientModel`, and the host's ``BaseModel`` arguments.

    Attributes:
        progress: how far the training has come.
        train_seconds: wall-clock time of training, evaluations included, over all parts of a resumed run.
        curve: one entry per evaluation: ``step``, ``epoch``, ``train_loss`` (mean since the last one) and ``valid``
            (metric -> value).
        on_evaluation: functions that are called with a copy of each entry of ``curve``, e.g. a tracker's. One that
            fails is named in the log and does not end the training. A resumed run repeats the entries of the
            evaluations that it repeats; their ``step`` is the same.
    """

    train_seconds = _of_progress("seconds")
    curve = _of_progress("curve")
    # Names that the host's methods read and write.
    _epoch_index = _of_progress("epoch")
    _batch_index = _of_progress("batch_index")
    _total_steps = _of_progress("total_steps")
    _best_metric = _of_progress("best_metric")
    _stopping_steps = _of_progress("stopping_steps")
    _stop_training = _of_progress("stop_training")

    def __init__(self, feature_map: Any, **kwargs: Any) -> None:
        super().__init__(feature_map, **kwargs)
        self.progress = Progress()
        self.on_evaluation: list[Callable[[dict[str, Any]], None]] = []

    @check_arguments
    def fit(
        self,
        data_generator: Any,
        epochs: Positive = 1,
        validation_data: Any = None,
        max_gradient_norm: PositiveNumber = 10.0,
        resume: bool = False,
        checkpoint_steps: Positive | None = None,
        **kwargs: Any,
    ) -> None:
        """Train, keep the best weights in ``checkpoint``, and load them at the end, as the host's ``fit`` does.

        The training state is saved after every epoch, after every ``checkpoint_steps`` batches, and at Ctrl-C or
        SIGTERM; what remains of it after the last epoch is a note that training is over. On a CPU, a run that is
        killed at any moment and resumed gives bit by bit the weights of one that was not.

        Args:
            data_generator: training batches. A loader with ``iterate(start)`` and ``epoch`` resumes at its place; of
                any other, the batches before that place are drawn again and thrown away.
            epochs: passes over the training data.
            validation_data: batches to evaluate on, ``eval_steps`` batches apart.
            max_gradient_norm: gradients are clipped to this norm.
            resume: continue from the training state, if there is one.
            checkpoint_steps: batches between two saved states; ``None``: once per epoch.
            kwargs: the experiment's other parameters: a state of other ones is refused.

        Raises:
            ConfigError: an argument is out of its bounds; the state belongs to other parameters; no evaluation would
                ever take place; or another process trains to this checkpoint. Neither files nor model are touched then.
            DataError: there is no batch to train on; the state is damaged or belongs to other data (nothing has been
                touched); or the monitored metric is not a number.
            TrainingInterrupted: a signal came; the state is saved.
        """
        self._check_lengths(data_generator, validation_data, epochs)
        lock = Path(self.checkpoint).with_suffix(".lock")
        with only_one(lock, f"another training of {self.model_id}"):
            params = {**kwargs, "epochs": epochs, "max_gradient_norm": max_gradient_norm}
            identity = training_identity(params, self.feature_map, data_generator, validation_data)
            state_path = state_file(self.checkpoint)
            state = read_state(state_path, identity) if resume else None
            is_over = state is not None and "finished" in state
            if state is not None and not is_over:
                check_state(state, self, state_path)

            # Every check has passed: from here on the model and its files change.
            self._max_gradient_norm = max_gradient_norm
            self._steps_per_epoch = len(data_generator)
            self._eval_steps: int = self._eval_steps or self._steps_per_epoch
            self._last_step = epochs * self._steps_per_epoch
            self._checkpoint_steps = checkpoint_steps
            self._identity = identity
            self._loader = data_generator
            self._signals = Signals()
            self.valid_gen = UntilHeard(validation_data, self._signals)
            self._failed: set[int] = set()  # numbers of the functions in on_evaluation that have failed
            self._first_rates = [group["lr"] for group in self.optimizer.param_groups]
            self._clock = time.perf_counter()
            self.progress = Progress(best_metric=math.inf if self._monitor_mode == "min" else -math.inf)
            if state is not None:
                self.progress = self.progress.restored(state)
            remove_leftovers(state_path.parent)
            if is_over:
                logging.info(f"Training had ended: {state_path}")
            else:
                logging.info(f"Start training: {self._steps_per_epoch} batches/epoch")
                with self._signals.kept():
                    self._train(epochs, state)
                    self._write({"finished": True, "curve": self.curve})
                if self._signals.heard is not None:
                    raise self._interruption()
            logging.info("Training finished.")
            logging.info(f"Load best model: {self.checkpoint}")
            self.load_weights(self.checkpoint)

    def _check_lengths(self, training_data: Any, validation_data: Any, epochs: int) -> None:
        steps_per_epoch = len(training_data)
        if steps_per_epoch == 0:
            raise DataError("the training data hold no batch; look at train_data and batch_size.")
        if validation_data is None:
            raise ConfigError("fit needs validation_data: the best weights are those of the best evaluation.")
        check_evaluations(self._eval_steps, epochs, steps_per_epoch)

    def _train(self, epochs: int, state: dict[str, Any] | None) -> None:
        progress = self.progress
        if state is None:
            state_file(self.checkpoint).unlink(missing_ok=True)
        else:
            self._restore(state)
            if progress.evaluation_due:  # the signal came during an evaluation
                self._evaluate()
        for epoch in range(progress.epoch, epochs):
            if progress.stop_training:
                break
            progress.epoch = epoch
            logging.info(f"************ Epoch={epoch + 1} start ************")
            if state is None:
                progress.batch_index = -1
                progress.loader_epoch = getattr(self._loader, "epoch", 0)
                progress.rng_at_epoch = rng_state()
                self.train_epoch(self._loader)
            else:
                self.train_epoch(remaining_batches(self._loader, progress))
                state = None
            if not progress.stop_training:
                logging.info(f"************ Epoch={epoch + 1} end ************")

    def train_epoch(self, data_generator: Any) -> None:
        """Train on the batches of one epoch, or on those that are left of it."""
        self.train()
        progress = self.progress
        batches: Any = data_generator
        if self._verbose:
            batches = tqdm(batches, total=self._steps_per_epoch, initial=progress.batches_done, file=sys.stdout)
        for batch_data in batches:
            progress.batch_index += 1
            progress.total_steps += 1
            progress.loss_sum = progress.loss_sum + self.train_step(batch_data).detach()
            if progress.total_steps % self._eval_steps == 0:
                progress.train_loss = progress.loss_sum.item() / self._eval_steps
                if not math.isfinite(progress.train_loss):
                    raise self.diverged("the loss")
                logging.info(f"Train loss: {progress.train_loss:.6f}")
                progress.loss_sum = torch.zeros_like(progress.loss_sum)
                progress.evaluation_due = True
                self._evaluate()
            is_last = progress.batches_done == self._steps_per_epoch
            by_steps = self._checkpoint_steps is not None and progress.total_steps % self._checkpoint_steps == 0
            if is_last or by_steps or self._signals.heard is not None:
                self._write(self._state())
            if self._signals.heard is not None:
                raise self._interruption()
            if progress.stop_training:
                break

    def checkpoint_and_earlystop(self, logs: Mapping[str, float], min_delta: float = 1e-6) -> None:
        """The host's, which would take a metric that is not a number for a gain.

        Raises:
            DataError: the monitored metric is not a number.
        """
        if math.isnan(self._monitor.get_value(logs)):
            raise DataError(
                f"validation {'/'.join(self._monitor.get_metrics())} is not a number in epoch {self._epoch_index + 1}: "
                "the valid split holds one class only, no group with both labels, or the weights have diverged; look "
                "at valid_data with experiments/inspect_data.py, or lower learning_rate."
            )
        super().checkpoint_and_earlystop(logs, min_delta)

    def eval_step(self) -> None:
        """The host's; the metrics that cost little are computed beside the monitored ones, for :attr:`curve`."""
        logging.info(f"Evaluation @epoch {self._epoch_index + 1} - batch {self._batch_index + 1}: ")
        cheap = [name for name in self.validation_metrics if name in CHEAP_METRICS]
        logs = self.evaluate(self.valid_gen, metrics=list(dict.fromkeys([*self._monitor.get_metrics(), *cheap])))
        progress = self.progress
        entry = {"step": progress.total_steps, "epoch": progress.total_steps / self._steps_per_epoch}
        progress.curve.append({**entry, "train_loss": progress.train_loss, "valid": logs})
        self._tell(progress.curve[-1])
        self.checkpoint_and_earlystop(logs)
        self.train()

    def _tell(self, entry: dict[str, Any]) -> None:
        generators = rng_state()  # whatever a listener draws, the training stays the same
        for number, listener in enumerate(self.on_evaluation):
            try:
                listener(copy.deepcopy(entry))
            except Exception as err:
                if number not in self._failed:
                    logging.warning(
                        f"on_evaluation: {listener!r} failed at step {entry['step']}: {err!r}; training goes on."
                    )
                self._failed.add(number)
        set_rng_state(generators)

    def save_weights(self, checkpoint: str) -> None:
        """Write the state dict beside ``checkpoint`` and rename it, so that a crash leaves the old file whole."""
        write_weights(self.state_dict(), checkpoint)

    def load_weights(self, checkpoint: str) -> None:
        """Load a state dict from ``.model``, ``.pth`` or ``.safetensors``."""
        self.to(self.device)
        load_weights(self, checkpoint)

    def _evaluate(self) -> None:
        before = rng_state()  # a foreign loader may draw from it when its iteration starts
        try:
            self.eval_step()
        except SignalInEvaluationError:
            self._write({**self._state(), "rng": before})
            raise self._interruption() from None
        self.progress.evaluation_due = False

    def _interruption(self) -> TrainingInterrupted:
        return TrainingInterrupted(
            f"stopped in epoch {self.progress.epoch + 1} after batch {self.progress.batches_done} of "
            f"{self._steps_per_epoch}; the state is in {state_file(self.checkpoint)}"
        )

    def _state(self) -> dict[str, Any]:
        done = self.progress.batches_done
        in_group = done % self.accumulation_steps and done < self._steps_per_epoch
        named = self.named_parameters() if in_group else ()
        return {
            **vars(self.progress),
            "model": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": {name: p.grad for name, p in named if p.grad is not None},
            "rng": rng_state(),
        }

    def _write(self, content: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now
        state = {**content, "seconds": self.progress.seconds}
        write_state(state_file(self.checkpoint), self._identity, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over weights, optimizer, gradients and generators; :attr:`progress` has been."""
        self.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, parameter in self.named_parameters():
            if name in state["gradients"]:
                parameter.grad = state["gradients"][name].to(parameter)
        set_rng_state(state["rng"])
        progress = self.progress
        logging.info(
            f"Resume after epoch {progress.epoch + 1}, batch {progress.batches_done} of {self._steps_per_epoch}: "
            f"{state_file(self.checkpoint)}"
        )
