"""Rows per second, start-up and memory of our loader beside the loaders of FuxiCTR's wheel, on the same rows.

``python benchmarks/input.py`` writes 3.6 M rows with the challenge's history lengths and with long ones, iterates every
loader for a second per round (Ray's for ten), in turn, and builds each once more in a process of its own for start-up
and memory. All loaders shuffle but Ray's, which would sort the whole file anew for every epoch.
``--stream_rows 100000000`` does one thing only: it writes that many rows, arranges them for streaming and goes through
an epoch, for the peak of memory.

- "LongCTR": ``model_zoo.LongCTR.longctr_dataloader``, whose design the challenge's loader copied; it gives the tuple of
  context, item columns of every position, and mask. "LongCTR, one file": its ``ParquetDataset`` on the challenge's one
  file with stored lists, for start-up and memory; the loader itself takes its histories from a file of users.
- "Ray": FuxiCTR's ``ParquetDataLoader``, ids alone. Its memory is that of other processes, and not in the table.
- "ids": ours, as a training step gets it: context, item ids padded to a matrix, mask. "items": with the distinct items
  found and their columns gathered, as an embedding needs them. "tuple": unpacked to the same tuple as LongCTR's.
  "stream": ids, from disk.
"""

import argparse
import atexit
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import measure, median_and_spread, peak_memory, write
from input_files import STORED_WIDTH, host_feature_map, our_feature_map, write_files, write_ragged
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader, ParquetDataset
from tqdm import tqdm

from fuxictr_mm.batch import MultimodalBatch, RaggedBatch
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.memory import available_memory

RAY_SECONDS = 10  # times those of the others: about one of them is its start
CONTEXT = ("likes_level", "views_level")
ITEM = ("item_tags", "item_emb_d128")
Loader = Any
Use = Callable[[Any], int]


def longctr(folder: Path, batch_size: int, width: int) -> Loader:
    names = ("user_index", "seq_len", "item_index", *CONTEXT, *ITEM)
    files = (str(folder / f"{name}.parquet") for name in ("rows", "users", "item_info"))
    # In this process: with workers its batches would only be counted, and its memory copied.
    return LongCTRDataLoader(host_feature_map(*names), *files, batch_size, True, num_workers=0, max_len=width)


def one_file(folder: Path, batch_size: int, width: int) -> Loader:
    return ParquetDataset(str(folder / "train.parquet"))


def ray_loader(folder: Path, batch_size: int, width: int) -> Loader:
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    names = ("user_id", "item_seq", "item_id", *CONTEXT)
    return ParquetDataLoader(host_feature_map(*names), str(folder / "train.parquet"), batch_size=batch_size)


def ours(folder: Path, batch_size: int, width: int, **options: Any) -> MMCTRDataLoader:
    items = folder / "item_info.parquet"
    return MMCTRDataLoader(
        our_feature_map(folder), folder / "train.parquet", items, batch_size, True, 0, width, **options
    )


def streamed(folder: Path, batch_size: int, width: int) -> MMCTRDataLoader:
    return ours(folder, batch_size, width, stream=True)


def rows_of_tuple(batch: Any) -> int:
    _, _, mask = batch  # unpacks ours
    return len(mask)


def ids(batch: RaggedBatch) -> int:
    made = batch.item_ids, batch.is_real_BL
    return len(made[0])


def items(batch: MultimodalBatch) -> int:
    made = batch.item_index, batch.is_real_BL, batch.items
    return len(made[0])


# Name -> how the loader is built, and what is asked of each batch before its rows are counted.
ARMS: dict[str, tuple[Callable[[Path, int, int], Loader], Use]] = {
    "LongCTR": (longctr, rows_of_tuple),
    "Ray": (ray_loader, lambda batch: len(batch["label"])),
    "ids": (ours, ids),
    "items": (ours, items),
    "tuple": (ours, rows_of_tuple),
    "stream": (streamed, ids),
}
BUILT_ALONE = {name: ARMS[name] for name in ("LongCTR", "ids", "items", "tuple", "stream")}
BUILT_ALONE["LongCTR, one file"] = (one_file, len)


