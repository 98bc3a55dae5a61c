"""Rows per second of the history encoder: all rows of a batch padded to the longest, against rows grouped by length.

``python benchmarks/history_encoder.py`` trains both on the same batches (forward and backward), one after the other in
every round, and prints the median, the spread and the ratio. CPU only: elsewhere nothing is grouped.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from fuxictr_mm.layers import HistoryEncoder

# History lengths: the challenge's (median 6, mean 8, at most 64) and LastFM-2k's (mean 26, at most 39).
LENGTHS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "challenge": lambda rng, rows: np.clip(np.round(np.exp(rng.normal(np.log(6), 0.76, rows))), 0, 64),
    "LastFM-2k": lambda rng, rows: np.clip(np.round(rng.normal(26, 7, rows)), 0, 39),
}


def batch(lengths: np.ndarray, item_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Target (B, D), history (B, L, D) and mask (B, L), left-padded to the longest history."""
    longest = max(1, int(lengths.max()))
    is_real = torch.arange(longest) >= longest - torch.from_numpy(lengths.astype(np.int64))[:, None]
    history = torch.randn(len(lengths), longest, item_dim) * is_real.unsqueeze(-1)
    return torch.randn(len(lengths), item_dim), history.requires_grad_(), is_real


def seconds(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    function(*inputs).sum().backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--item_dim", type=int, default=64)
    parser.add_argument("--dim_feedforward", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder = HistoryEncoder(args.item_dim, 64, dim_feedforward=args.dim_feedforward, first_k_cols=4)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print(f"batch {args.batch_size}, item width {args.item_dim}, 2 layers, feed-forward {args.dim_feedforward}")
    print(f"{'lengths':<12}{'padded rows/s':>16}{'grouped rows/s':>16}{'ratio (min to max)':>26}")
    for name, draw in LENGTHS.items():
        rng = np.random.default_rng(0)
        padded, grouped = [], []
        for round_number in range(args.rounds + 1):
            inputs = batch(draw(rng, args.batch_size), args.item_dim)
            times = seconds(encoder.encode, *inputs), seconds(encoder.forward, *inputs)
            if round_number:  # the first round warms up
                padded.append(args.batch_size / times[0])
                grouped.append(args.batch_size / times[1])
        ratios = [fast / slow for fast, slow in zip(grouped, padded)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<12}{statistics.median(padded):>16,.0f}{statistics.median(grouped):>16,.0f}{spread:>26}")


if __name__ == "__main__":
    main()
