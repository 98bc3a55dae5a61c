"""One training step and one evaluation of a host model, without what costs time and computes nothing."""

import inspect
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from fuxictr.pytorch.layers import MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import nn
from tqdm import tqdm

from fuxictr_mm.config.keys import Positive, check_arguments
from fuxictr_mm.errors import DataError

__all__ = ["EfficientModel"]


class EfficientModel(BaseModel):
    """A host model with a fused optimizer, gradient accumulation, and evaluations that collect tensors.

    Args:
        accumulation_steps: batches whose gradients are added up before an optimizer step.
        lr_schedule: ``"none"`` leaves the rate to the host, which divides it by ten at an evaluation without gain;
            ``"linear"`` lets it fall to zero over all ``epochs`` instead.
        amp: ``"bf16"`` computes matrix products in bfloat16 (``torch.autocast``); weights, sums and the last layer stay
            float32. It pays only where the device multiplies bfloat16 itself.
        torch_compile: compile the network behind the embeddings with ``torch.compile``; the first steps are slow.
        kwargs: the host's ``BaseModel`` arguments.

    Raises:
        ConfigError: an argument is none of its values.
        DataError: while training, it has diverged.
    """

    # The training loop sets these, as FuxiCTR's does the first two.
    _max_gradient_norm: float
    _steps_per_epoch: int
    _last_step: int
    _first_rates: list[float]

    @check_arguments
    def __init__(
        self,
        feature_map: Any,
        *,
        accumulation_steps: Positive = 1,
        lr_schedule: Literal["none", "linear"] = "none",
        amp: Literal["none", "bf16"] = "none",
        torch_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, **kwargs)
        self.accumulation_steps = accumulation_steps
        self.lr_schedule = lr_schedule
        if lr_schedule == "linear":
            self._reduce_lr_on_plateau = False
        self.amp = amp
        self.torch_compile = torch_compile

    def compile(self, optimizer: str, loss: str, lr: float) -> None:
        """The host's; an optimizer that torch can fuse is: one pass over the weights instead of one per operation."""
        super().compile(optimizer, loss, lr)
        self.optimizer: torch.optim.Optimizer
        kind = type(self.optimizer)
        if "fused" in inspect.signature(kind).parameters:
            self.optimizer = kind(self.parameters(), lr=lr, fused=True)

    def train_step(self, batch_data: Any) -> torch.Tensor:
        """One batch. Returns the undivided loss, so that the log does not depend on ``accumulation_steps``."""
        position = self._batch_index % self.accumulation_steps
        if position == 0:
            self.optimizer.zero_grad()
        answer = self.forward(batch_data)
        # On a GPU looking would wait for the device: there the next evaluation tells.
        if self.device.type == "cpu" and not answer["y_pred"].isfinite().all():
            raise self.diverged("a score")
        loss = self.compute_loss(answer, self.get_labels(batch_data))
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

    def clip_gradients(self, max_norm: float) -> None:
        """``nn.utils.clip_grad_norm_``, which multiplies short gradients by 1: on a CPU that pass is left out."""
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        if self.device.type == "cpu":  # elsewhere looking at the norm would wait for the device
            norms = [torch.linalg.vector_norm(parameter.grad) for parameter in parameters]
            norm = torch.linalg.vector_norm(torch.stack(norms))
            if not norm.isfinite():
                raise self.diverged("a gradient")
            if norm + 1e-6 <= max_norm:
                return
        nn.utils.clip_grad_norm_(parameters, max_norm)

    def diverged(self, what: str) -> DataError:
        """The sentence for a training that has left the numbers; the weights and the saved state are those before."""
        rate = self.optimizer.param_groups[0]["lr"]
        return DataError(
            f"training has diverged in epoch {self._epoch_index + 1}, batch {self._batch_index + 1}: {what} is not "
            f"finite, at learning rate {rate:g}; lower learning_rate, or scale the numbers that go in (normalizer)."
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that a forward pass runs in."""
        return nullcontext() if self.amp == "none" else torch.autocast(self.device.type, torch.bfloat16)

    def head(self, mlp: MLP_Block, x: torch.Tensor) -> torch.Tensor:
        """Apply the host's ``MLP_Block`` that ends a network; its last layer and activation in float32.

        A probability near 0 or 1 has two to three digits in bfloat16, too few to rank by.
        """
        if self.amp == "none":
            return mlp(x)
        last = max(number for number, layer in enumerate(mlp.mlp) if isinstance(layer, nn.Linear))
        hidden = mlp.mlp[:last](x)
        with torch.autocast(self.device.type, enabled=False):
            return mlp.mlp[last:](hidden.float())

    def evaluate(self, data_generator: Any, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Return metric name -> value over all batches, as the host's ``evaluate`` does.

        Args:
            data_generator: batches with labels, and with group ids where the feature map names a group.
            metrics: names; default those of the experiment.
        """
        self.eval()
        scores, labels, groups = [], [], []
        with torch.no_grad():
            for batch in self._shown(data_generator):
                scores.append(self.forward(batch)["y_pred"].reshape(-1))
                labels.append(self.get_labels(batch).reshape(-1))
                if self.feature_map.group_id is not None:
                    groups.append(self.get_group_id(batch).reshape(-1))
        logs = self.evaluate_metrics(
            _joined(labels).astype(np.float64),
            _joined(scores).astype(np.float64),
            self.validation_metrics if metrics is None else metrics,
            _joined(groups) if groups else None,
        )
        logs = {name: float(value) for name, value in logs.items()}  # numpy's could not be read from a training state
        logging.info("[Metrics] " + " - ".join(f"{name}: {value:.6f}" for name, value in logs.items()))
        return logs

    def predict(self, data_generator: Any) -> np.ndarray:
        """Return (N,) float64 probabilities, one per row of ``data_generator``."""
        self.eval()
        with torch.no_grad():
            scores = [self.forward(batch)["y_pred"].reshape(-1) for batch in self._shown(data_generator)]
        return _joined(scores).astype(np.float64)

    def _shown(self, batches: Any) -> Any:
        return tqdm(batches, file=sys.stdout) if self._verbose > 0 else batches


def _joined(parts: list[torch.Tensor]) -> np.ndarray:
    # One copy from the device for all batches: a copy per batch waits for that batch.
    return torch.cat(parts).cpu().numpy()
