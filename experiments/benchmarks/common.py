"""What the benchmarks share: histories of known shape, interleaved rounds, peak memory, and how results are kept."""

import ctypes
import gc
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_mm.files import atomic_write
from fuxictr_mm.run.provenance import current_commit, machine

__all__ = ["N_ITEMS", "Memory", "draw_lengths", "median_and_spread", "measure", "peak_memory", "table", "write"]

RESULTS = Path(__file__).parent / "results"
N_ITEMS = 91_717  # of the challenge
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scikit-learn", "fuxictr", "ray")


def draw_lengths(kind: str, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Return (rows,) int64 history lengths.

    ``"challenge"``: 3 to 64, median 6, mean 8, as in MicroLens_1M_x1. ``"long"``: 1 to 100, mean 50.
    """
    if kind == "challenge":
        return np.clip(np.round(np.exp(rng.normal(np.log(6), 0.758, rows))), 3, 64).astype(np.int64)
    if kind == "long":
        return np.clip(np.round(rng.gamma(4.0, 12.6, rows)), 1, 100).astype(np.int64)
    raise ValueError(f"lengths {kind!r} must be 'challenge' or 'long'.")


def measure(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every arm once per round, in turn, and return what it did per second, a list per arm.

    Interleaved, so that a machine which slows down for a while slows all arms. One round more goes before, unmeasured.

    Args:
        arms: name -> function that does the work and returns how much it was (rows, bytes, ...).
        rounds: measured rounds.
    """
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            gc.collect()
            started = time.perf_counter()
            amount = arm()
            rate = amount / (time.perf_counter() - started)
            if number:
                rates[name].append(rate)
    return rates


def median_and_spread(values: Sequence[float], digits: int = 0) -> str:
    """``median (min to max)``."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


class Memory:
    """Resident memory in MB: ``before`` the block, at its ``peak``, and what the block added."""

    before = peak = float("nan")

    @property
    def added(self) -> float:
        return self.peak - self.before


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """Measure this process's resident memory over a block; NaN where the system is not Linux.

    The peak is the kernel's own (``VmHWM``), set back first, so nothing between two samples is missed.
    """
    memory = Memory()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    if status.exists():
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed before is not lent to the block
        reset.write_text("5")
        memory.before = _megabytes(status, "VmRSS")
    yield memory
    if status.exists():
        memory.peak = _megabytes(status, "VmHWM")


def _megabytes(status: Path, key: str) -> float:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) / 1024


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table; floats with 4 significant digits."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_text(row[key]) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write(
    name: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    out: Path = RESULTS,
    hidden: Sequence[str] = (),
) -> None:
    """Print the table and save it as ``NAME.md`` and ``NAME.json``, with command, machine, versions and commit.

    Columns ``hidden`` are in the JSON only.
    """
    text = table([{key: value for key, value in row.items() if key not in hidden} for row in rows])
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "command": shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "settings": dict(settings),
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": current_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": [dict(row) for row in rows],
    }
    with atomic_write(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    about = f"Command: `{content['command']}`\n{content['machine']}; commit {content['commit']}, {content['date']}.\n"
    with atomic_write(out / f"{name}.md") as temporary:
        temporary.write_text(f"{text}\n\n{about}")
    print(f"saved: {out / name}.json and .md")
