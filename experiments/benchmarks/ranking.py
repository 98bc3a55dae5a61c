"""Milliseconds to rank the candidates of one user: ours through ``Ranker``, against ids alone and against TransAct.

``python benchmarks/ranking.py`` ranks 100, 1,000 and 10,000 candidates after a history of 50 items. Every arm answers
the same requests, one after the other in every round. FuxiCTR's TransAct, with the same weights as ours, takes the
challenge's tuple: one item row per history position and candidate; the arm "rows" gives our model the same tuple.
Weights and items are random, which the time does not depend on. ``--full`` takes the paper's widths (268 M parameters,
4 GB) and few repetitions.
"""

import argparse
import itertools
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import N_ITEMS, measure, peak_memory, write
from fuxictr.features import FeatureMap
from input_files import N_TAGS
from model_zoo.LongCTR import TransAct
from step import transact_weights
from tqdm import tqdm

from fuxictr_mm.features.columns import ItemColumn
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.models import DIN_SE_MHTA, Transformer_DCNv2
from fuxictr_mm.run import Trained
from fuxictr_mm.serve.ranking import Ranker

CONTEXT = ("likes_level", "views_level")
BATCH_SIZE = 1024
SMALL: dict[str, Any] = {
    "embedding_dim": 16, "vector": 32, "dcn_hidden_units": [256, 128], "dnn_hidden_units": [256, 128, 64],
    "dim_feedforward": 128, "first_k_cols": 4,
}  # fmt: skip
FULL: dict[str, Any] = {
    "embedding_dim": 64, "vector": 128, "dcn_hidden_units": [1024, 512, 256], "dnn_hidden_units": [1024, 512, 256],
    "dim_feedforward": 256, "first_k_cols": 16,
}  # fmt: skip
# Candidates -> repetitions after the one that measures memory; 0: that one alone.
ROUNDS = {100: 200, 1_000: 100, 10_000: 20}
FULL_ROUNDS = {100: 10, 1_000: 2, 10_000: 0}
_Request = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
_Answer = Callable[[_Request], np.ndarray]


