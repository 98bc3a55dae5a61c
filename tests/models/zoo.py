"""Every registered model in small variants: the default, one per switch, and what annotations cannot say.

Switches are read from the constructors' annotations, so a new model, or a new switch of one, has its variants here
without a line in this file.
"""

import inspect
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import torch

from fuxictr_mm.config.keys import Activations, Share, Widths, annotations_of
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import MultimodalRankModel
from fuxictr_mm.models.registry import registered_models
from tests.synthetic import MODEL_KWARGS, tiny_feature_map

# A switch that means nothing, or is refused, without another.
NEEDS: dict[str, dict[str, Any]] = {
    "similarity_bias": {"similarity": ["item_emb"]},
    "din_use_softmax": {"attention": "din"},
}
# Numbers, and values together.
COMBINATIONS: dict[str, list[dict[str, Any]]] = {
    "Transformer_DCNv2": [
        {"first_k_cols": 0},
        {"first_k_cols": 2},
        {"num_heads": 2},
        {"cross": "low_rank", "cross_rank": 3},
    ],
    "DIN_SE_MHTA": [
        {"num_heads": 1},
        {"interest_product": True, "use_se": False},
        {"attention": "din", "attention_hidden_activations": "Dice"},
    ],
}


def constructors(model_class: type[MultimodalRankModel]) -> list[Any]:
    """The constructors from the base of our models down to this one."""
    ours = [kind for kind in model_class.__mro__ if issubclass(kind, MultimodalRankModel)]
    return [vars(kind)["__init__"] for kind in reversed(ours) if "__init__" in vars(kind)]


def annotations(model_class: type[MultimodalRankModel]) -> dict[str, Any]:
    return {name: hint for function in constructors(model_class) for name, hint in annotations_of(function).items()}


def defaults(model_class: type[MultimodalRankModel]) -> dict[str, Any]:
    signatures = [inspect.signature(function).parameters for function in constructors(model_class)]
    return {name: parameter.default for signature in signatures for name, parameter in signature.items()}


def small(model_class: type[MultimodalRankModel], *, dropout: bool = True) -> dict[str, Any]:
    """Arguments that make the layers of a model narrow; without ``dropout`` all shares are 0."""
    found: dict[str, Any] = {}
    before = defaults(model_class)
    for name, hint in annotations(model_class).items():
        if hint == Widths:
            found[name] = [8, 6]
        elif hint == Activations:
            # In layers this narrow a ReLU may die, and then an answer that ought to change does not.
            found[name] = "Tanh"
        elif hint == Share and before[name] and not dropout:
            found[name] = 0.0
    return found


def choices(hint: Any) -> list[Any]:
    """The values of a switch, [] for anything else."""
    if hint is bool:
        return [True, False]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    members = get_args(hint) if NoneType in get_args(hint) else ()
    return [value for member in members for value in choices(member)]


def variants_of(name: str, model_class: type[MultimodalRankModel]) -> dict[str, dict[str, Any]]:
    """Name of a variant -> the switches that differ from the defaults."""
    before = defaults(model_class)
    changes = [
        {**NEEDS.get(key, {}), key: value}
        for key, hint in annotations(model_class).items()
        for value in choices(hint)
        if value != before[key]
    ]
    changes += COMBINATIONS.get(name, [])
    return {" ".join([name, *(f"{key}={change[key]}" for key in change)]): change for change in [{}, *changes]}


def refuses_bias(model_class: type[MultimodalRankModel], switches: dict[str, Any]) -> bool:
    """Whether a model without logits of attention says so; every other switch has to work."""
    if "similarity_bias" not in switches:
        return False
    try:
        model_class(tiny_feature_map(), model_root="unused", **{**MODEL_KWARGS, **small(model_class), **switches})
    except ConfigError:
        return True
    return False


MODELS = registered_models()
VARIANTS: dict[str, tuple[type[MultimodalRankModel], dict[str, Any]]] = {
    variant: (model_class, switches)
    for name, model_class in MODELS.items()
    for variant, switches in variants_of(name, model_class).items()
    if not refuses_bias(model_class, switches)
}
BIASED = [variant for variant, (_, switches) in VARIANTS.items() if "similarity_bias" in switches]


def build(variant: str, folder: Path, **changes: Any) -> MultimodalRankModel:
    """A small variant in eval mode whose weights look trained.

    Args:
        variant: one of :data:`VARIANTS`.
        folder: where the model would write.
        changes: further arguments; ``feature_map`` replaces the tiny one.
    """
    torch.manual_seed(3)
    model_class, switches = VARIANTS[variant]
    feature_map = changes.pop("feature_map", None) or tiny_feature_map(folder)
    arguments = {**MODEL_KWARGS, **small(model_class), **switches, **changes}
    model = model_class(feature_map, model_root=str(folder), **arguments)
    # At the host's initial scale of 1e-4 an answer hardly depends on any id.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding_layers" in name:
                parameter.normal_(std=0.5)
                parameter[0] = 0
    return model.eval()


def scores(model: MultimodalRankModel, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs)["y_pred"]
