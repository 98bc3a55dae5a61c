"""Scores for a file of any length: checked first, then read, gathered, scored and written chunk by chunk."""

import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from fuxictr_mm.config.code import GROUP_METRICS
from fuxictr_mm.config.keys import Positive, check_value
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.contract import CHUNK_ROWS, iter_split
from fuxictr_mm.data.gather import BatchGatherer
from fuxictr_mm.data.rows import Rows, arrange_split
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import atomic_write
from fuxictr_mm.forms import group_numbers
from fuxictr_mm.parquet import ParquetTable, open_parquet
from fuxictr_mm.run.trained import Trained
from fuxictr_mm.training.metrics import evaluate_metrics

__all__ = ["Prediction", "predict_file"]

# The challenge's names, in its test file and in what it takes as an answer.
ID_COLUMN = "ID"
CHALLENGE_FILE = "prediction.csv"
CHALLENGE_SCORE = "Task1"
SCORE = "score"
SUFFIXES = (".parquet", ".csv", ".zip")
_Write = Callable[[pa.RecordBatch], None]


@dataclass(frozen=True)
class Prediction:
    """What :func:`predict_file` did.

    Attributes:
        path: the file of the scores.
        rows: how many were scored.
        rows_without_history: how many of them have an empty history.
        seconds: wall-clock time, reading and writing included.
        metrics: metric name -> value, if metrics were asked for.
    """

    path: Path
    rows: int
    rows_without_history: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    def to_text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.rows:,} rows scored in {self.seconds:.1f} s, {self.rows / self.seconds:,.0f} rows/s"]
        if self.rows_without_history:
            lines.append(f"{self.rows_without_history:,} of them have an empty history")
        lines += [f"{name}: {value:.6f}" for name, value in self.metrics.items()]
        return "\n".join([*lines, f"written: {self.path}"])


