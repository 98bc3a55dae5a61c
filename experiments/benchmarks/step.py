"""Rows per second of a training step of Transformer_DCNv2, against FuxiCTR's TransAct with the same weights.

``python benchmarks/step.py`` takes the paper's widths (268 M parameters; 14 GB of memory) and steps both models on the
same rows, one after the other in every round: TransAct on the challenge's tuple, padded to the stored width, ours on
the batch of our loader. Dropout is off; the losses of all steps are compared. The other arms change the arithmetic.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from common import N_ITEMS, draw_lengths, median_and_spread, peak_memory, write
from fuxictr.features import FeatureMap
from input_files import N_TAGS, STORED_WIDTH
from model_zoo.LongCTR import TransAct
from tqdm import tqdm

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.models import Transformer_DCNv2

# Not arms of ours: the baseline, and the same model on batches that are padded to their longest history only.
BASELINE, TRIMMED = "TransAct", "TransAct, batches trimmed"
CHANGES: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, batches of similar length": {},
    "low_rank 512": {"cross": "low_rank", "cross_rank": 512},
    "low_rank 128": {"cross": "low_rank", "cross_rank": 128},
    "low_rank 32": {"cross": "low_rank", "cross_rank": 32},
    "bf16": {"amp": "bf16"},
    "compiled": {"torch_compile": True},
}


def feature_map(folder: str, width: int) -> FeatureMap:
    """The challenge's columns; id and tag embeddings ``width`` wide, vectors twice that."""
    result = FeatureMap("benchmark", folder)
    result.labels = ["label"]
    result.default_emb_dim = width
    level = {"type": "categorical", "source": "", "vocab_size": 11, "padding_idx": 0}
    tags = {"type": "sequence", "source": "item", "vocab_size": N_TAGS, "padding_idx": 0, "max_len": 5}
    result.features = OrderedDict(
        likes_level=dict(level),
        views_level=dict(level),
        item_id={"type": "categorical", "source": "item", "vocab_size": N_ITEMS + 1, "padding_idx": 0},
        item_tags={**tags, "feature_encoder": "layers.MaskedAveragePooling()"},
        item_emb_d128={"type": "embedding", "source": "item", "embedding_dim": 2 * width, "pretrain_dim": 128},
    )
    return result


