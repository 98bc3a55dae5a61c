"""The metrics of a split: over all rows, and for cold, rare and warm target items separately."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = ["FREQUENCIES", "Evaluation", "clicks_per_item", "evaluate_split"]

# Clicks of the target item in training: from, below.
FREQUENCIES = {"cold": (0, 1), "rare": (1, 5), "warm": (5, math.inf)}


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


def _auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, equation 2)."""
    if not positives or not negatives:
        return math.nan
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))
