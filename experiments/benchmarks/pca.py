"""Seconds and memory of a PCA of 91,717 vectors: ModalityPCA against scikit-learn's solvers and a plain matrix product.

``python benchmarks/pca.py`` fits 64 components to float32 rows of width 768 and 1,024, every solver once per round, and
says how far each answer is from a float64 one made in two passes. Then it feeds ModalityPCA 0.1 M, 1 M and 5 M rows,
made chunk by chunk and never held together: the memory must not grow. scikit-learn's ``full`` takes minutes:
``--full_svd``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from common import N_ITEMS, measure, median_and_spread, peak_memory, write
from scipy import linalg
from sklearn.decomposition import PCA, IncrementalPCA
from tqdm import tqdm

from fuxictr_mm.features.derive.pca import ModalityPCA

CHUNK_ROWS = 8192  # as the item table feeds them
YARDSTICK = "scikit-learn covariance_eigh, float32"


@dataclass
class Reference:
    """What a float64 PCA in two passes finds: shares of variance (k,) and components (k, d)."""

    shares: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, size: int) -> "Reference":
        mean = rows.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((len(mean), len(mean)))
        for start in range(0, len(rows), CHUNK_ROWS):
            centred = rows[start : start + CHUNK_ROWS] - mean
            scatter += centred.T @ centred
        variance, vectors = linalg.eigh(scatter)
        return cls((variance / variance.sum())[::-1][:size], vectors[:, ::-1][:, :size].T)

    def distance(self, pca: Any) -> tuple[float, float]:
        """Largest relative difference of a share of variance, and sine of the largest angle between the subspaces."""
        shares = np.abs(pca.explained_variance_ratio_ / self.shares - 1).max()
        found = pca.components_.astype(np.float64)
        found = linalg.orth(found.T).T  # a float32 solver's components are orthonormal to float32 only
        outside = found - found @ self.components.T @ self.components
        return float(shares), float(linalg.norm(outside, 2))


def vectors(rows: int, width: int) -> np.ndarray:
    """(rows, width) float32 like an encoder's: 128 topics of falling weight, noise, and a common offset."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((128, width), dtype=np.float32) * np.geomspace(1, 0.05, 128, dtype=np.float32)[:, None]
    offset = rng.standard_normal(width, dtype=np.float32)
    result = np.empty((rows, width), np.float32)
    for start in range(0, rows, CHUNK_ROWS):
        part = result[start : start + CHUNK_ROWS]
        rng.standard_normal(out=part, dtype=np.float32)
        part *= 0.3
        part += rng.standard_normal((len(part), 128), dtype=np.float32) @ topics + offset
    return result


def compare(items: int, width: int, size: int, rounds: int, *, full_svd: bool) -> list[dict[str, Any]]:
    """One line per arm."""
    single = vectors(items, width)
    double = single.astype(np.float64)
    fits: dict[str, Callable[[], Any]] = {
        "ModalityPCA, float32": lambda: ModalityPCA(size).fit(single),
        "ModalityPCA, float64": lambda: ModalityPCA(size).fit(double),
        YARDSTICK: lambda: PCA(size, svd_solver="covariance_eigh").fit(single),
        "scikit-learn covariance_eigh, float64": lambda: PCA(size, svd_solver="covariance_eigh").fit(double),
        "scikit-learn randomized, float32": lambda: PCA(size, svd_solver="randomized", random_state=0).fit(single),
        "scikit-learn IncrementalPCA, float32": lambda: IncrementalPCA(size, batch_size=CHUNK_ROWS).fit(single),
    }
    if full_svd:
        fits["scikit-learn full, float32"] = lambda: PCA(size, svd_solver="full").fit(single)
    products = {
        "X.T @ X, float32": lambda: single.T @ single,
        "X.T @ X, float64": lambda: double.T @ double,
    }
    reference = Reference.of(single, size)
    memory, distances = {}, {}
    for name, arm in tqdm({**products, **fits}.items(), desc=f"width {width}, memory"):
        with peak_memory() as used:
            answer = arm()
        memory[name] = used.added
        if name in fits:
            distances[name] = reference.distance(answer)
        del answer

    def timed(arm: Callable[[], Any]) -> float:
        arm()
        return items

    rates = measure({name: partial(timed, arm) for name, arm in {**products, **fits}.items()}, rounds)
    seconds = {name: [items / rate for rate in values] for name, values in rates.items()}
    rows = []
    for name, taken in seconds.items():
        ratios = [one / other for one, other in zip(taken, seconds[YARDSTICK])]
        shares, angle = distances.get(name, (None, None))
        rows.append(
            {
                "width": width,
                "arm": name,
                "seconds": median_and_spread(taken, 3),
                "times covariance_eigh": median_and_spread(ratios, 2),
                "GFLOP/s": items * width * (width + 1) / statistics.median(taken) / 1e9,
                "MB added": memory[name],
                "largest relative error of a share": "-" if shares is None else f"{shares:.1e}",
                "largest angle (sine)": "-" if angle is None else f"{angle:.1e}",
            }
        )
    return rows


def stream(items: int, width: int, size: int) -> dict[str, Any]:
    """Fit ``items`` rows that are made chunk by chunk."""
    rng = np.random.default_rng(0)
    chunk = np.empty((CHUNK_ROWS, width), np.float32)
    seconds = 0.0
    with peak_memory() as used:
        pca = ModalityPCA(size)
        for start in tqdm(range(0, items, CHUNK_ROWS), desc=f"{items:,} rows"):
            rows = rng.standard_normal(out=chunk, dtype=np.float32)[: items - start]
            started = time.perf_counter()
            pca.partial_fit(rows)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        assert pca.n_components_ == size  # the eigendecomposition happens here
        seconds += time.perf_counter() - started
    assert pca.n_samples_seen_ == items
    return {
        "rows": items,
        "width": width,
        "seconds": seconds,
        "rows/s": items / seconds,
        "MB added": used.added,
        "MB if held in float32": items * width * 4 / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=N_ITEMS)
    parser.add_argument("--widths", nargs="*", type=int, default=[768, 1024])
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full_svd", action="store_true", help="scikit-learn's full solver too")
    parser.add_argument("--stream", nargs="*", type=int, default=[100_000, 1_000_000, 5_000_000], help="rows to stream")
    parser.add_argument("--stream_width", type=int, default=768)
    args = parser.parse_args()
    if args.stream:
        streamed = [stream(items, args.stream_width, args.components) for items in args.stream]
        write("pca_streamed", vars(args), streamed)
    compared = []
    for width in args.widths:
        compared += compare(args.items, width, args.components, args.rounds, full_svd=args.full_svd)
    if compared:
        write("pca", vars(args), compared)


if __name__ == "__main__":
    main()
