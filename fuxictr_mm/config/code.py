"""The little that FuxiCTR evaluates: text of a YAML or a shared feature map that becomes code, and what of it may.

FuxiCTR hands ``feature_encoder``, metrics such as ``NDCG(5)`` and initializers to ``eval``. Here they are parsed, and
only calls of known names with literals pass.
"""

import ast
from collections.abc import Mapping
from typing import Any

from fuxictr_mm.config.keys import FileName, check_value, nearest
from fuxictr_mm.errors import ConfigError

__all__ = ["GROUP_METRICS", "PLAIN_METRICS", "check_encoder", "check_feature_map", "check_initializer", "check_metric"]

PLAIN_METRICS = ("AUC", "logloss", "binary_crossentropy")
GROUP_METRICS = ("gAUC", "avgAUC", "MRR", "NDCG")

# Modules that make something of the embedding of one column and read no files.
ENCODERS = {
    *(
        f"layers.{name}"
        for name in (
            "MaskedAveragePooling", "MaskedSumPooling", "KMaxPooling", "MLP_Block", "SqueezeExcitation", "CrossNet",
            "CrossNetV2", "CrossNetMix", "Dice", "GELU", "LogisticRegression", "FactorizationMachine",
            "GatedAlignment", "MLPAlignment", "FieldExcitation",
        )
    ),
    *(
        f"nn.{name}"
        for name in (
            "Identity", "Linear", "LayerNorm", "BatchNorm1d", "Dropout", "Flatten", "ReLU", "LeakyReLU", "ELU", "GELU",
            "SiLU", "Tanh", "Sigmoid", "Softplus",
        )
    ),
}  # fmt: skip
INITIALIZERS = {
    f"{place}nn.init.{name}_"
    for place in ("", "torch.")
    for name in (
        "normal", "uniform", "constant", "zeros", "ones", "trunc_normal", "xavier_normal", "xavier_uniform",
        "kaiming_normal", "kaiming_uniform", "orthogonal",
    )
}  # fmt: skip


def check_encoder(where: str, encoder: Any) -> None:
    """Refuse a ``feature_encoder`` that is not one call, or a list of calls, of known modules with literals.

    Args:
        where: what the sentence begins with, e.g. ``"column 'item_tags': feature_encoder"``.

    Raises:
        ConfigError: names what was found.
    """
    for text in encoder if isinstance(encoder, list) else [encoder]:
        name, _ = _call(text)
        if name not in ENCODERS:
            raise ConfigError(
                f"{where}: found {text!r:.200}; FuxiCTR would run it as code, so only layers with plain values pass, "
                f"e.g. layers.MaskedAveragePooling() or nn.Identity(); {nearest(name or text, ENCODERS)}."
            )


def check_initializer(where: str, initializer: Any) -> None:
    """Refuse an initializer that is not torch's, by its name or as ``partial(name, std=1e-4)``.

    Raises:
        ConfigError: names what was found.
    """
    if isinstance(initializer, str):
        name, first = _call(initializer)
        if not (initializer in INITIALIZERS or (name == "partial" and first in INITIALIZERS)):
            raise ConfigError(
                f"{where}: found {initializer!r:.200}; FuxiCTR would run it as code, so only those of torch pass, "
                "e.g. partial(nn.init.normal_, std=1e-4)."
            )


def check_metric(where: str, metric: str) -> None:
    """Refuse a metric that FuxiCTR cannot compute.

    Raises:
        ConfigError: an unknown name, or ``NDCG`` without the positive whole number that it needs.
    """
    if metric in PLAIN_METRICS or (metric in GROUP_METRICS and metric != "NDCG"):
        return
    base, k = metric.split("(")[0].strip(), _ndcg(metric)
    if base == "NDCG" and k is None:
        raise ConfigError(f"{where}: found {metric!r:.200}; NDCG needs the number of places to look at, e.g. NDCG(5).")
    if base in (*PLAIN_METRICS, *GROUP_METRICS) and base != "NDCG":
        raise ConfigError(f"{where}: found {metric!r:.200}; {base} stands without anything behind it: write {base}.")
    if base != "NDCG":
        known = (*PLAIN_METRICS, *GROUP_METRICS[:-1], "NDCG(5)")
        raise ConfigError(f"{where}: {metric!r:.200} is not known; {nearest(metric, known)}.")


def check_feature_map(features: Mapping[str, Any], where: str) -> None:
    """Refuse a feature map that would run code, or read files from anywhere but its own folder.

    Args:
        features: column -> specification, as ``feature_map.json`` holds them.
        where: the file, or what else the sentence begins with.

    Raises:
        ConfigError: names the column.
    """
    for name, spec in features.items():
        at = f"{where}: column {name!r}"
        if not isinstance(spec, Mapping):
            raise ConfigError(f"{at}: found {spec!r:.200}; a mapping is expected; train the experiment again.")
        if spec.get("feature_encoder"):
            check_encoder(f"{at}: feature_encoder", spec["feature_encoder"])
        if "pretrained_emb" in spec:
            raise ConfigError(
                f"{at}: 'pretrained_emb' reads files that nothing here writes; train the experiment again."
            )
        for key in ("item_ids", "item_column"):
            if key in spec:
                check_value(f"{at}: {key}", FileName, spec[key])


def _call(text: Any) -> tuple[str, str]:
    """``name(first, ...)`` -> its dotted name, and that of its first argument; empty where it is no such call."""
    try:
        call = ast.parse(text, mode="eval").body if isinstance(text, str) and len(text) < 1000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
        return "", ""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    first = ast.unparse(call.args[0]) if call.args else ""
    name = ast.unparse(call.func)
    if name == "partial" and first in INITIALIZERS:  # the one argument that is a name
        arguments = arguments[1:]
    if not all(_is_plain(argument) for argument in arguments):
        return "", ""
    return name, first


def _is_plain(node: ast.expr) -> bool:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    parts = list(value) if isinstance(value, list | tuple) else [value]
    return all(
        isinstance(part, str | bool | None) or (isinstance(part, int | float) and abs(part) <= 1e6) for part in parts
    )


def _ndcg(metric: str) -> int | None:
    name, first = _call(metric)
    return int(first) if name == "NDCG" and metric == f"NDCG({first})" and first.isdecimal() and int(first) else None
