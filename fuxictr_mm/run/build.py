"""Building a model from its parameters, so that values which do not fit together end in a sentence."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.memory import available_memory
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.training.replay import rng_state, set_rng_state

__all__ = ["build_model"]

COPIES = 4  # of the weights while Adam trains on a CPU: themselves, their gradients and two moments


def build_model(experiment: Experiment, feature_map: Any, batch: Any = None) -> Any:
    """Build the model of an experiment.

    Types and bounds of single values have been checked by then. What is left are values that do not fit together, such
    as heads that do not divide a width, and sizes that memory does not hold: FuxiCTR's layers find them when they are
    built or when they first see a batch.

    Args:
        feature_map: the host's.
        batch: scored once where it is given, without a trace: random generators and weights are as before.

    Raises:
        ConfigError: the model cannot be built, or cannot score the batch; names the key that is to blame if one is.
    """
    model_class, params = experiment.model_class, experiment.params
    model, failure = _attempt(model_class, feature_map, params, batch)
    if failure is None:
        return model
    name = model_class.__name__
    why = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    for key, default in _defaults(model_class).items():
        if key in params and params[key] != default:
            _, without = _attempt(model_class, feature_map, {**params, key: default}, batch)
            if without is None:
                raise ConfigError(
                    f"key {key!r} of experiment {experiment.expid}: {name} cannot take {params[key]!r:.200} ({why}); "
                    f"its default {default!r} works."
                ) from failure
    raise ConfigError(
        f"experiment {experiment.expid}: {name} cannot be built from these values ({why}); check its widths, "
        "and the feature_encoder of its columns."
    ) from failure


def _attempt(
    model_class: type, feature_map: Any, params: Mapping[str, Any], batch: Any
) -> tuple[Any, Exception | None]:
    before = rng_state()
    trains_here = batch is not None and params.get("gpu", -1) < 0
    try:
        with _within_memory(COPIES if trains_here else 1):
            model: Any = model_class(feature_map, **params)
        if batch is not None:
            after = rng_state()
            _try_out(model, batch)
            set_rng_state(after)
    except (ConfigError, DataError):
        raise
    except Exception as err:  # whatever FuxiCTR's layers make of such values
        set_rng_state(before)
        return None, err
    return model, None


def _try_out(model: Any, batch: Any) -> None:
    """Score a batch, and with a model of FuxiCTR's once more as in training, where some take other ways."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        if not torch.isfinite(model.eval().forward(batch)["y_pred"]).all():
            raise ArithmeticError("its first scores are no finite numbers")
        model.train()
        rows = len(next(iter(batch[0].values())))  # of one, batch norm has no statistics
        if rows > 1 and not isinstance(model, MultimodalRankModel):
            model.forward(batch)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def _within_memory(copies: int) -> Iterator[None]:
    """Stop a model that memory does not hold before its weights are written to, when the system would kill us."""
    limit, found = available_memory(), 0

    def count(_: torch.nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal found
        found += 0 if parameter is None else copies * parameter.numel() * parameter.element_size()
        if found > limit:
            raise MemoryError(f"its weights need more than the {limit / 1e9:.1f} GB of memory that are free")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _defaults(model_class: type) -> dict[str, Any]:
    """Parameter -> default of the model's own constructors, the nearest class first."""
    found: dict[str, Any] = {}
    for owner in model_class.__mro__:
        if owner.__module__.startswith(("torch.", "builtins")):
            break
        if "__init__" in vars(owner):
            for name, parameter in inspect.signature(vars(owner)["__init__"]).parameters.items():
                if parameter.default is not parameter.empty:
                    found.setdefault(name, parameter.default)
    return found