def forever(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


def for_seconds(batches: Iterator[Any], use: Use, seconds: float) -> Callable[[], float]:
    def run() -> float:
        started, rows = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            if (batch := next(batches, None)) is None:
                break
            rows += use(batch)
        return rows

    return run


def for_seconds_anew(loader: Loader, use: Use, seconds: float) -> Callable[[], float]:
    """For a loader that works ahead in other processes: stopped after each round, or it would slow the others then.

    Its start counts: by its first batch it has decoded many more, so that without it the rate would be too high.
    """
    return lambda: for_seconds(iter(loader), use, seconds)()


def speed(folder: Path, kind: str, batch_size: int, with_ray: bool, args: argparse.Namespace) -> list[dict[str, Any]]:
    width = STORED_WIDTH[kind]
    resident = ours(folder, batch_size, width)  # one for its three arms
    runs = {}
    for name, (build, use) in ARMS.items():
        if name != "Ray" or with_ray:
            loader = resident if build is ours else build(folder, batch_size, width)
            if name == "Ray":
                runs[name] = for_seconds_anew(loader, use, RAY_SECONDS * args.seconds)
            else:
                runs[name] = for_seconds(forever(loader), use, args.seconds)
    rates = measure(runs, args.rounds)
    base = statistics.median(rates["LongCTR"])
    return [
        {
            "histories": kind,
            "batch": batch_size,
            "loader": name,
            "rows/s": median_and_spread(found),
            "times LongCTR": round(statistics.median(found) / base, 1),
        }
        for name, found in rates.items()
    ]


def probe(name: str, folder: Path, width: int) -> None:
    """Build one loader in this process and draw ten batches of 4,096; prints one JSON line."""
    build, use = BUILT_ALONE[name]
    with peak_memory() as memory:
        started = time.perf_counter()
        loader = build(folder, 4096, width)
        seconds = time.perf_counter() - started
        for _, batch in zip(range(0 if build is one_file else 10), loader):
            use(batch)
    matrix = loader if build is one_file else getattr(loader, "dataset", None)  # the host's
    held = matrix.darray.nbytes if matrix is not None else loader._rows.nbytes
    print(json.dumps({"seconds": seconds, "added": memory.added, "held": held}))


def in_own_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def start_up(folder: Path, kind: str, n_rows: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in folder.glob("*.arrow"):  # of the speed test
        path.unlink()
    names = {"stream, first": "stream", "stream, again": "stream"}
    for name in ("LongCTR, one file", "LongCTR", "ids", "items", "tuple", *names):
        if name == "LongCTR, one file" and available_memory() < 5 * 8 * n_rows * STORED_WIDTH[kind]:
            print(f"{name}, {kind} histories: left out; it needs about five times its matrix in memory.")
            continue
        found = in_own_process("--probe", names.get(name, name), "--folder", str(folder), "--lengths", kind)
        rows.append(
            {
                "histories": kind,
                "loader": name,
                "start-up s": round(found["seconds"], 2),
                "memory added MB": round(found["added"]),
                "rows held MB": round(found["held"] / 1e6),
            }
        )
    return rows


def stream_all(folder: Path, rows: int) -> None:
    """Arrange ``rows`` rows for streaming and go through one epoch of ids, each in a process of its own."""
    if not (folder / "item_info.parquet").exists():
        write_files(folder, "challenge", 1)
        write_ragged(folder / "train.parquet", rows)
    print(f"{(folder / 'train.parquet').stat().st_size / 1e9:.2f} GB in train.parquet")
    results = []
    for what in ("arrange", "epoch"):
        found = in_own_process("--probe", what, "--folder", str(folder))
        results.append({"what": what, "rows": rows, **found})
    write("input_stream", {"rows": rows, "batch": 4096}, results)


def probe_stream(what: str, folder: Path) -> None:
    with peak_memory() as memory:
        started = time.perf_counter()
        loader = streamed(folder, 4096, STORED_WIDTH["challenge"])
        if what == "epoch":
            with tqdm(total=len(loader), desc="epoch", unit=" batches", disable=None) as bar:
                for batch in loader:
                    ids(batch)  # type: ignore[arg-type]
                    bar.update()
    seconds = time.perf_counter() - started
    found = {"seconds": round(seconds, 1), "rows/s": round(loader.num_samples / seconds)}
    print(json.dumps(found | {"peak MB": round(memory.peak), "MB on disk": round(loader._rows.nbytes / 1e6)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_600_000)
    parser.add_argument("--lengths", nargs="+", default=list(STORED_WIDTH), choices=list(STORED_WIDTH))
    parser.add_argument("--batch_size", type=int, nargs="+", default=[128, 4096])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each loader in each round")
    parser.add_argument("--stream_rows", type=int, default=None, help="only stream this many rows")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are put; default: temporary")
    parser.add_argument("--probe", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe in BUILT_ALONE:
        return probe(args.probe, args.folder, STORED_WIDTH[args.lengths[0]])
    if args.probe:
        return probe_stream(args.probe, args.folder)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.stream_rows:
            return stream_all(folder, args.stream_rows)
        with_ray = start_ray()
        settings = {
            "rows": args.rows,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "threads": torch.get_num_threads(),
        }
        speeds, starts = [], []
        for kind in args.lengths:
            place = folder / kind
            place.mkdir(parents=True, exist_ok=True)
            write_files(place, kind, args.rows)
            for batch_size in args.batch_size:
                speeds += speed(place, kind, batch_size, with_ray, args)
            starts += start_up(place, kind, args.rows)
        write("input", settings, speeds)
        write("input_start_up", settings, starts)


def start_ray() -> bool:
    if find_spec("ray") is None:
        print("Ray: left out, it is not installed.")
        return False
    import ray

    atexit.register(ray.shutdown)
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    return True


if __name__ == "__main__":
    main()
