"""Resuming inside an epoch: the global random generators that a step may draw from, and the batches that are left."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fuxictr_mm.training.progress import Progress

__all__ = ["remaining_batches", "rng_state", "set_rng_state"]


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
