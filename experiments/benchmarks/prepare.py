"""From a log of clicks to a data set: seconds and memory of ``prepare``, from 0.1 M to 10 M interactions.

``python benchmarks/prepare.py`` writes logs with text ids (ten interactions per user, popularity as 1/rank), and
prepares each in a process of its own: from a parquet file with the default split, and with one negative per click.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from common import RESULTS, peak_memory, write
from tqdm import tqdm

from fuxictr_mm.prepare.prepare import prepare

SIZES = (100_000, 1_000_000, 10_000_000)
N_ITEMS = 100_000


def write_log(file: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, N_ITEMS + 1)
    items = np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(rows))
    frame = pl.DataFrame(
        {"user": rng.integers(0, rows // 10, rows), "item": items, "time": rng.integers(0, 10**7, rows)}
    )
    names = pl.format("user-{}", pl.col("user")).alias("user"), pl.format("item-{}", pl.col("item")).alias("item")
    frame.with_columns(*names, label=pl.Series(rng.integers(0, 2, rows))).write_parquet(file)


def point(file: Path, negatives: int) -> None:
    """One measurement; prints it as JSON."""
    labels = {"n_negatives": negatives, "drop": ["label"]} if negatives else {"label": "label"}
    with peak_memory() as memory, tempfile.TemporaryDirectory(dir=file.parent) as folder:
        started = time.perf_counter()
        made = prepare(file, Path(folder) / "out", user="user", item="item", time="time", max_len=50, **labels)
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file())
    print(json.dumps({"rows": sum(made.rows.values()), "s": seconds, "MB": memory.peak, "MB on disk": size / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        point(Path(args.point[0]), int(args.point[1]))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in tqdm(args.sizes, desc="logs"):
            file = Path(folder) / f"log_{rows}.parquet"
            write_log(file, rows)
            for negatives in (0, 1):
                command = [sys.executable, __file__, "--point", str(file), str(negatives)]
                ended = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(
                    {"interactions": rows, "negatives": negatives, **json.loads(ended.stdout.splitlines()[-1])}
                )
            file.unlink()
    write("prepare", {"items": N_ITEMS, "max_len": 50}, found, args.out)


if __name__ == "__main__":
    main()
