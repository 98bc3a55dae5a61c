"""FuxiCTR's metrics, with group AUC from one sort of all rows.

FuxiCTR hands every group to a ``multiprocessing.Pool`` made for that one call, which forks a process full of torch
threads.
"""

from collections.abc import Sequence

import numpy as np
from fuxictr import metrics as host_metrics
from sklearn.metrics import log_loss

from fuxictr_mm.config.code import check_metric
from fuxictr_mm.errors import ConfigError

__all__ = ["evaluate_metrics", "group_auc"]


def group_auc(y_true: np.ndarray, y_pred: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each group that holds both labels, ties counted as half (DIN, arXiv 1706.06978, section 5.2).

    Args:
        y_true: (N,) labels, 0 or 1.
        y_pred: (N,) scores.
        group: (N,) group ids.

    Returns:
        ``(auc, rows)``, one entry per group with both labels, in ascending order of group id.
    """
    order = np.lexsort((y_pred, group))
    group, label, score = group[order], y_true[order] > 0.5, y_pred[order]
    is_first = np.r_[True, group[1:] != group[:-1]][: len(group)]
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.r_[starts, len(group)])
    # Average rank of equal scores: runs of (group, score) share the mean of their positions.
    run_start = np.flatnonzero(is_first | np.r_[True, score[1:] != score[:-1]][: len(group)])
    run_size = np.diff(np.r_[run_start, len(group)])
    rank = np.repeat(run_start + (run_size - 1) / 2, run_size) - np.repeat(starts, sizes) + 1
    positives = np.add.reduceat(label.astype(np.float64), starts)
    rank_sum = np.add.reduceat(np.where(label, rank, 0.0), starts)
    mixed = (positives > 0) & (positives < sizes)
    positives, rank_sum, rows = positives[mixed], rank_sum[mixed], sizes[mixed]
    auc = (rank_sum - positives * (positives + 1) / 2) / (positives * (rows - positives))
    return auc, rows


def evaluate_metrics(
    y_true: np.ndarray, y_pred: np.ndarray, metrics: Sequence[str], group_id: np.ndarray | None = None
) -> dict[str, float]:
    """The host's ``evaluate_metrics`` with the same names and values; gAUC and avgAUC in one process.

    A metric that a split cannot have is NaN and never a number that looks like a result: AUC of one class, group AUC
    without a group that holds both labels.

    Raises:
        ConfigError: an unknown metric, or a group metric without ``group_id``.
    """
    results: dict[str, float] = {}
    for metric in metrics:
        if metric in ("gAUC", "avgAUC"):
            if group_id is None:
                raise ConfigError(f"metric {metric} needs the dataset key 'group_id', e.g. group_id: user_id.")
            auc, rows = group_auc(y_true, y_pred, group_id)
            weights = rows if metric == "gAUC" else np.ones_like(rows)
            results[metric] = float(np.average(auc, weights=weights)) if len(auc) else float("nan")
        elif metric == "AUC" and y_true.min() == y_true.max():
            results[metric] = float("nan")
        elif metric in ("logloss", "binary_crossentropy"):
            results[metric] = float(log_loss(y_true, y_pred, labels=[0, 1]))
        else:
            check_metric("metrics", metric)  # FuxiCTR runs it as code
            results.update(host_metrics.evaluate_metrics(y_true, y_pred, [metric], group_id))
    return results
