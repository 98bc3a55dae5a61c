"""Rows of a split that stay on disk: checked and arranged once in an Arrow IPC file, then read block by block.

Block shuffle. The file is cut into blocks of :data:`BLOCK_ROWS` consecutive rows. An epoch takes the blocks in random
order, puts as many together as make a window (:data:`WINDOW_ROWS`, 128 blocks, or fewer rows where they are long), and
shuffles all rows of the window. Each row comes exactly once. A split of up to one window is shuffled as thoroughly as
in memory; in a longer one, a row meets only rows of the 128 blocks that chance has put into its window, which are
others in every epoch. That differs from a full shuffle as far as neighbours in the file are alike: in a file sorted by
user or by day, the rows of a window come from 128 places and not from everywhere.
"""

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.contract import CHUNK_ROWS, iter_whole_split
from fuxictr_mm.data.order import EpochOrder
from fuxictr_mm.data.rows import RowDigest, Rows, arrange, arrange_split, column_types, length_type
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import atomic_write, remove_leftovers
from fuxictr_mm.parquet import Unchanged, open_parquet, table_fingerprint

__all__ = ["BLOCK_ROWS", "StreamedRows", "stream_split"]

FORMAT = "fuxictr_mm rows 2"
_WILD = re.compile(r"[^-.0-9A-Za-z_]")
# What is read at once: about 0.4 MB where histories have 8 items, 1.8 MB where they have 50.
BLOCK_ROWS = 8_192
WINDOW_ROWS = 1 << 20
WINDOW_BYTES = 128 << 20


class StreamedRows:
    """The rows of one arranged file.

    The file has one record batch per block. The first column holds the list of a row's items (its history, oldest
    first, then its target), the others are the columns of :class:`~fuxictr_mm.data.rows.Rows` in their narrow types.
    The last batch has no rows: its metadata describes the file in JSON and holds the CRC-32 of every block, because
    Arrow IPC has no checksums.

    Args:
        path: what :func:`stream_split` has written.

    Attributes:
        columns: names of the columns.
        fingerprint: equal to that of the same rows in memory.
        window_rows: rows that are held at a time.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                n_blocks = reader.num_record_batches - 1
                _, metadata = reader.get_batch_with_custom_metadata(n_blocks)
                text, fields = metadata["about"], _described(reader.schema)
            about: dict[str, Any] = json.loads(text)
            if (about["format"], about["fields"], len(about["sums"])) != (FORMAT, fields, n_blocks):
                raise ValueError(f"format {about['format']!r}, {n_blocks} of {len(about['sums'])} blocks")
            if zlib.crc32(text) != int(metadata["sum"]):
                raise ValueError("its description differs from its sum")
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as err:
            raise self._damaged(err) from err
        self.columns = [name for name, _ in fields[1:]]
        self.fingerprint: str = about["digest"]
        self._n_rows: int = about["rows"]
        self._group: str | None = about["group"]
        self._length_type = np.dtype(about["length_type"])
        self._sums: list[int] = about["sums"]
        per_row = -(-about["bytes"] // self._n_rows)
        self.window_rows = min(WINDOW_ROWS, max(WINDOW_BYTES // per_row, BLOCK_ROWS), self._n_rows)

    def __len__(self) -> int:
        return self._n_rows

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def windows(self, order: EpochOrder, start: int) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield the rows of an epoch from its row number ``start`` on: rows, and the order in which they come.

        All but the last are whole batches, if ``start`` is a multiple of the batch size. Windows that end before
        ``start`` are not read.
        """
        size = max(self.window_rows // order.batch_size, 1) * order.batch_size
        blocks = order.of_blocks(len(self._sums))
        counts = np.full(len(blocks), BLOCK_ROWS)
        counts[-1] = self._n_rows - BLOCK_ROWS * (len(blocks) - 1)
        ends = np.cumsum(counts[blocks])
        for number in range(start // size, -(-self._n_rows // size) if start < self._n_rows else 0):
            first, stop = number * size, min((number + 1) * size, self._n_rows)
            rows = self._read(blocks, ends, first, stop)
            yield rows, order.of_rows(rows.lengths, number)[max(start - first, 0) :]
            del rows  # nor does who asks for the next window keep it: not two at a time

    def _read(self, blocks: np.ndarray, ends: np.ndarray, first: int, stop: int) -> Rows:
        """Rows ``first`` to ``stop`` of the file whose blocks are put one after the other as ``blocks`` says."""
        parts = []
        # Mapped anew for each window: all that was read through a map counts as this process's memory till it closes.
        with pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            for at in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
                block = self._block(reader, int(blocks[at]))
                begin = int(ends[at]) - len(block)  # rows of the epoch before this block
                parts.append(block[max(first - begin, 0) : min(stop - begin, len(block))])
        lists = [part.column(0) for part in parts]
        items = np.concatenate([chunk.flatten().to_numpy() for chunk in lists])
        lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in lists]) - 1
        columns = {
            name: np.concatenate([part.column(at).to_numpy() for part in parts])
            for at, name in enumerate(self.columns, start=1)
        }
        return arrange(items, lengths.astype(self._length_type), columns, self._group)

    def _block(self, reader: pa.ipc.RecordBatchFileReader, number: int) -> pa.RecordBatch:
        try:
            block = reader.get_batch(number)
            block.validate(full=True)  # else an offset that points outside would end the process
        except (pa.ArrowException, OSError) as err:
            raise self._damaged(f"block {number}: {err}") from err
        if _sum(block) != self._sums[number]:
            raise self._damaged(f"block {number} differs from its sum")
        return block

    def _damaged(self, reason: Any) -> DataError:
        first_line = str(reason).partition("\n")[0]
        return DataError(
            f"{self.path}: not a whole file of rows ({first_line}); delete it, and the next run builds it anew."
        )


