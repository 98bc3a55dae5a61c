"""Seconds of an evaluation beside the network: FuxiCTR's ``evaluate`` and gAUC against ours, on the same scores.

The forward pass only looks its scores up, so what is measured is collecting them and computing AUC, logloss and gAUC.
FuxiCTR's takes minutes for the 50,000 rows of ``python benchmarks/evaluation.py``, nearly all of them for gAUC.
"""

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
from common import measure, median_and_spread, write
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from step import feature_map

from fuxictr_mm.models import DIN_SE_MHTA

METRICS = ["AUC", "logloss", "gAUC"]


class LookUp(DIN_SE_MHTA):
    """A model whose scores are known."""

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        return {"y_pred": inputs[0]["score"].unsqueeze(1)}


class HostLookUp(LookUp):
    """The same with FuxiCTR's own evaluation."""

    evaluate = BaseModel.evaluate
    evaluate_metrics = BaseModel.evaluate_metrics


def build(kind: type[LookUp], folder: str) -> LookUp:
    columns: FeatureMap = feature_map(folder, 4)
    columns.group_id = "user_id"
    return kind(
        columns, embedding_dim=4, learning_rate=1e-3, verbose=0, model_root=folder, metrics=METRICS, optimizer="adam",
        loss="binary_crossentropy", task="binary_classification",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    label = torch.from_numpy((rng.random(args.rows) < 0.25).astype(np.float32))
    score = torch.sigmoid(torch.from_numpy(rng.standard_normal(args.rows, dtype=np.float32)) + label)
    user = torch.from_numpy(rng.integers(0, args.users, args.rows))
    columns = {"label": label, "score": score, "user_id": user}
    batches: list[Any] = [
        ({name: column[start : start + args.batch_size] for name, column in columns.items()}, {}, None)
        for start in range(0, args.rows, args.batch_size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        host, ours = build(HostLookUp, folder), build(LookUp, folder)
        logs: dict[str, dict[str, float]] = {}

        def evaluate(name: str, model: LookUp) -> float:
            logs[name] = model.evaluate(batches)
            return args.rows

        rates = measure(
            {"FuxiCTR": lambda: evaluate("FuxiCTR", host), "fuxictr_mm": lambda: evaluate("fuxictr_mm", ours)},
            args.rounds,
        )
    rows = [
        {
            "arm": name,
            "rows/s": median_and_spread(rates[name]),
            "times FuxiCTR": median_and_spread([a / b for a, b in zip(rates[name], rates["FuxiCTR"])], 1),
            **{metric: f"{logs[name][metric]:.10f}" for metric in METRICS},
        }
        for name in rates
    ]
    write("evaluation", vars(args), rows)


if __name__ == "__main__":
    main()
