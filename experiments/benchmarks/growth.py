"""How time and memory grow with rows, history length, items and width of the vectors.

``python benchmarks/growth.py`` measures every point in a fresh process, writes two tables and ``growth.png``, and fits
``cost = c * size^exponent`` by least squares in logarithms, over all points of a sweep and over its last three.

- rows: one split is read, checked and arranged (histories as in the challenge, stored without padding).
- history length: training steps of small models, 256 rows with histories of equal length.
- items: the item table is built from two modalities of 128, each reduced to 32.
- vector width: a PCA is fitted to 30,000 rows, 64 components.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import N_ITEMS, RESULTS, peak_memory, write
from input_files import our_feature_map, write_ragged
from ranking import CONTEXT, SMALL, feature_map, item_table
from tqdm import tqdm

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.cli import user_errors
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.rows import read_rows
from fuxictr_mm.errors import needs
from fuxictr_mm.features.derive.pca import ModalityPCA
from fuxictr_mm.features.table import build_item_table
from fuxictr_mm.files import atomic_write
from fuxictr_mm.models import DIN_SE_MHTA, Transformer_DCNv2

MODELS = {"Transformer_DCNv2": Transformer_DCNv2, "DIN_SE_MHTA": DIN_SE_MHTA}
BATCH_SIZE = 256
PCA_ROWS = 30_000
MODALITY_WIDTH = 128
# Sweep -> what grows, and what is done.
SWEEPS = {
    "rows": ("rows", "read and check a split"),
    "Transformer_DCNv2": ("history length", "training step, Transformer_DCNv2"),
    "DIN_SE_MHTA": ("history length", "training step, DIN_SE_MHTA"),
    "items": ("items", "build the item table"),
    "widths": ("vector width", "fit a PCA"),
}
_Work = Callable[[], Any]


def rows_point(rows: int, folder: Path) -> _Work:
    schema = DatasetSchema.from_feature_map(our_feature_map(folder), max_len=100)
    ids = np.arange(1, N_ITEMS + 1)
    return lambda: read_rows(folder / "rows.parquet", schema, ids, require_label=True, progress=False)


def length_point(kind: str, length: int, folder: Path) -> _Work:
    table = item_table(folder, SMALL["vector"])
    options: dict[str, Any] = {
        **{key: value for key, value in SMALL.items() if key != "vector"}, "mlp_hidden_units": [64, 32], "gpu": -1,
        "model_root": str(folder), "metrics": ["AUC"], "optimizer": "adam", "loss": "binary_crossentropy", "verbose": 0,
        "task": "binary_classification", "max_len": length,
    }  # fmt: skip
    model = MODELS[kind](feature_map(folder, table, SMALL, vectors=True), **options).train()
    model._max_gradient_norm, model._batch_index, model._steps_per_epoch, model._total_steps = 10.0, 0, 1, 1
    columns = {name: torch.from_numpy(values) for name, values in table.columns.items()}
    rng = np.random.default_rng(0)
    context = {name: torch.from_numpy(rng.integers(1, 11, BATCH_SIZE)) for name in CONTEXT}
    context["label"] = torch.from_numpy((rng.random(BATCH_SIZE) < 0.25).astype(np.float32))
    ids = torch.from_numpy(rng.integers(1, N_ITEMS + 1, (BATCH_SIZE, length + 1)))
    is_real = torch.ones(BATCH_SIZE, length, dtype=torch.bool)

    def step() -> None:
        model.train_step(MultimodalBatch.from_ids(context, ids, is_real, columns))

    step()  # makes the optimizer's state
    return step


def items_point(items: int, folder: Path) -> _Work:
    vector = {"name": "item_emb", "type": "embedding", "source": "item", "embedding_dim": 32}
    columns = [
        {"name": "item_id", "type": "categorical", "source": "item"},
        {**vector, "pca": {"text": 32, "image": 32}},
    ]
    schema = DatasetSchema.from_params({"feature_cols": columns})

    def build() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:  # elsewhere, so that no table is found ready
            build_item_table(schema, out, item_feature=folder / "items.parquet")

    return build


def width_point(width: int, folder: Path) -> _Work:
    rows = np.random.default_rng(0).standard_normal((PCA_ROWS, width), dtype=np.float32)
    return lambda: ModalityPCA(64).fit(rows)


POINTS: dict[str, Callable[[int, Path], _Work]] = {
    "rows": rows_point,
    **{kind: partial(length_point, kind) for kind in MODELS},
    "items": items_point,
    "widths": width_point,
}


def write_items(path: Path, items: int) -> None:
    rng = np.random.default_rng(0)
    kind = pa.list_(pa.float32())
    schema = pa.schema({"item_id": pa.int64(), "text": kind, "image": kind})
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, items, 1 << 15):
            count = min(1 << 15, items - start)
            offsets = pa.array(np.arange(count + 1, dtype=np.int32) * MODALITY_WIDTH)
            vectors = [rng.standard_normal(count * MODALITY_WIDTH, dtype=np.float32) for _ in range(2)]
            ids = pa.array(np.arange(start + 1, start + count + 1))
            lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in vectors]
            writer.write_table(pa.table([ids, *lists], schema=schema))


def probe(sweep: str, size: int, folder: Path) -> None:
    """Do the work of one point in this process, up to five times; prints one JSON line."""
    work = POINTS[sweep](size, folder)
    seconds: list[float] = []
    with peak_memory() as memory:
        seconds.append(timed(work))
    while len(seconds) < 5 and sum(seconds) < 5:
        seconds.append(timed(work))
    print(json.dumps({"seconds": statistics.median(seconds), "MB added": memory.added, "repetitions": len(seconds)}))


def timed(work: _Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_point(sweep: str, size: int, folder: Path) -> dict[str, Any]:
    if sweep == "rows":
        write_ragged(folder / "rows.parquet", size)
    elif sweep == "items":
        write_items(folder / "items.parquet", size)
    command = [sys.executable, __file__, "--probe", sweep, "--size", str(size), "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    grows, what = SWEEPS[sweep]
    return {"what": what, "grows": grows, "size": size, **json.loads(output.splitlines()[-1])}


def exponents(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per sweep and cost; a cost that is not positive everywhere (too small to be seen) has no exponent."""
    lines = []
    for grows, what in SWEEPS.values():
        mine = [point for point in points if point["what"] == what]
        if len(mine) < 2:
            continue
        sizes = [point["size"] for point in mine]
        line: dict[str, Any] = {"what": what, "grows": grows, "from": sizes[0], "to": sizes[-1]}
        for cost in ("seconds", "MB added"):
            values = [point[cost] for point in mine]
            for name, last in (("all", len(mine)), ("last three", 3)):
                line[f"{cost}: exponent, {name}"] = exponent(sizes[-last:], values[-last:])
        lines.append(line)
    return lines


