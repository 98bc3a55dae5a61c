"""What a careful person would look at in a result, one sentence each."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.history_attention import attention_summary, uniform_attention_warning
from fuxictr_mm.run.evaluation import Evaluation

__all__ = [
    "attention_warning", "cold_warning", "column_warnings", "gap_warning", "logloss_warning", "norm_warning",
    "unknown_warning", "warnings_of",
]  # fmt: skip

# A difference of two AUCs, and one of two shares, is pointed out from this size on, and only if it is so many standard
# errors.
GAP, SHARE_GAP, GAP_ERRORS = 0.01, 0.1, 4
# Share of the strongest item field's norm below which a field of vectors counts for nothing.
COLLAPSED = 0.01
# Mean or standard deviation in training beyond which numbers should be scaled.
UNSCALED = 100
# Batches whose attention is looked at after a training.
LOOKED_AT = 4


def warnings_of(
    model: Any,
    valid: MMCTRDataLoader,
    evaluated: Mapping[str, Evaluation],
    unknown: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[str]:
    """What a careful person would look at in a result, one sentence each.

    Args:
        model: as it was evaluated.
        valid: the loader of the valid split.
        evaluated: split -> what was found there; ``"valid"``, and ``"test"`` where it has labels.
        unknown: split -> what :func:`~fuxictr_mm.run.evaluation.unknown_targets` found there, in train, too.
    """
    found = [
        logloss_warning(evaluated),
        cold_warning(model, evaluated),
        unknown_warning(unknown),
        norm_warning(model, valid),
        attention_warning(model, valid),
    ]
    if "test" in evaluated:
        found.append(gap_warning(evaluated["valid"], evaluated["test"]))
    return [sentence for sentence in (*found, *column_warnings(model.feature_map)) if sentence]


def column_warnings(feature_map: Any) -> list[str]:
    """A sentence for each numeric column that nothing scales and that is far from 0, and for vectors of zeros."""
    found = []
    for name, spec in feature_map.features.items():
        mean, deviation = (spec.get(key, 0.0) for key in ("train_mean", "train_std"))
        if "scaling" not in spec and max(abs(mean), deviation) > UNSCALED:
            found.append(
                f"column {name!r}: numbers with mean {mean:.4g} and standard deviation {deviation:.4g} go in as they "
                "are, which hides all else from the network; set normalizer: StandardScaler in its column."
            )
        for modality, count in spec.get("zero_vectors", {}).items():
            found.append(
                f"column {name!r}: {count:,} vectors of {modality} are all zero and taken as real; if zero means that "
                "the vector is missing, set zero_vectors: missing in its column."
            )
    return found


def logloss_warning(evaluated: Mapping[str, Evaluation]) -> str | None:
    """One sentence if the scores are worse probabilities than a constant would be, else ``None``."""
    for split, found in evaluated.items():
        logloss = found.overall.get("logloss", math.nan)
        if logloss > found.constant_logloss:
            return (
                f"{split} logloss {logloss:.4f} is worse than {found.constant_logloss:.4f}, that of a constant score: "
                "the scores may rank, but they are no probabilities; train longer, or with another learning_rate, or "
                "calibrate them on valid."
            )
    return None


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


def unknown_warning(unknown: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str | None:
    """One sentence if a missing vector of the target tells something else of the label than in training.

    Args:
        unknown: split, ``"train"`` among them -> what :func:`~fuxictr_mm.run.evaluation.unknown_targets` found.
    """
    for name, train in unknown.get("train", {}).items():
        for split, found in unknown.items():
            shares = [one[name]["label_share"] for one in (unknown["train"], found)]
            if None in shares:
                continue
            gap = abs(shares[1] - shares[0])
            variances = [s * (1 - s) / one["rows"] for s, one in zip(shares, (train, found[name]))]
            if gap > max(SHARE_GAP, GAP_ERRORS * math.sqrt(sum(variances))):
                return (
                    f"of the targets without a vector in {name}, {100 * shares[0]:.0f} % are clicked in train and "
                    f"{100 * shares[1]:.0f} % in {split} ({found[name]['rows']:,} rows); how to rank them against "
                    "others was learned from the first, so look at cold items on their own, by_frequency in the result."
                )
    return None


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
