"""The metrics of a split: over all rows, and for cold, rare and warm target items separately."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import entr

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = ["FREQUENCIES", "Evaluation", "evaluate_split", "unknown_targets"]

AT_ONCE = 8192  # targets whose vectors are held together
# Users who clicked the target in training: from, below.
FREQUENCIES = {"cold": (0, 1), "rare": (1, 5), "warm": (5, math.inf)}


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_split` found.

    Attributes:
        overall: metric -> value over all rows.
        by_frequency: ``"cold"``, ``"rare"``, ``"warm"`` -> the same over the rows whose target has been clicked by
            0, 1 to 4, or 5 and more users in training, with ``items`` and ``rows``, how many distinct targets and rows
            that are. A group without rows is left out; a metric that it cannot have, as AUC where all labels are equal,
            is ``None``.
        auc_error: standard error of the AUC over all rows, as if rows were independent.
        constant_logloss: what the best constant score has, the share of label 1.
    """

    overall: dict[str, float]
    by_frequency: dict[str, dict[str, float | None]]
    auc_error: float
    constant_logloss: float


def evaluate_split(model: Any, loader: MMCTRDataLoader, metrics: list[str], clicks: np.ndarray) -> Evaluation:
    """Score a split once.

    Args:
        model: with the host's ``predict``.
        loader: a split with labels that is not shuffled.
        metrics: names.
        clicks: (n_items + 1,) users per item, of ``TrainingSplit.users_per_item``.
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
    error = _auc_error(overall.get("AUC", math.nan), positives, len(labels) - positives)
    share = positives / len(labels)
    return Evaluation(overall, by_frequency, error, float(entr(share) + entr(1 - share)))


def unknown_targets(
    model: Any, loader: MMCTRDataLoader, training: bool = False
) -> dict[str, dict[str, int | float | None]]:
    """How much it tells of the label that a target has no vector to be compared by.

    Args:
        model: one of ours.
        loader: a split with labels.
        training: look for vectors where training does, which is by fewer clicks.

    Returns:
        compared modality -> ``rows`` whose target has no vector, ``label_share``, that of label 1 among them, and
        ``known_label_share``, that among all others; a share of no rows is ``None``. Empty where nothing is compared.
    """
    vectors, schema = model.vectors, loader.schema
    if not vectors.count:
        return {}
    names = [schema.label_col, *([] if schema.group_id is None else [schema.group_id])]
    counts = np.zeros((2, 2, vectors.count), np.int64)  # unknown or known, label 0 or 1
    table = loader.columns.on(torch.device("cpu"))
    for targets, *columns in loader.in_file_order(*names):
        for start in range(0, len(targets), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            context = {name: torch.from_numpy(values[part]) for name, values in zip(names, columns)}
            ids = torch.from_numpy(targets[part]).unsqueeze(1)
            batch = MultimodalBatch.from_ids(context, ids, torch.zeros(len(ids), 0, dtype=torch.bool), table)
            known = vectors.known_targets(batch, training).numpy()
            for label in (0, 1):
                rows = known[columns[0][part] == label]
                counts[:, label] += np.stack([(~rows).sum(axis=0), rows.sum(axis=0)])
    unknown, known_rows = counts.sum(axis=1)
    return {
        name: {
            "rows": int(unknown[m]),
            "label_share": float(counts[0, 1, m] / unknown[m]) if unknown[m] else None,
            "known_label_share": float(counts[1, 1, m] / known_rows[m]) if known_rows[m] else None,
        }
        for m, name in enumerate(vectors.names)
    }


def _auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, equation 2)."""
    if not positives or not negatives:
        return math.nan
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))