def exponent(sizes: list[int], values: list[float]) -> float | str:
    if min(values) <= 0:
        return "-"
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """A column per thing that grows: seconds above, memory below; exponents over the last three points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(point["grows"] for point in points))
    figure, grid = plt.subplots(2, len(names), figsize=(4 * len(names), 6.5), layout="constrained", squeeze=False)
    for column, grows in enumerate(names):
        for axes, cost, label in ((grid[0, column], "seconds", "seconds"), (grid[1, column], "MB added", "MB added")):
            for what in dict.fromkeys(point["what"] for point in points if point["grows"] == grows):
                mine = [point for point in points if point["what"] == what and point[cost] > 0]
                sizes, values = [point["size"] for point in mine], [point[cost] for point in mine]
                slope = exponent(sizes[-3:], values[-3:]) if len(mine) > 1 else "-"
                text = f"{slope:.2f}" if isinstance(slope, float) else slope
                axes.loglog(sizes, values, "o-", label=f"{what}\nexponent {text}")
            axes.set_xlabel(grows)
            axes.set_ylabel(label)
            axes.legend(fontsize=8, loc="upper left")
            axes.margins(y=0.35)  # room for the legend
            axes.grid(alpha=0.3, which="both")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[100_000, 300_000, 1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--lengths", nargs="*", type=int, default=[10, 25, 50, 100, 200])
    parser.add_argument("--items", nargs="*", type=int, default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--widths", nargs="*", type=int, default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--probe", choices=list(SWEEPS), default=None, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are put; default: temporary")
    args = parser.parse_args()
    if args.probe:
        with tempfile.TemporaryDirectory() as own:
            return probe(args.probe, args.size, args.folder or Path(own))
    with user_errors(), tempfile.TemporaryDirectory() as temporary:
        needs("matplotlib", "plot")
        sizes = {"rows": args.rows, **dict.fromkeys(MODELS, args.lengths), "items": args.items, "widths": args.widths}
        todo = [(sweep, size) for sweep, those in sizes.items() for size in sorted(those)]
        folder = args.folder or Path(temporary)
        points = [measure_point(sweep, size, folder) for sweep, size in tqdm(todo, desc="points")]
        settings = {"lengths_of_rows": "challenge", "batch_size": BATCH_SIZE, "pca_rows": PCA_ROWS, **SMALL}
        write("growth", settings, points)
        write("growth_exponents", settings, exponents(points))
        plot(points, RESULTS / "growth.png")
        print(f"saved: {RESULTS / 'growth.png'}")


if __name__ == "__main__":
    main()
