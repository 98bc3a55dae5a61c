"""The metrics of a split: over all rows, and apart for items that training has seen often, seldom or never clicked.

Apart from the metrics, which are formulas over arrays, and from the runner, which decides what is evaluated when.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.history_attention import attention_summary, uniform_attention_warning
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = [
    "FREQUENCIES",
    "Evaluation",
    "attention_warning",
    "clicks_per_item",
    "cold_warning",
    "evaluate_split",
    "gap_warning",
    "norm_warning",
    "warnings_of",
]

# Clicks of the target item in training: from, below.
FREQUENCIES = {"cold": (0, 1), "rare": (1, 5), "warm": (5, math.inf)}
# A difference of two AUCs is pointed out from this size on, and only if it is so many standard errors.
GAP, GAP_ERRORS = 0.01, 4
# Share of the strongest item field's norm below which a field of vectors counts for nothing.
COLLAPSED = 0.01
# Batches whose attention is looked at after a training.
LOOKED_AT = 4


def clicks_per_item(train: MMCTRDataLoader) -> np.ndarray:
    """Return (n_items + 1,) int: how many rows with label 1 each item has as target; index 0 is padding."""
    counts = np.zeros(train.n_items + 1, np.int64)
    for targets, labels in train.in_file_order(train.schema.label_col):
        counts += np.bincount(targets[labels == 1], minlength=len(counts))
    return counts


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_split` found.

    Attributes:
        overall: metric -> value over all rows.
        by_frequency: ``"cold"``, ``"rare"``, ``"warm"`` -> the same over the rows whose target has 0, 1 to 4, or 5 and
            more clicks in training, with ``items`` and ``rows``, how many distinct targets and rows that are. A group
            without rows is left out; a metric that it cannot have, as AUC where all labels are equal, is ``None``.
        auc_error: standard error of the AUC over all rows, as if rows were independent.
    """

    overall: dict[str, float]
    by_frequency: dict[str, dict[str, float | None]]
    auc_error: float


def evaluate_split(model: Any, loader: MMCTRDataLoader, metrics: list[str], clicks: np.ndarray) -> Evaluation:
    """Score a split once.

    Args:
        model: with the host's ``predict``.
        loader: a split with labels that is not shuffled.
        metrics: names.
        clicks: of :func:`clicks_per_item`.
    """
    schema = loader.schema
    grouped = [] if schema.group_id is None else [schema.group_id]
    parts = list(zip(*loader.in_file_order(schema.label_col, *grouped)))
    targets, labels, *groups = (np.concatenate(part) for part in parts)
    scores = model.predict(loader)

    def of(rows: Any) -> dict[str, float]:
        group = groups[0][rows] if groups else None
        return dict(evaluate_metrics(labels[rows].astype(np.float64), scores[rows], metrics, group))

    overall = of(slice(None))
    logging.info("[Metrics] " + " - ".join(f"{name}: {value:.6f}" for name, value in overall.items()))
    by_frequency: dict[str, dict[str, float | None]] = {}
    for name, (low, below) in FREQUENCIES.items():
        rows = np.flatnonzero((clicks[targets] >= low) & (clicks[targets] < below))
        if len(rows):
            found = {metric: None if math.isnan(value) else value for metric, value in of(rows).items()}
            by_frequency[name] = {"items": len(np.unique(targets[rows])), "rows": len(rows), **found}
    positives = int((labels == 1).sum())
    return Evaluation(
        overall, by_frequency, _auc_error(overall.get("AUC", math.nan), positives, len(labels) - positives)
    )


def warnings_of(model: Any, valid: MMCTRDataLoader, evaluated: Mapping[str, Evaluation]) -> list[str]:
    """What a careful person would look at in a result, one sentence each.

    Args:
        model: as it was evaluated.
        valid: the loader of the valid split.
        evaluated: split -> what was found there; ``"valid"``, and ``"test"`` where it has labels.
    """
    found = [cold_warning(model, evaluated), norm_warning(model, valid), attention_warning(model, valid)]
    if "test" in evaluated:
        found.append(gap_warning(evaluated["valid"], evaluated["test"]))
    return [sentence for sentence in found if sentence]


def gap_warning(valid: Evaluation, test: Evaluation) -> str | None:
    """One sentence if the AUCs of valid and test differ by more than chance explains, else ``None``."""
    before, after = valid.overall.get("AUC", math.nan), test.overall.get("AUC", math.nan)
    gap, error = after - before, math.hypot(valid.auc_error, test.auc_error)
    if not abs(gap) >= max(GAP, GAP_ERRORS * error):  # so that NaN warns of nothing
        return None
    return (
        f"test AUC {after:.4f} is {abs(gap):.4f} {'above' if gap > 0 else 'below'} valid AUC {before:.4f}, "
        f"{abs(gap) / error:.0f} standard errors: the splits differ, or too much was chosen by valid; compare "
        "the splits with inspect_data.py."
    )


def cold_warning(model: Any, evaluated: Mapping[str, Evaluation]) -> str | None:
    """One sentence if a model that compares own clicks scores cold items without training for them, else ``None``.

    Args:
        model: a model of ours; of any other, nothing is said.
        evaluated: split -> what was found there.
    """
    if not isinstance(model, MultimodalRankModel) or not model.vectors.own_clicks or model.embedding_layer.id_dropout:
        return None
    rows = {split: one.by_frequency["cold"]["rows"] for split, one in evaluated.items() if "cold" in one.by_frequency}
    if not rows:
        return None
    found = " and ".join(f"{count:,} rows of {split}" for split, count in rows.items())
    return (
        f"similarity compares own clicks ({', '.join(model.vectors.own_clicks)}), and {found} ask for items that "
        "nobody clicked in training: set id_dropout: 0.1, which trains for such items, or leave own clicks out."
    )


def norm_warning(model: Any, loader: MMCTRDataLoader) -> str | None:
    """One sentence if the network hardly sees a field of vectors any more, else ``None``; models of ours only."""
    if not isinstance(model, MultimodalRankModel):
        return None
    norms = model.embedding_layer.field_norms(next(iter(loader)).to(model.device))
    strongest = max(norms, key=norms.__getitem__)
    for name, norm in norms.items():
        if model.feature_map.features[name]["type"] == "embedding" and norm < COLLAPSED * norms[strongest]:
            return (
                f"the vectors of {name} have collapsed: norm {norm:.2g} beside {norms[strongest]:.2g} of {strongest}; "
                "the model does without them."
            )
    return None


def attention_warning(model: Any, loader: MMCTRDataLoader) -> str | None:
    """One sentence if the model weighs all items of a history alike, else ``None``; also where it has no attention."""
    try:
        summary = attention_summary(model, islice(loader, LOOKED_AT))
    except ConfigError:  # there is no attention to look at
        return None
    return uniform_attention_warning(summary)


def _auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, equation 2)."""
    if not positives or not negatives:
        return math.nan
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))
