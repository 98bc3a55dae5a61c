"""FuxiCTR's training loop, so written that a run which is killed and resumed ends as if nothing had happened.

FuxiCTR keeps the best weights alone. Beside them, ``<expid>.state`` holds all that the next step depends on. Apart
from the base of our models because nothing here knows about items or histories.
"""

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fuxictr_mm.config.experiment import identity
from fuxictr_mm.errors import ConfigError, DataError, TrainingInterrupted
from fuxictr_mm.files import remove_leftovers
from fuxictr_mm.training.checkpoint import check_shapes, load_weights, read_file, write_file, write_weights
from fuxictr_mm.training.replay import remaining_batches, rng_state, set_rng_state
from fuxictr_mm.training.signals import SignalInEvaluationError, Signals, UntilHeard
from fuxictr_mm.training.step import EfficientModel

__all__ = ["ResumableModel", "state_file"]

FORMAT = "fuxictr_mm training state 2"
SCHEDULES = ("none", "linear")
CHEAP_METRICS = ("AUC", "logloss", "gAUC")


def state_file(checkpoint: str | Path) -> Path:
    """Where the training state of the run with this checkpoint lies."""
    return Path(checkpoint).with_suffix(".state")


class ResumableModel(EfficientModel):
    """A host model whose ``fit`` saves its state, stops between two steps, and resumes.

    Args:
        accumulation_steps: batches whose gradients are added up before an optimizer step.
        lr_schedule: ``"none"`` leaves the rate to the host, which divides it by ten at an evaluation without gain;
            ``"linear"`` lets it fall to zero over all ``epochs`` instead.
        kwargs: see :class:`~fuxictr_mm.training.step.EfficientModel`, and the host's ``BaseModel`` arguments.

    Attributes:
        train_seconds: wall-clock time of training, evaluations included, over all parts of a resumed run.
        curve: one entry per evaluation: ``step``, ``epoch``, ``train_loss`` (mean since the last one) and ``valid``
            (metric -> value).
    """

    def __init__(
        self, feature_map: Any, *, accumulation_steps: int = 1, lr_schedule: str = "none", **kwargs: Any
    ) -> None:
        super().__init__(feature_map, **kwargs)
        if lr_schedule not in SCHEDULES:
            raise ConfigError(f"lr_schedule={lr_schedule!r} must be one of {list(SCHEDULES)}.")
        self.accumulation_steps = accumulation_steps
        self.lr_schedule = lr_schedule
        if lr_schedule == "linear":
            self._reduce_lr_on_plateau = False
        self.train_seconds = 0.0
        self.curve: list[dict[str, Any]] = []

    def fit(
        self,
        data_generator: Any,
        epochs: int = 1,
        validation_data: Any = None,
        max_gradient_norm: float = 10.0,
        resume: bool = False,
        checkpoint_steps: int | None = None,
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
            ConfigError: the state belongs to other parameters; or no evaluation would ever take place.
            DataError: the state is damaged or belongs to other data; or the monitored metric is not a number.
            TrainingInterrupted: a signal came; the state is saved.
        """
        self._max_gradient_norm = max_gradient_norm
        self._best_metric = math.inf if self._monitor_mode == "min" else -math.inf
        self._stopping_steps = 0
        self._stop_training = False
        self._steps_per_epoch = len(data_generator)
        self._total_steps = self._batch_index = self._epoch_index = 0
        self._batches_done = 0  # of this epoch
        self._train_loss = math.nan
        self._evaluation_due = False
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # since the last evaluation
        self.curve = []
        self._eval_steps: int = self._eval_steps or self._steps_per_epoch
        self._last_step = epochs * self._steps_per_epoch
        if self._eval_steps > self._last_step:
            raise ConfigError(
                f"eval_steps={self._eval_steps} is more than the {self._last_step} steps of this training ({epochs} "
                f"epochs of {self._steps_per_epoch} batches): nothing would be evaluated or saved; make it smaller."
            )
        self._checkpoint_steps = checkpoint_steps
        self._first_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._identity = identity({**kwargs, "epochs": epochs, "max_gradient_norm": max_gradient_norm})
        features = json.dumps(self.feature_map.features, sort_keys=True, default=str)  # they name the item table, too
        self._identity["digest of features"] = hashlib.blake2b(features.encode(), digest_size=8).hexdigest()
        self._identity["training data"] = str(getattr(data_generator, "fingerprint", len(data_generator)))
        self._loader = data_generator
        self._signals = Signals()
        self.valid_gen = None if validation_data is None else UntilHeard(validation_data, self._signals)
        for path in (Path(self.checkpoint), state_file(self.checkpoint)):
            remove_leftovers(path)

        self.train_seconds = 0.0
        self._started = time.perf_counter()
        state = self._restore() if resume else None
        if state is None:
            state_file(self.checkpoint).unlink(missing_ok=True)
        if state is None or not state.get("finished"):
            logging.info(f"Start training: {self._steps_per_epoch} batches/epoch")
            with self._signals.kept():
                self._train(epochs, state)
                self._save({"finished": True, "curve": self.curve})
            if self._signals.heard is not None:
                raise self._interruption()
        logging.info("Training finished.")
        logging.info(f"Load best model: {self.checkpoint}")
        self.load_weights(self.checkpoint)

    def _train(self, epochs: int, state: dict[str, Any] | None) -> None:
        if state is not None:
            set_rng_state(state["rng"])
            if self._evaluation_due:  # the signal came during an evaluation
                self._evaluate()
        for epoch in range(self._epoch_index, epochs):
            if self._stop_training:
                break
            self._epoch_index = epoch
            logging.info(f"************ Epoch={epoch + 1} start ************")
            if state is None:
                self._batches_done = 0
                self._rng_at_epoch = rng_state()
                self.train_epoch(self._loader)
            else:
                self.train_epoch(remaining_batches(self._loader, state))
                state = None
            if not self._stop_training:
                logging.info(f"************ Epoch={epoch + 1} end ************")

    def train_epoch(self, data_generator: Any) -> None:
        """Train on the batches of one epoch, or on those that are left of it."""
        self.train()
        batches: Any = data_generator
        if self._verbose:
            batches = tqdm(batches, total=self._steps_per_epoch, initial=self._batches_done, file=sys.stdout)
        for batch_data in batches:
            self._batch_index = self._batches_done
            self._total_steps += 1
            self._loss_sum += self.train_step(batch_data).detach()
            self._batches_done += 1
            if self._total_steps % self._eval_steps == 0:
                self._train_loss = self._loss_sum.item() / self._eval_steps
                logging.info(f"Train loss: {self._train_loss:.6f}")
                self._loss_sum.zero_()
                self._evaluation_due = True
                self._evaluate()
            is_last = self._batches_done == self._steps_per_epoch
            by_steps = self._checkpoint_steps is not None and self._total_steps % self._checkpoint_steps == 0
            if is_last or by_steps or self._signals.heard is not None:
                self._save(self._state())
            if self._signals.heard is not None:
                raise self._interruption()
            if self._stop_training:
                break

    def train_step(self, batch_data: Any) -> torch.Tensor:
        """One batch. Returns the undivided loss, so that the log does not depend on ``accumulation_steps``."""
        position = self._batch_index % self.accumulation_steps
        if position == 0:
            self.optimizer.zero_grad()
        loss = self.compute_loss(self.forward(batch_data), self.get_labels(batch_data))
        # The last group of an epoch may be short: it is divided by its own size and stepped, not carried over.
        group_start = self._batch_index - position
        group_size = min(self.accumulation_steps, self._steps_per_epoch - group_start)
        (loss / group_size).backward()
        if position == group_size - 1:
            self.clip_gradients(self._max_gradient_norm)
            if self.lr_schedule == "linear":
                for group, rate in zip(self.optimizer.param_groups, self._first_rates):
                    group["lr"] = rate * (1 - (self._total_steps - 1) / self._last_step)
            self.optimizer.step()
        return loss.detach()

    def checkpoint_and_earlystop(self, logs: Mapping[str, float], min_delta: float = 1e-6) -> None:
        """The host's, which would take a metric that is not a number for a gain.

        Raises:
            DataError: the monitored metric is not a number.
        """
        value = float(self._monitor.get_value(logs))
        if math.isnan(value):
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
        entry = {"step": self._total_steps, "epoch": self._total_steps / self._steps_per_epoch}
        # Plain floats: numpy's would need code to be loaded from the state.
        valid = {name: float(value) for name, value in logs.items()}
        self.curve.append({**entry, "train_loss": self._train_loss, "valid": valid})
        self.checkpoint_and_earlystop(logs)
        self.train()

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
            self._save({**self._state(), "rng": before})
            raise self._interruption() from None
        self._evaluation_due = False

    def _interruption(self) -> TrainingInterrupted:
        return TrainingInterrupted(
            f"stopped in epoch {self._epoch_index + 1} after batch {self._batches_done} of {self._steps_per_epoch}; "
            f"the state is in {state_file(self.checkpoint)}"
        )

    def _state(self) -> dict[str, Any]:
        in_group = self._batches_done % self.accumulation_steps and self._batches_done < self._steps_per_epoch
        named = self.named_parameters() if in_group else ()
        return {
            "model": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": {name: p.grad for name, p in named if p.grad is not None},
            "epoch": self._epoch_index,
            "batches_done": self._batches_done,
            "total_steps": self._total_steps,
            "best_metric": float(self._best_metric),
            "stopping_steps": self._stopping_steps,
            "stop_training": self._stop_training,
            "evaluation_due": self._evaluation_due,
            "loss_sum": self._loss_sum,
            "train_loss": self._train_loss,
            "curve": self.curve,
            "loader_epoch": getattr(self._loader, "epoch", 0) - 1,  # it counts an epoch when its iteration starts
            "rng": rng_state(),
            "rng_at_epoch": self._rng_at_epoch,
        }

    def _save(self, state: dict[str, Any]) -> None:
        seconds = self.train_seconds + time.perf_counter() - self._started
        write_file(
            {"format": FORMAT, "identity": self._identity, "seconds": seconds, **state}, state_file(self.checkpoint)
        )
        if "finished" in state:
            self.train_seconds = seconds

    def _restore(self) -> dict[str, Any] | None:
        """Take over a saved state and return it; ``None`` where there is none."""
        path = state_file(self.checkpoint)
        if not path.exists():
            logging.info(f"No training state in {path}: training starts from the beginning.")
            return None
        state = read_file(path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise DataError(f"{path}: no training state of this package ({FORMAT!r}); delete it to start anew.")
        for key in {**state["identity"], **self._identity}:
            before, now = state["identity"].get(key), self._identity.get(key)
            if before != now:
                raise ConfigError(
                    f"{path}: that training began with {key} = {before}, now it is {now}; restore {key}, or "
                    "delete that file to start anew."
                )
        self.train_seconds = state["seconds"]
        if state.get("finished"):
            self.curve = state["curve"]
            logging.info(f"Training had ended: {path}")
            return state
        check_shapes(state["model"], self, path)
        self.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, parameter in self.named_parameters():
            if name in state["gradients"]:
                parameter.grad = state["gradients"][name].to(parameter)
        self._epoch_index = state["epoch"]
        self._batches_done = state["batches_done"]
        self._batch_index = self._batches_done - 1
        self._total_steps = state["total_steps"]
        self._best_metric = state["best_metric"]
        self._stopping_steps = state["stopping_steps"]
        self._stop_training = state["stop_training"]
        self._evaluation_due = state["evaluation_due"]
        self._loss_sum = state["loss_sum"].to(self.device)
        self._train_loss = state["train_loss"]
        self.curve = state["curve"]
        self._rng_at_epoch = state["rng_at_epoch"]
        logging.info(
            f"Resume after epoch {self._epoch_index + 1}, batch {self._batches_done} of {self._steps_per_epoch}: {path}"
        )
        return state