def feature_map(folder: Path, table: ItemTable, widths: Mapping[str, Any], *, vectors: bool) -> FeatureMap:
    """The challenge's columns, as ``MultimodalFeatureProcessor`` describes them."""
    result = FeatureMap("benchmark", str(folder))
    result.labels = ["label"]
    result.default_emb_dim = widths["embedding_dim"]
    assert table.path is not None
    item = {"source": "item", "item_ids": table.path.name}
    files = {name: str(column.path) for name, column in table.stored.items()}
    tags = {"type": "sequence", "vocab_size": N_TAGS, "padding_idx": 0, "max_len": 5}
    result.features = OrderedDict(
        {name: {"type": "categorical", "source": "", "vocab_size": 11, "padding_idx": 0} for name in CONTEXT},
        item_id={**item, "type": "categorical", "vocab_size": N_ITEMS + 1, "padding_idx": 0},
        item_tags={
            **item,
            **tags,
            "item_column": files["item_tags"],
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
    )
    if vectors:
        width = widths["vector"]
        item |= {"item_column": files["item_emb"]}
        result.features["item_emb"] = {**item, "type": "embedding", "embedding_dim": width, "pretrain_dim": width}
    return result


def item_table(folder: Path, width: int) -> ItemTable:
    rng = np.random.default_rng(0)
    columns = {
        "item_tags": rng.integers(1, N_TAGS, (N_ITEMS + 1, 5), dtype=np.int32),
        "item_emb": rng.standard_normal((N_ITEMS + 1, width), dtype=np.float32) / np.float32(width**0.5),
    }
    for column in columns.values():
        column[0] = 0
    ids = np.arange(1, N_ITEMS + 1)
    return ItemTable(ids, {name: ItemColumn(values) for name, values in columns.items()}).save(folder)


def arms(folder: Path, widths: Mapping[str, Any]) -> tuple[dict[str, _Answer], dict[str, int]]:
    """Arm -> function from a request to scores, and arm -> number of parameters."""
    table = item_table(folder, widths["vector"])
    with_vectors, ids_only = (feature_map(folder, table, widths, vectors=vectors) for vectors in (True, False))
    common: dict[str, Any] = {
        **{key: value for key, value in widths.items() if key != "vector"}, "mlp_hidden_units": [64, 32],
        "gpu": 0 if torch.cuda.is_available() else -1, "transformer_layers": 2, "num_heads": 1, "learning_rate": 1e-3,
        "net_dropout": 0.1, "model_root": str(folder), "metrics": ["AUC"], "optimizer": "adam", "verbose": 0,
        "loss": "binary_crossentropy", "task": "binary_classification",
    }  # fmt: skip
    torch.manual_seed(0)
    baseline = TransAct(with_vectors, **common).eval()
    for name, parameter in baseline.named_parameters():
        if "embedding_layers" in name:  # as trained ones are, so that scores differ
            torch.nn.init.normal_(parameter.data[1:], std=0.5)
    ours = Transformer_DCNv2(with_vectors, **common)
    ours.load_state_dict(transact_weights(baseline))
    models = {
        "Transformer_DCNv2": (ours, with_vectors),
        "Transformer_DCNv2, ids only": (Transformer_DCNv2(ids_only, **common), ids_only),
        "DIN_SE_MHTA": (DIN_SE_MHTA(with_vectors, **common), with_vectors),
        "DIN_SE_MHTA, ids only": (DIN_SE_MHTA(ids_only, **common), ids_only),
    }
    answers = {
        name: ranked(Ranker(Trained.of(model, features, common), batch_size=BATCH_SIZE))
        for name, (model, features) in models.items()
    }
    columns = {name: torch.from_numpy(values).to(baseline.device) for name, values in table.columns.items()}
    answers["Transformer_DCNv2, rows"] = by_rows(ours.eval(), columns)
    answers["TransAct, rows"] = by_rows(baseline, columns)
    parameters = {name: count(model) for name, (model, _) in models.items()}
    parameters |= {"Transformer_DCNv2, rows": count(ours), "TransAct, rows": count(baseline)}
    return answers, parameters


def _same(name: str) -> bool:
    """Whether an arm computes what TransAct computes."""
    return name.endswith("rows") or name == "Transformer_DCNv2"


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def ranked(ranker: Ranker) -> _Answer:
    return lambda request: ranker.score(*request)


def by_rows(model: Any, columns: Mapping[str, torch.Tensor]) -> _Answer:
    """Answer as a model that takes the challenge's tuple has to: every candidate brings the history's item rows."""

    def answer(request: _Request) -> np.ndarray:
        history, candidates, context = request
        scores = []
        for start in range(0, len(candidates), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            targets = torch.from_numpy(candidates[rows]).to(model.device)
            clicked = torch.from_numpy(history).to(model.device).expand(len(targets), -1)
            flat = torch.cat([clicked, targets.unsqueeze(1)], dim=1).flatten()
            items = {name: column.index_select(0, flat) for name, column in columns.items()}
            fields = {name: torch.from_numpy(values[rows]).to(model.device) for name, values in context.items()}
            mask = torch.ones(len(targets), len(history), device=model.device)
            with torch.no_grad():
                scores.append(model.forward((fields, items, mask))["y_pred"].reshape(-1).cpu())
        return torch.cat(scores).numpy()

    return answer


def requests(rounds: int, candidates: int, history: int) -> list[_Request]:
    rng = np.random.default_rng(1)

    def draw(size: int) -> np.ndarray:
        return rng.integers(1, N_ITEMS + 1, size)

    return [
        (draw(history), draw(candidates), {name: rng.integers(1, 11, candidates) for name in CONTEXT})
        for _ in range(rounds)
    ]


def tail(milliseconds: list[float]) -> float | str:
    """The 99th percentile; where there are too few values for one, the slowest, and that it is."""
    if len(milliseconds) < 100:
        return f"{max(milliseconds):,.4g} (slowest of {len(milliseconds)})"
    return float(np.percentile(milliseconds, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", nargs="+", type=int, default=list(ROUNDS))
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--full", action="store_true", help="the paper's widths")
    parser.add_argument("--rounds", type=int, default=None, help="repetitions; default: fewer for more candidates")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        answers, parameters = arms(Path(folder), FULL if args.full else SMALL)
        for answer in answers.values():
            answer(requests(1, 2, args.history)[0])  # what is made once, is made
        for candidates in args.candidates:
            rounds = (FULL_ROUNDS if args.full else ROUNDS).get(candidates, 5) if args.rounds is None else args.rounds
            asked = requests(rounds + 1, candidates, args.history)
            memory, first, seconds = {}, {}, {}
            for name, answer in tqdm(answers.items(), desc=f"{candidates:,} candidates, memory"):
                with peak_memory() as used:
                    started = time.perf_counter()
                    first[name] = answer(asked[0])
                    seconds[name] = time.perf_counter() - started
                memory[name] = used.added

            def arm(answer: _Answer, asked: list[_Request] = asked) -> Callable[[], float]:
                turn = itertools.cycle(asked)
                return lambda: float(len(answer(next(turn))))

            assert first["TransAct, rows"].std() > 0.001, "scores without spread cannot be compared"
            rates = {name: [candidates / taken] for name, taken in seconds.items()}
            if rounds:
                rates = measure({name: arm(answer) for name, answer in answers.items()}, rounds)
            for name in answers:
                milliseconds = [1000 * candidates / rate for rate in rates[name]]
                apart = np.abs(first[name] - first["TransAct, rows"]).max()
                rows.append(
                    {
                        "candidates": candidates,
                        "arm": name,
                        "p50 ms": float(np.percentile(milliseconds, 50)),
                        "p99 ms": tail(milliseconds),
                        "candidates/s": candidates / float(np.percentile(milliseconds, 50)) * 1000,
                        "repetitions": len(rates[name]),
                        "MB added": memory[name],
                        "M parameters": parameters[name] / 1e6,
                        "largest score difference from TransAct": f"{apart:.1e}" if _same(name) else "another model",
                    }
                )
    widths = FULL if args.full else SMALL
    write("ranking_full" if args.full else "ranking", {**vars(args), **widths, "batch_size": BATCH_SIZE}, rows)


if __name__ == "__main__":
    main()
