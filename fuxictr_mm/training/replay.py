"""Resuming inside an epoch: whether a state fits, the global random generators, and the batches that are left."""

import copy
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxictr_mm.errors import DataError
from fuxictr_mm.training.checkpoint import check_weights
from fuxictr_mm.training.progress import ANEW, Progress

__all__ = ["check_state", "remaining_batches", "rng_state", "set_rng_state"]


def check_state(state: Mapping[str, Any], model: Any, path: Path) -> None:
    """Check that a state fits a model: torch would read beyond the end of an optimizer's tensor that is too short.

    Args:
        state: from ``read_state``, of a training that has not ended.
        model: with its ``optimizer``.
        path: of the state file.

    Raises:
        DataError: a weight, the optimizer's groups, a moment, a gradient or a random generator does not fit.
    """
    check_weights(state["model"], model, path)
    before = rng_state()
    try:
        _check_optimizer(state["optimizer"], model.optimizer)
        named = dict(model.named_parameters())
        for name, gradient in state["gradients"].items():
            _check_like(gradient, named[name], f"the gradient of {name}")
        for generators in (state["rng"], state["rng_at_epoch"]):
            set_rng_state(generators)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as err:
        reason = str(err).partition("\n")[0] if isinstance(err, ValueError) else f"{type(err).__name__}: {err}"
        raise DataError(f"{path}: does not fit this training ({reason}); {ANEW}.") from err
    finally:
        set_rng_state(before)


def _check_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    own = optimizer.state_dict()["param_groups"]
    if [_described(group) for group in saved["param_groups"]] != [_described(group) for group in own]:
        raise ValueError("its optimizer has other groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, found in saved["state"].items():
        expected = _first_state(optimizer, parameters[number])
        if set(found) != set(expected):
            raise ValueError(f"parameter {number} of its optimizer has {sorted(found)}, expected {sorted(expected)}")
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                _check_like(found[name], value, f"{name} of parameter {number} of its optimizer")


def _described(group: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers may change from step to step, as a rate does; what they are may not."""
    return {name: len(value) if name == "params" else type(value).__name__ for name, value in group.items()}


def _first_state(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    """What an optimizer like this one remembers of such a parameter after a step."""
    alone = copy.copy(optimizer)
    zeros = torch.zeros_like(parameter, requires_grad=True)
    zeros.grad = torch.zeros_like(parameter)
    alone.state = defaultdict(dict)
    alone.param_groups = [{**optimizer.param_groups[0], "params": [zeros]}]
    alone.step()
    return dict(alone.state[zeros])


def _check_like(found: Any, expected: torch.Tensor, what: str) -> None:
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(f"{what} is {shape}, expected {tuple(expected.shape)}")
    if found.is_floating_point() != expected.is_floating_point() or not torch.isfinite(found).all():
        raise ValueError(f"{what} is {found.dtype} or not finite")


def rng_state() -> dict[str, Any]:
    """Return the global generators of torch, Python and numpy, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`rng_state` returned; on another number of GPUs, theirs stay as they are."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


def remaining_batches(loader: Any, progress: Progress) -> Iterator[Any]:
    """Yield the batches of an epoch that are left.

    Args:
        loader: has ``iterate(start)`` and ``epoch``; or its order follows from the global generators.
        progress: names the epoch and how many of its batches are done.
    """
    if hasattr(loader, "iterate"):
        loader.epoch = progress.loader_epoch
        yield from loader.iterate(progress.batches_done)
        return
    now = rng_state()
    set_rng_state(progress.rng_at_epoch)
    batches = iter(loader)
    for _ in range(progress.batches_done):
        next(batches)
    set_rng_state(now)
    yield from batches