def stream_split(
    path: str | Path, schema: DatasetSchema, item_ids: np.ndarray, folder: str | Path, *, require_label: bool
) -> StreamedRows:
    """Check a split and arrange it in a file, or open the file that the same split, schema and items gave before.

    Args:
        path: of the split, see :func:`~fuxictr_mm.parquet.parts_of`.
        schema: roles of the columns.
        item_ids: see :func:`~fuxictr_mm.data.contract.iter_whole_split`.
        folder: where ``<name of the split file>-<fingerprint>.arrow`` is kept.
        require_label: whether a file without label column is refused.

    Raises:
        DataError: the split breaks the contract, or its arranged file is damaged.
        ConfigError: the file cannot be written.
    """
    path = Path(path)
    names = open_parquet(path).schema_arrow.names
    label = require_label or schema.label_col in names
    types = column_types(schema, label=label)
    # The items come first and are found by their place: a column may have their name.
    fields = [("items", pa.list_(pa.int32())), *((name, pa.from_numpy_dtype(kind)) for name, kind in types.items())]
    arrow = pa.schema(fields)
    roles = [schema.item_col, schema.history_col, schema.max_len, schema.group_id, schema.label_col]
    items = hashlib.blake2b(np.ascontiguousarray(item_ids).data, digest_size=8).hexdigest()
    is_current, digest = Unchanged([path]), table_fingerprint(path)
    key = json.dumps([FORMAT, BLOCK_ROWS, digest, roles, _described(arrow), _ranges(schema), items])
    file = (
        Path(folder) / f"{_WILD.sub('_', path.stem)}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.arrow"
    )
    if not file.exists():
        logging.info(f"{path.name}: checked and arranged once for streaming, in {file}")
        chunks = iter_whole_split(path, schema, item_ids, require_label=require_label)
        parts = (arrange_split(chunk, schema) for chunk in chunks)
        about = {"format": FORMAT, "group": schema.group_id, "length_type": length_type(schema.max_len).str}
        remove_leftovers(file.parent)
        try:
            with atomic_write(file) as temporary:
                _write(temporary, parts, arrow, about)
                if not is_current():
                    raise DataError(f"{path}: was replaced while it was read; run it again.")
        except OSError as err:
            raise ConfigError(
                f"{file}: cannot be written ({err.strerror or err}); stream: True needs room there for "
                "4 bytes per history item and about 20 per row, so make room or move data_root."
            ) from err
    return StreamedRows(file)


def _ranges(schema: DatasetSchema) -> list[list[Any]]:
    """What the values of context columns depend on besides their types; an arranged file is for these only."""
    return [[column.vocab_size, column.scaling] for column in schema.context_columns]


def _write(path: Path, parts: Iterator[Rows], schema: pa.Schema, about: dict[str, Any]) -> None:
    digest = RowDigest()
    sums: list[int] = []
    n_rows = n_bytes = 0
    assert CHUNK_ROWS % BLOCK_ROWS == 0  # only the last block of a file may be short
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in parts:
            digest.update(part)
            n_rows += len(part)
            n_bytes += part.nbytes - part.end.nbytes
            offsets = np.concatenate([np.zeros(1, np.int32), part.end.numpy()])
            columns = [part.columns[name].numpy() for name in schema.names[1:]]
            arrays = [pa.ListArray.from_arrays(offsets, part.items.numpy()), *map(pa.array, columns)]
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
            for start in range(0, len(part), BLOCK_ROWS):
                block = batch[start : start + BLOCK_ROWS]
                writer.write_batch(block)
                sums.append(_sum(block))
        about |= {
            "fields": _described(schema),
            "rows": n_rows,
            "bytes": n_bytes,
            "sums": sums,
            "digest": digest.hexdigest(),
        }
        # Only now is all of it known, and a schema's metadata would have to be written first.
        text = json.dumps(about)
        end = pa.RecordBatch.from_pylist([], schema=schema)
        writer.write_batch(end, custom_metadata={"about": text, "sum": str(zlib.crc32(text.encode()))})


def _described(schema: pa.Schema) -> list[list[str]]:
    """Name and type of each field."""
    return [[field.name, str(field.type)] for field in schema]


def _sum(block: pa.RecordBatch) -> int:
    """CRC-32 of all values of a block."""
    items, *columns = block.columns
    total = 0
    for values in (items.value_lengths(), items.flatten(), *columns):
        total = zlib.crc32(values.to_numpy(), total)
    return total
