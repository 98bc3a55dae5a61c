"""The host's model without what costs time and computes nothing: unfused optimizers, Python lists of predictions.

Apart from the training loop because it is about one step or one evaluation, never about their order. Beside it stand
the two opt-in ways of cheaper arithmetic, ``amp`` and ``torch_compile``.
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.layers import MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import nn
from tqdm import tqdm

from fuxictr_mm.errors import ConfigError

__all__ = ["EfficientModel"]

AMPS = ("none", "bf16")


class EfficientModel(BaseModel):
    """A host model with a fused optimizer, and evaluations that collect tensors.

    Args:
        amp: ``"bf16"`` computes matrix products in bfloat16 (``torch.autocast``); weights, sums and the last layer stay
            float32. It pays only where the device multiplies bfloat16 itself.
        torch_compile: compile the network behind the embeddings with ``torch.compile``; the first steps are slow.
        kwargs: the host's ``BaseModel`` arguments.

    Raises:
        ConfigError: ``amp`` has an unknown value.
    """

    def __init__(self, feature_map: Any, *, amp: str = "none", torch_compile: bool = False, **kwargs: Any) -> None:
        super().__init__(feature_map, **kwargs)
        if amp not in AMPS:
            raise ConfigError(f"amp={amp!r} must be one of {list(AMPS)}.")
        self.amp = amp
        self.torch_compile = torch_compile

    def compile(self, optimizer: str, loss: str, lr: float) -> None:
        """The host's; an optimizer that torch can fuse is: one pass over the weights instead of one per operation."""
        super().compile(optimizer, loss, lr)
        self.optimizer: torch.optim.Optimizer
        kind = type(self.optimizer)
        if "fused" in inspect.signature(kind).parameters:
            self.optimizer = kind(self.parameters(), lr=lr, fused=True)

    def clip_gradients(self, max_norm: float) -> None:
        """``nn.utils.clip_grad_norm_``, which multiplies short gradients by 1: on a CPU that pass is left out."""
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        if self.device.type == "cpu":  # elsewhere looking at the norm would wait for the device
            norms = [torch.linalg.vector_norm(parameter.grad) for parameter in parameters]
            if torch.linalg.vector_norm(torch.stack(norms)) + 1e-6 <= max_norm:
                return
        nn.utils.clip_grad_norm_(parameters, max_norm)

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