def item_table(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    columns = {
        "item_id": torch.arange(N_ITEMS + 1),
        "item_tags": torch.from_numpy(rng.integers(1, N_TAGS, (N_ITEMS + 1, 5))),
        "item_emb_d128": torch.from_numpy(rng.standard_normal((N_ITEMS + 1, 128), dtype=np.float32) / 11.3),
    }
    for column in columns.values():
        column[0] = 0
    return columns


def batches(
    items: dict[str, torch.Tensor], lengths: np.ndarray, stored: int, rng: np.random.Generator
) -> tuple[MultimodalBatch, tuple[Any, Any, Any]]:
    """The same rows as our loader's batch, and as the challenge's tuple with histories padded to ``stored``."""
    rows = len(lengths)
    real = np.arange(stored) >= stored - lengths[:, None]
    ids = np.zeros((rows, stored + 1), np.int64)
    ids[:, :-1][real] = rng.integers(1, N_ITEMS + 1, lengths.sum())
    ids[:, -1] = rng.integers(1, N_ITEMS + 1, rows)
    context = {name: torch.from_numpy(rng.integers(1, 11, rows)) for name in ("likes_level", "views_level")}
    context["label"] = torch.from_numpy((rng.random(rows) < 0.25).astype(np.float32))
    longest = int(lengths.max())
    ours = MultimodalBatch.from_ids(
        context, torch.from_numpy(ids[:, -longest - 1 :]), torch.from_numpy(real[:, -longest:]), items
    )
    padded = MultimodalBatch.from_ids(context, torch.from_numpy(ids), torch.from_numpy(real), items)
    return ours, tuple(padded)


def transact_weights(baseline: TransAct) -> dict[str, torch.Tensor]:
    """TransAct's weights under the names of Transformer_DCNv2."""
    state = baseline.state_dict()
    return {name.replace("transformer_encoders.", "transformer_encoder."): tensor for name, tensor in state.items()}


def models(arms: list[str], width: int, rate: float, folder: str) -> Iterator[tuple[str, Any]]:
    """The baseline, then every arm; those with the same parameters start from the baseline's weights."""
    common: dict[str, Any] = {
        "gpu": 0 if torch.cuda.is_available() else -1, "embedding_dim": width, "learning_rate": rate, "verbose": 0,
        "dcn_cross_layers": 3, "dcn_hidden_units": [1024, 512, 256], "mlp_hidden_units": [64, 32],
        "transformer_layers": 2, "num_heads": 1, "dim_feedforward": 256, "first_k_cols": 16, "concat_max_pool": True,
        "transformer_dropout": 0, "net_dropout": 0, "model_root": folder, "metrics": ["AUC"], "optimizer": "adam",
        "loss": "binary_crossentropy", "task": "binary_classification",
    }  # fmt: skip
    torch.manual_seed(0)
    baseline = TransAct(feature_map(folder, width), **common)
    yield BASELINE, baseline
    weights = {name: tensor.clone() for name, tensor in transact_weights(baseline).items()}
    for name in arms:
        if name == TRIMMED:
            twin = TransAct(feature_map(folder, width), **common)
            twin.load_state_dict(baseline.state_dict())
            yield name, twin
            continue
        model = Transformer_DCNv2(feature_map(folder, width), **{**common, **CHANGES[name]})
        if "cross" not in CHANGES[name]:
            model.load_state_dict(weights)
        yield name, model


def _same(name: str) -> bool:
    """Whether an arm computes what the baseline computes."""
    return name in (BASELINE, TRIMMED, "exact", "compiled")


def stepper(model: Any, inputs: Callable[[int], Any]) -> Callable[[int], float]:
    """Return ``step(number) -> loss`` for batch ``number``."""
    model.train()
    model._max_gradient_norm, model._batch_index, model._steps_per_epoch, model._total_steps = 10.0, 0, 1, 1

    def step(number: int) -> float:
        return float(model.train_step(inputs(number)).detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lengths", choices=list(STORED_WIDTH), default="challenge")
    parser.add_argument("--embedding_dim", type=int, default=64, help="64 are the paper's widths")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--arms", nargs="*", choices=[TRIMMED, *CHANGES], default=["exact", "low_rank 128"])
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="the paper's")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    items = item_table(rng)
    stored = STORED_WIDTH[args.lengths]
    lengths = draw_lengths(args.lengths, rng, args.batch_size * (args.rounds + 1))
    both = [batches(items, part, stored, rng) for part in lengths.reshape(-1, args.batch_size)]
    by_length = np.sort(lengths).reshape(-1, args.batch_size)
    similar = [batches(items, part, stored, rng)[0] for part in by_length[rng.permutation(len(by_length))]]
    losses: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Callable[[int], float]] = {}
        memory: dict[str, float] = {}
        parameters: dict[str, int] = {}
        for name, model in models(args.arms, args.embedding_dim, args.learning_rate, folder):
            parameters[name] = sum(parameter.numel() for parameter in model.parameters())
            if name == BASELINE:
                inputs: Callable[[int], Any] = lambda n: copy.copy(both[n][1])  # noqa: E731
            elif name == TRIMMED:
                inputs = lambda n: tuple(both[n][0])  # noqa: E731
            elif name == "exact, batches of similar length":
                inputs = similar.__getitem__
            else:
                inputs = lambda n: both[n][0]  # noqa: E731
            steps[name] = stepper(model, inputs)
            losses[name], rates[name] = [], []
        for number in tqdm(range(args.rounds + 1), desc="rounds"):
            for name, step in steps.items():
                started = time.perf_counter()
                losses[name].append(step(number))
                if number:  # the first step makes the optimizer's state
                    rates[name].append(args.batch_size / (time.perf_counter() - started))
        for name, step in steps.items():
            with peak_memory() as used:
                step(0)
            memory[name] = used.added
    for name in steps:
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[BASELINE])]
        apart = [abs(ours - theirs) for ours, theirs in zip(losses[name], losses[BASELINE])]
        equal = next((number for number, value in enumerate(apart) if value > 1e-4), len(apart))
        rows.append(
            {
                "arm": name,
                "rows/s": median_and_spread(rates[name], 1),
                "times TransAct": median_and_spread(ratios, 2),
                "ms per step": 1000 * args.batch_size / statistics.median(rates[name]),
                "MB added in a step": memory[name],
                "M parameters": parameters[name] / 1e6,
                "losses within 1e-4": f"{equal} of {len(apart)} steps" if _same(name) else "another step",
                "losses": losses[name],
            }
        )
    rate = "" if args.learning_rate == 5e-4 else f"_lr{args.learning_rate:g}"
    name = f"step_{args.lengths}_{args.batch_size}_width{args.embedding_dim}{rate}"
    write(name, vars(args), rows, hidden=("losses",))


if __name__ == "__main__":
    main()