def predict_file(
    trained: Trained,
    data_path: str | Path,
    out: str | Path,
    *,
    batch_size: int = 1024,
    new_items: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
) -> Prediction:
    """Score every row of a file, in its order; memory does not grow with the number of rows.

    The scores are those of ``model.predict`` on an :class:`~fuxictr_mm.data.loader.MMCTRDataLoader` that feeds the
    model as in training. The file needs no label, and no group column.

    Args:
        trained: a model of ours, or one of the host's that takes the challenge's batch.
        data_path: parquet file of the data contract, or a folder or glob of parts.
        out: file to write, complete or not at all. ``.parquet`` holds the columns ``ID`` and the group (where the file
            has them), the item id, ``original_<column>`` for ids that ``prepare`` has numbered, and ``score``, float32;
            ``.csv`` holds ``ID,Task1``, what the challenge takes, and ``.zip`` the same as ``prediction.csv``.
        batch_size: rows per forward pass.
        new_items: files of items that the table lacks, as arguments of
            :meth:`~fuxictr_mm.features.table.ItemTable.with_items`; they are scored as cold items.
        metrics: metrics to compute; the file then needs a label (and a group, if one of them groups by it), and one
            score, label and group per row are kept in memory.

    Raises:
        ConfigError: ``out`` cannot be written.
        DataError: a file breaks the contract, an item is unknown, or a score is not finite. ``out`` is as it was.
    """
    started = time.perf_counter()
    data_path, out = Path(data_path), Path(out)
    check_value("batch_size", Positive, batch_size)
    _check_out(out, [data_path, *(path for path in (new_items or {}).values() if isinstance(path, str | Path))])
    model, schema = trained.model, trained.schema
    file = open_parquet(data_path)
    originals = _originals(trained) if out.suffix == ".parquet" else {}
    kept_columns = _output_schema(file.schema_arrow, data_path, out.suffix, schema, metrics)
    originals = {name: texts for name, texts in originals.items() if name in kept_columns.names}
    texts_of = [(f"original_{name}", texts.type) for name, texts in originals.items()]
    written = pa.schema([*kept_columns, *texts_of, (SCORE, pa.float32())])
    table = trained.table.with_items(**new_items) if new_items else trained.table
    gatherer = trained.gatherer(table)
    read = partial(
        iter_split,
        data_path,
        schema,
        table.item_ids,
        label=bool(metrics),
        keep=kept_columns.names,
        chunk_rows=max(CHUNK_ROWS // batch_size, 1) * batch_size,
        if_unknown="describe new items with --item_feature FILE (and --item_info FILE)",
    )
    # All rows are checked before the first is scored: reading them twice costs little beside a forward pass.
    with _bar(file, f"{data_path.name}, check") as bar:
        for chunk, _ in read():
            bar.update(len(chunk))
    rows = rows_without_history = 0
    seen: dict[str, list[Any]] = {"score": [], "label": [], "group": []}  # filled for metrics only
    with (
        atomic_write(out) as temporary,
        _writer(temporary, out.suffix, written) as write,
        _bar(file, data_path.name) as bar,
    ):
        for chunk, kept in read():
            scores = np.concatenate(list(_score(model, gatherer, arrange_split(chunk, schema), batch_size, bar)))
            bad = ~np.isfinite(scores)
            if bad.any():
                at = int(bad.argmax())
                raise DataError(
                    f"{data_path}: row {rows + at} (counted from 0) has the score {scores[at]}; a finite one is "
                    "expected, so check the weights and this row's numbers."
                )
            texts = [_looked_up(kept[name], of_numbers) for name, of_numbers in originals.items()]
            write(pa.record_batch([*kept.values(), *texts, pa.array(scores)], schema=written))
            rows += len(chunk)
            rows_without_history += int((np.diff(chunk.history_offsets) == 0).sum())
            if metrics:
                seen["score"].append(scores)
                seen["label"].append(chunk.label)
                seen["group"] += [group_numbers(kept[name]) for name in kept if name == schema.group_id]
    values = _evaluate(seen, metrics) if metrics else {}
    return Prediction(out, rows, rows_without_history, time.perf_counter() - started, values)


def _bar(file: ParquetTable, name: str) -> Any:
    return tqdm(total=file.num_rows, desc=name, unit=" rows", disable=None)


def _score(model: Any, gatherer: BatchGatherer, rows: Rows, batch_size: int, bar: Any) -> Iterator[np.ndarray]:
    for batch in gatherer.batches(rows, np.arange(len(rows)), batch_size):
        with torch.no_grad():
            scores = model.forward(batch)["y_pred"].float().cpu().numpy().reshape(-1)
        yield scores
        bar.update(len(scores))


def _evaluate(seen: Mapping[str, list[Any]], metrics: Sequence[str]) -> dict[str, float]:
    # float64, as FuxiCTR's own evaluation has it: the same scores give the same digits.
    label, score = (np.concatenate(seen[name]).astype(np.float64) for name in ("label", "score"))
    return dict(evaluate_metrics(label, score, list(metrics), np.concatenate(seen["group"]) if seen["group"] else None))


def _check_out(out: Path, inputs: Sequence[str | Path]) -> None:
    """Refuse, before any work, an output that could not be written or that would replace an input."""
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: the suffix {out.suffix!r} is none of {list(SUFFIXES)}; choose one of them.")
    if any(out.resolve() == Path(path).resolve() for path in inputs):
        raise ConfigError(
            f"--out {out}: the scores would replace the data they are computed from; choose another file."
        )
    folder = next(parent for parent in out.resolve().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {out}: no file can be written there; choose another place.")


def _output_schema(
    arrow: pa.Schema, data_path: Path, suffix: str, schema: DatasetSchema, metrics: Sequence[str]
) -> pa.Schema:
    """The columns to copy; refuses a file that lacks one which the output or the metrics need."""
    needed = {schema.item_col: "every row needs a target item"}
    if suffix != ".parquet":
        needed[ID_COLUMN] = f"{suffix} files hold {ID_COLUMN},{CHALLENGE_SCORE}; write .parquet instead"
    if metrics:
        needed[schema.label_col] = "metrics need it; score the file without --metrics"
    if schema.group_id is not None and any(metric.split("(")[0] in GROUP_METRICS for metric in metrics):
        needed[schema.group_id] = f"the metrics {list(metrics)} need it; score the file without --metrics"
    for name, reason in needed.items():
        if name not in arrow.names:
            raise DataError(f"{data_path}: column {name!r} is missing, found {arrow.names}: {reason}.")
    names = dict.fromkeys((ID_COLUMN, schema.group_id, schema.item_col))
    types = {name: arrow.field(name).type for name in names if name in arrow.names}
    return pa.schema(types)


def _originals(trained: Trained) -> dict[str, pa.Array]:
    """Column -> the ids that its numbers 1, 2, ... stand for, where ``prepare`` has left them beside the items."""
    schema, folder = trained.schema, Path(trained.params.get("item_info") or "").parent
    files = {name: folder / f"{name}s.parquet" for name in (schema.group_id, schema.item_col) if name is not None}
    found = {}
    for name, file in files.items():
        if file.is_file() and {name, "original"} <= set((table := open_parquet(file)).schema_arrow.names):
            found[name] = table.read(["original"]).column(0).combine_chunks()
    return found


def _looked_up(numbers: pa.Array, of_numbers: pa.Array) -> pa.Array:
    """The ids of numbers; null for one that has none, such as an item that came later."""
    at = numbers.to_numpy(zero_copy_only=False).astype(np.int64) - 1
    return of_numbers.take(pa.array(at, mask=(at < 0) | (at >= len(of_numbers))))


@contextmanager
def _writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[_Write]:
    """Open ``path`` for record batches of ``schema``, in the form that ``suffix`` names."""
    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as parquet:
            yield parquet.write_batch
    elif suffix == ".csv":
        with open(path, "wb") as stream:
            yield _challenge_csv(stream)
    else:
        # A fixed date, ZipInfo's own, so that equal scores give equal bytes.
        entry = zipfile.ZipInfo(CHALLENGE_FILE)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w") as archive, archive.open(entry, "w", force_zip64=True) as stream:
            yield _challenge_csv(stream)


def _challenge_csv(stream: IO[bytes]) -> _Write:
    stream.write(f"{ID_COLUMN},{CHALLENGE_SCORE}\n".encode())
    options = pa_csv.WriteOptions(include_header=False, quoting_style="needed")

    def write(batch: pa.RecordBatch) -> None:
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(batch.select([ID_COLUMN, SCORE]), sink, options)
        stream.write(sink.getvalue())

    return write
