"""Metrics against the host and against loops."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.training.metrics import evaluate_metrics, group_auc


@pytest.mark.parametrize("levels", [3, 10_000])
def test_group_auc_against_a_loop(levels: int) -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 40, 500) * 7 - 3
    label = (rng.random(500) < 0.3).astype(float)
    score = rng.integers(0, levels, 500) / levels  # few levels: many ties
    auc, rows = group_auc(label, score, group)
    expected = [
        (roc_auc_score(label[group == g], score[group == g]), (group == g).sum())
        for g in np.unique(group)
        if len(set(label[group == g])) == 2
    ]
    np.testing.assert_allclose(auc, [a for a, _ in expected])
    assert rows.tolist() == [n for _, n in expected]
    results = evaluate_metrics(label, score, ["AUC", "gAUC", "avgAUC", "logloss"], group)
    assert list(results) == ["AUC", "gAUC", "avgAUC", "logloss"]
    assert results["gAUC"] == pytest.approx(sum(a * n for a, n in expected) / sum(n for _, n in expected))
    assert results["avgAUC"] == pytest.approx(np.mean([a for a, _ in expected]))


def test_values_are_the_hosts() -> None:
    from fuxictr.metrics import evaluate_metrics as host

    rng = np.random.default_rng(1)
    label, score, group = (rng.random(60) < 0.4).astype(float), rng.random(60), rng.integers(0, 6, 60)
    names = ["AUC", "logloss", "gAUC", "avgAUC"]
    ours, theirs = evaluate_metrics(label, score, names, group), host(label, score, names, group)
    assert list(ours) == list(theirs)
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12)


def test_one_class_has_no_auc() -> None:
    results = evaluate_metrics(np.ones(3), np.array([0.2, 0.5, 0.9]), ["AUC", "gAUC", "logloss"], np.array([1, 1, 2]))
    assert math.isnan(results["AUC"]) and math.isnan(results["gAUC"])
    assert results["logloss"] == pytest.approx(-np.log([0.2, 0.5, 0.9]).mean())


def test_one_row() -> None:
    auc, rows = group_auc(np.ones(1), np.ones(1), np.zeros(1))
    assert len(auc) == len(rows) == 0


def test_group_metric_without_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric gAUC needs the dataset key 'group_id'"):
        evaluate_metrics(np.array([0.0, 1]), np.array([0.1, 0.2]), ["gAUC"])


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="metrics: 'accuracy' is not known"):
        evaluate_metrics(np.array([0.0, 1]), np.array([0.1, 0.2]), ["accuracy"])
