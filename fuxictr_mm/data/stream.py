"""Rows of a split that stay on disk: checked and arranged once, then read in blocks, so that memory is bounded.

Apart from the rows that training holds, because nothing but this knows of files that are written for speed.

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
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.contract import CHUNK_ROWS, iter_whole_split
from fuxictr_mm.data.order import EpochOrder
from fuxictr_mm.data.rows import RowDigest, Rows, arrange, arrange_split, column_types, length_type
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import atomic_write, file_fingerprint, open_parquet

__all__ = ["BLOCK_ROWS", "StreamedRows", "stream_split"]

FORMAT = "fuxictr_mm rows 1"
# What is read at once: about 0.4 MB where histories have 8 items, 1.8 MB where they have 50.
BLOCK_ROWS = 8_192
WINDOW_ROWS = 1 << 20
WINDOW_BYTES = 128 << 20
ITEMS, LENGTHS = "/items", "/lengths"  # beside the columns, whose names a user chose


class StreamedRows:
    """The rows of one arranged file.

    A file is its blocks one after the other, then a JSON that says what is in them, then the length of that JSON. A
    block is the bytes of its arrays: items, lengths, and each column.

    Args:
        path: what :func:`stream_split` has written.

    Attributes:
        fingerprint: equal to that of the same rows in memory.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                end = file.seek(-8, os.SEEK_END)
                file.seek(-8 - int(np.frombuffer(file.read(8), "<u8")[0]), os.SEEK_END)
                start = file.tell()
                about: dict[str, Any] = json.loads(file.read(end - start))
            if about["format"] != FORMAT or about["ends"][-1] != start:
                raise ValueError(f"format {about['format']!r}, {start:,} bytes of rows")
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as err:
            raise self._damaged(err) from err
        self.fingerprint: str = about["digest"]
        self._n_rows: int = about["rows"]
        self._group: str | None = about["group"]
        self._types = {name: np.dtype(kind) for name, kind in about["types"].items()}
        self._ends = np.array([0, *about["ends"]], np.int64)
        self._sums: list[int] = about["sums"]
        per_row = -(-start // self._n_rows)
        self.window_rows = min(WINDOW_ROWS, max(WINDOW_BYTES // per_row, BLOCK_ROWS), self._n_rows)

    def __len__(self) -> int:
        return self._n_rows

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as in :class:`~fuxictr_mm.data.rows.Rows`."""
        return [name for name in self._types if name not in (ITEMS, LENGTHS)]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def windows(self, order: EpochOrder, start: int) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield the rows of an epoch from its row number ``start`` on: rows, and the order in which they come.

        All but the last are whole batches, if ``start`` is a multiple of the batch size. What lies before ``start`` is
        not read, but for the rest of the window in which it is.
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
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._types}
        with open(self.path, "rb", buffering=0) as file:
            for at in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
                arrays = self._block(file, int(blocks[at]))
                begin = ends[at] - len(arrays[LENGTHS])  # rows of the epoch before this block
                low, high = max(first - begin, 0), min(stop - begin, len(arrays[LENGTHS]))
                place = np.cumsum([0, *(arrays[LENGTHS].astype(np.int64) + 1)])
                for name, values in arrays.items():
                    rows = slice(place[low], place[high]) if name == ITEMS else slice(low, high)
                    parts[name].append(values[rows])
        whole = {name: np.concatenate(parts.pop(name)) for name in self._types}
        return arrange(whole.pop(ITEMS), whole.pop(LENGTHS), whole, self._group)

    def _block(self, file: Any, number: int) -> dict[str, np.ndarray]:
        start, stop = self._ends[number : number + 2].tolist()
        content = os.pread(file.fileno(), stop - start, start)
        if zlib.crc32(content) != self._sums[number]:
            raise self._damaged(f"block {number} differs from its sum")
        n_rows = min(BLOCK_ROWS, self._n_rows - number * BLOCK_ROWS)
        fixed = n_rows * sum(kind.itemsize for name, kind in self._types.items() if name != ITEMS)
        arrays, at = {}, 0
        for name, kind in self._types.items():
            count = (len(content) - fixed) // kind.itemsize if name == ITEMS else n_rows
            arrays[name] = np.frombuffer(content, kind, count, at)
            at += count * kind.itemsize
        return arrays

    def _damaged(self, reason: Any) -> DataError:
        return DataError(
            f"{self.path}: not a whole file of rows ({reason}); delete it, and the next run builds it anew."
        )


def stream_split(
    path: str | Path, schema: DatasetSchema, item_ids: np.ndarray, folder: str | Path, *, require_label: bool
) -> StreamedRows:
    """Check a split and arrange it in a file, or open the file that the same split, schema and items gave before.

    Args:
        path: parquet file of the split.
        schema: roles of the columns.
        item_ids: see :func:`~fuxictr_mm.data.contract.iter_whole_split`.
        folder: where ``<name of the split file>-<fingerprint>.rows`` is kept.
        require_label: whether a file without label column is refused.

    Raises:
        DataError: the split breaks the contract, or its arranged file is damaged.
        ConfigError: the file cannot be written.
    """
    path = Path(path)
    names = open_parquet(path).schema_arrow.names
    label = require_label or schema.label_col in names
    types = {ITEMS: np.dtype(np.int32), LENGTHS: length_type(schema.max_len), **column_types(schema, label=label)}
    described = {name: kind.str for name, kind in types.items()}
    roles = [schema.item_col, schema.history_col, schema.max_len, schema.group_id, schema.label_col]
    items = hashlib.blake2b(np.ascontiguousarray(item_ids).data, digest_size=8).hexdigest()
    key = json.dumps([FORMAT, BLOCK_ROWS, file_fingerprint(path), roles, described, _ranges(schema), items])
    file = Path(folder) / f"{path.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.rows"
    if not file.exists():
        logging.info(f"{path.name}: checked and arranged once for streaming, in {file}")
        chunks = iter_whole_split(path, schema, item_ids, require_label=require_label)
        parts = (arrange_split(chunk, schema) for chunk in chunks)
        about = {"format": FORMAT, "types": described, "group": schema.group_id}
        try:
            with atomic_write(file) as temporary:
                _write(temporary, parts, about)
        except OSError as err:
            raise ConfigError(
                f"{file}: cannot be written ({err.strerror or err}); stream: True needs room there for "
                "4 bytes per history item and about 20 per row, so make room or move data_root."
            ) from err
    return StreamedRows(file)


def _ranges(schema: DatasetSchema) -> list[int | None]:
    """What the contract checks of context columns, beside their types: a file that has passed has passed for these."""
    return [column.vocab_size for column in schema.context_columns]


def _write(path: Path, parts: Iterator[Rows], about: dict[str, Any]) -> None:
    digest = RowDigest()
    ends: list[int] = []
    sums: list[int] = []
    n_rows = 0
    assert CHUNK_ROWS % BLOCK_ROWS == 0  # only the last block of a file may be short
    with open(path, "wb") as stream:
        for part in parts:
            n_rows += len(part)
            items = part.items.numpy()
            columns = {name: values.numpy() for name, values in part.columns.items()}
            digest.update(items, part.lengths, part.columns, part.group)
            ends_of_rows = np.concatenate([np.zeros(1, np.int64), part.end.numpy()])
            for start in range(0, len(part), BLOCK_ROWS):
                rows = slice(start, min(start + BLOCK_ROWS, len(part)))
                arrays = [items[ends_of_rows[rows.start] : ends_of_rows[rows.stop]], part.lengths[rows]]
                arrays += [columns[name][rows] for name in about["types"] if name in columns]
                content = b"".join(values.tobytes() for values in arrays)
                stream.write(content)
                sums.append(zlib.crc32(content))
                ends.append(stream.tell())
        footer = json.dumps({**about, "rows": n_rows, "ends": ends, "sums": sums, "digest": digest.hexdigest()})
        stream.write(footer.encode() + len(footer.encode()).to_bytes(8, "little"))
