"""How far a training has come, and the state file that a resume reads it from."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fuxictr_mm.config.experiment import data_digests, identity
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.training.checkpoint import read_file, write_file

__all__ = ["ANEW", "Progress", "read_state", "state_file", "training_identity", "write_state"]

FORMAT = "fuxictr_mm training state 4"
ANEW = "delete it to start anew"
# What a state holds beside the progress.
_LARGE = {"model": dict, "optimizer": dict, "gradients": dict, "rng": dict}


@dataclass
class Progress:
    """What the next step depends on, except weights, optimizer and random generators.

    A field that is added here is saved and restored; its values must be tensors or plain.

    Attributes:
        best_metric: best value of the monitored metric.
        epoch: number of the epoch, from 0.
        batch_index: number of the batch in its epoch, the last one begun; -1 before the first.
        total_steps: batches begun in all epochs.
        stopping_steps: evaluations in a row without a gain.
        stop_training: the early stop has come.
        evaluation_due: an evaluation was interrupted and has to be done again.
        loss_sum: of the batches since the last evaluation; stays on the model's device, so that no step waits for it.
        train_loss: mean loss per batch before the last evaluation.
        curve: one entry per evaluation, see :class:`~fuxictr_mm.training.loop.ResumableModel`.
        loader_epoch: the loader's own number of the epoch.
        rng_at_epoch: the random generators when the epoch began.
        seconds: wall-clock time of training up to the last save.
    """

    best_metric: float = -math.inf
    epoch: int = 0
    batch_index: int = -1
    total_steps: int = 0
    stopping_steps: int = 0
    stop_training: bool = False
    evaluation_due: bool = False
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    train_loss: float = math.nan
    curve: list[dict[str, Any]] = field(default_factory=list)
    loader_epoch: int = 0
    rng_at_epoch: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def batches_done(self) -> int:
        """Batches of this epoch, between two steps."""
        return self.batch_index + 1

    def restored(self, state: Mapping[str, Any]) -> "Progress":
        """Return the progress of a saved state; that of an ended training holds ``curve`` and ``seconds`` only."""
        return replace(self, **{name: state[name] for name in vars(self) if name in state})


def state_file(checkpoint: str | Path) -> Path:
    """Where the training state of the run with this checkpoint lies."""
    return Path(checkpoint).with_suffix(".state")


def training_identity(
    params: Mapping[str, Any], feature_map: Any, training_data: Any, validation_data: Any
) -> dict[str, str]:
    """Return, as text, what a training must have in common with the one that it resumes.

    Args:
        params: of the experiment; those that only say where and how it runs are left out. Of the files that they name
            the bytes count, and of the training split the rows.
        feature_map: the host's; its columns name the item table.
        training_data, validation_data: loaders; their ``fingerprint`` if they have one, otherwise their length.
    """
    features = json.dumps(feature_map.features, sort_keys=True, default=str)
    files = data_digests({**params, "train_data": None})
    return {
        **identity(params),
        **{f"digest of {name}": str(digest) for name, digest in files.items()},
        "digest of features": hashlib.blake2b(features.encode(), digest_size=8).hexdigest(),
        "training data": _rows_of(training_data),
        "validation data": _rows_of(validation_data),
    }


def _rows_of(loader: Any) -> str:
    return str(getattr(loader, "fingerprint", len(loader)))


def write_state(path: Path, own: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Save a state atomically.

    Args:
        path: of the state file.
        own: from :func:`training_identity`; :func:`read_state` compares it.
        content: tensors and plain values.
    """
    write_file({"format": FORMAT, "identity": dict(own), **content}, path)


def read_state(path: Path, own: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the saved state, or ``None`` where there is none.

    Raises:
        ConfigError: the state belongs to a training that differs in ``own``.
        DataError: the file is damaged, or no state of this version.
    """
    if not path.exists():
        logging.info(f"No training state in {path}: training starts from the beginning.")
        return None
    state = read_file(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("identity"), dict):
        raise DataError(f"{path}: no training state of this package ({FORMAT!r}); {ANEW}.")
    for key in {**state["identity"], **own}:
        before, now = state["identity"].get(key), own.get(key)
        if before != now:
            raise ConfigError(
                f"{path}: that training began with {key} = {before}, now it is {now}; restore {key}, or delete that "
                "file to start anew."
            )
    needed = ("curve", "seconds") if "finished" in state else (*vars(Progress()), *_LARGE)
    for name in needed:
        if name not in state:
            raise DataError(f"{path}: a training state without {name!r}; {ANEW}.")
        kind = _LARGE.get(name) or type(getattr(Progress(), name))
        found = state[name]
        if not isinstance(found, kind) and not (kind is float and isinstance(found, int)):
            raise DataError(f"{path}: {name} is a {type(found).__name__} where a {kind.__name__} belongs; {ANEW}.")
    return state
