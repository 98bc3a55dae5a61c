"""Item tables with vectors: every distinct text or picture is encoded once, and what is done survives a kill.

Vectors lie in shards beside the table, under digests of their inputs. A run encodes what no shard has: so one that was
killed goes on where it stopped, and new items cost only themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fuxictr_mm.config.keys import Positive, check_arguments
from fuxictr_mm.encode.encoders import Encoder, as_vectors, load_encoder
from fuxictr_mm.encode.inputs import Inputs, Task, open_picture
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import atomic_write, only_one, read_json, write_json
from fuxictr_mm.prepare.catalogue import one_row_per_item
from fuxictr_mm.prepare.log import are_numbers_as_text
from fuxictr_mm.prepare.reading import read_table

__all__ = ["EncodedItems", "encode"]

TABLE = "items.parquet"
SHARD = 2048  # inputs whose vectors are written at once


@dataclass(frozen=True)
class EncodedItems:
    """What :func:`encode` has done.

    Attributes:
        path: the item table with vectors.
        items: rows of it.
        notes: what was encoded, reused and left out, a sentence per column.
    """

    path: Path
    items: int
    notes: Sequence[str]

    def to_text(self) -> str:
        return "\n".join([f"{self.path}: {self.items:,} items", *(f"  - {note}" for note in self.notes)])


@check_arguments
def encode(
    items: Any,
    out: str | Path,
    tasks: Sequence[Any],
    *,
    item: str,
    folder: str | Path | None = None,
    batch_size: Positive = 64,
    append: bool = False,
) -> EncodedItems:
    """Write ``out/items.parquet``: the item table with a column of vectors per task, null where an input is missing.

    Args:
        items: the item table, see :func:`~fuxictr_mm.prepare.reading.read_table`.
        out: folder to write; what it has of the same models is used again.
        tasks: of :class:`~fuxictr_mm.encode.inputs.Task`.
        item: the table's column of ids.
        folder: where relative paths of pictures begin; default: the folder of ``items``.
        batch_size: inputs per call of a model.
        append: keep the items that ``out`` has and add those of other ids.

    Raises:
        DataError: a column is missing, ids repeat, or no item has an input.
        ConfigError: a model cannot be loaded, ``out`` has vectors of another one, or tasks do not go together.
    """
    out = Path(out)
    if not tasks:
        raise ConfigError("nothing to encode; give at least one --text or --image.")
    frame = _with_ids(read_table(items, as_text=(item,)), item)
    taken = [task.name for task in tasks]
    for name in taken:
        if taken.count(name) > 1 or name in frame.columns:
            raise ConfigError(f"two columns would be called {name!r}; name one anew: --text other_name:SOURCE=MODEL.")
    if folder is None:
        first = items[0] if isinstance(items, list | tuple) else items
        folder = Path(first).parent if isinstance(first, str | Path) else Path()
    before = None
    if append:
        if not (out / TABLE).is_file():
            raise ConfigError(f"--append: {out / TABLE} is not there; leave --append out the first time.")
        before = pl.read_parquet(out / TABLE)
        if before.columns != [*frame.columns, *taken]:
            raise ConfigError(
                f"--append: {out / TABLE} has the columns {before.columns}, expected {[*frame.columns, *taken]}."
            )
    out.mkdir(parents=True, exist_ok=True)
    with only_one(out / ".lock", f"another encode into {out}"):
        return _encode(frame, out, tasks, item, Path(folder), batch_size, before)


def _encode(
    frame: pl.DataFrame,
    out: Path,
    tasks: Sequence[Task],
    item: str,
    folder: Path,
    batch_size: int,
    before: pl.DataFrame | None,
) -> EncodedItems:
    notes = []
    if before is not None:
        is_known = frame[item].cast(before[item].dtype, strict=False).is_in(before[item].implode())
        if is_known.any():
            notes.append(f"{is_known.sum():,} items were there and are kept as they were")
        frame = frame.filter(~is_known)
        if not frame.height:
            return EncodedItems(out / TABLE, before.height, [*notes, "no new item"])
    columns = []
    for task in tasks:
        column, note = _column(task, frame, out / task.name, folder, batch_size)
        columns.append(column)
        notes.append(note)
    table = frame.with_columns(columns)
    if before is not None:
        table = pl.concat([before, table.cast(before.schema)])
    with atomic_write(out / TABLE) as temporary:
        table.write_parquet(temporary)
    return EncodedItems(out / TABLE, table.height, notes)


def _column(task: Task, frame: pl.DataFrame, store: Path, folder: Path, batch_size: int) -> tuple[pl.Series, str]:
    inputs = Inputs.of(task, frame, folder)
    encoder = load_encoder(task.model, task.kind)
    _check_about(store, task, encoder)
    vectors = dict(_stored(store))
    missing = [digest for digest in inputs.by_digest if digest not in vectors]
    reused, unreadable = len(inputs.by_digest) - len(missing), 0
    with tqdm(total=len(missing), desc=task.name, unit=f" {task.kind}s", disable=None) as bar:
        for start in range(0, len(missing), SHARD):
            made: dict[bytes, np.ndarray] = {}
            shard = missing[start : start + SHARD]
            for first in range(0, len(shard), batch_size):
                batch = shard[first : first + batch_size]
                values = [inputs.by_digest[digest] for digest in batch]
                if task.kind == "image":
                    values = [open_picture(path) for path in values]
                kept = [(digest, value) for digest, value in zip(batch, values) if value is not None]
                unreadable += len(batch) - len(kept)
                if kept:
                    rows = as_vectors(encoder.encode([value for _, value in kept]), len(kept), task.model)
                    made |= {digest: row for (digest, _), row in zip(kept, rows)}
                bar.update(len(batch))
            if made:
                _write_shard(store, made)
                vectors |= made
    if not any(digest in vectors for digest in inputs.by_digest):
        raise DataError(
            f"--{task.kind} {task.source}: none of {len(inputs.by_digest):,} files is a picture; check the paths."
        )
    of_items = [vectors.get(digest) if digest is not None else None for digest in inputs.digests]
    width, made_now = len(next(one for one in of_items if one is not None)), len(missing) - unreadable
    note = (
        f"{task.name}: width {width}, by {encoder.model} ({encoder.revision}): {made_now:,} {task.kind}s "
        f"encoded, {reused:,} used again; null for {sum(one is None for one in of_items):,} items "
        f"({inputs.absent:,} without an input, {unreadable:,} files unreadable)"
    )
    column = pl.from_arrow(pa.array(of_items, pa.list_(pa.float32())))
    assert isinstance(column, pl.Series)
    return column.alias(task.name), note


def _check_about(store: Path, task: Task, encoder: Encoder) -> None:
    about = {"model": encoder.model, "revision": encoder.revision, "kind": task.kind}
    path = store / "about.json"
    if not path.is_file():
        store.mkdir(parents=True, exist_ok=True)
        write_json(path, about)
        return
    found = read_json(dict[str, str], path, f"remove {store}, and its vectors are made again")
    if found != about:
        raise ConfigError(
            f"{store}: has vectors of {found.get('model')} ({found.get('revision')}), but {encoder.model} "
            f"({encoder.revision}) is asked for; choose another folder, or remove this one."
        )


def _stored(store: Path) -> Iterator[tuple[bytes, np.ndarray]]:
    for path in sorted(store.glob("*.parquet")):
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as err:
            raise DataError(f"{path}: cannot be read ({err}); remove it, and its vectors are made again.") from err
        vectors = np.stack(table.column("vector").to_numpy())
        yield from zip(table.column("digest").to_pylist(), vectors)


def _write_shard(store: Path, made: dict[bytes, np.ndarray]) -> None:
    table = pa.table({"digest": list(made), "vector": pa.array(list(made.values()), pa.list_(pa.float32()))})
    last = max((int(path.stem) for path in store.glob("*.parquet")), default=-1)
    with atomic_write(store / f"{last + 1:06}.parquet") as temporary:
        pq.write_table(table, temporary)


def _with_ids(frame: pl.DataFrame, item: str) -> pl.DataFrame:
    """Ids of text that are all whole numbers become such, so that they meet those of any log."""
    if item not in frame.columns:
        raise DataError(f"the items have no column {item!r} (item); found {frame.columns}.")
    if nulls := frame[item].null_count():
        raise DataError(f"the items: {nulls:,} have no {item!r}; every item needs its id.")
    frame = one_row_per_item(frame, item)
    return frame.with_columns(frame[item].cast(pl.Int64)) if are_numbers_as_text(frame[item]) else frame
