"""From rows to batches, whether the rows are a whole split (training) or a chunk of a file (prediction)."""

from collections.abc import Iterator

import numpy as np
import torch

from fuxictr_mm.batch import ItemColumns, RaggedBatch
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.rows import Rows

__all__ = ["ROWS_AT_ONCE", "BatchGatherer"]

# Rows that are gathered together: enough for a call to cost little, few enough for the caches.
ROWS_AT_ONCE = 4096


class BatchGatherer:
    """Turns rows into batches.

    Args:
        columns: the items that the rows' item indices point into.
        schema: roles of the columns.
        trim: a batch is as long as its longest history; False: as ``schema.max_len``.
    """

    def __init__(self, columns: ItemColumns, schema: DatasetSchema, *, trim: bool = True) -> None:
        self._columns = columns
        self._width = None if trim else schema.max_len
        self._types = {column.name: torch.int32 for column in schema.context_columns if column.type != "numeric"}
        self._types |= {schema.label_col: torch.float32}
        if schema.group_id is not None:
            self._types[schema.group_id] = torch.int64

    def batches(self, rows: Rows, order: np.ndarray, batch_size: int) -> Iterator[RaggedBatch]:
        """Yield the batches of some rows, on the device where the rows are; the last one may be smaller.

        Small batches are gathered many at a time and then cut: what a call costs is paid once for all of them. Nothing
        here waits for the device: every size follows from the lengths on the CPU.

        Args:
            rows: N rows.
            order: (M,) int row numbers.
            batch_size: rows per batch.
        """
        order_on_device = torch.from_numpy(order).to(rows.items.device)
        at_once = max(ROWS_AT_ONCE // batch_size, 1) * batch_size
        for start in range(0, len(order), at_once):
            chosen = slice(start, start + at_once)
            yield from self._gather(rows, order[chosen], order_on_device[chosen], batch_size)

    def _gather(self, rows: Rows, chosen: np.ndarray, at: torch.Tensor, batch_size: int) -> Iterator[RaggedBatch]:
        lengths = rows.lengths[chosen]
        at_host = torch.from_numpy(chosen)
        on_cpu = at.device.type == "cpu"
        lengths_B = torch.from_numpy(lengths) if on_cpu else rows.lengths_on_device.index_select(0, at)
        starts = np.arange(0, len(chosen), batch_size)
        widths = np.maximum.reduceat(lengths, starts).clip(1) if self._width is None else [self._width] * len(starts)
        counts = np.add.reduceat(lengths, starts, dtype=np.int64) + np.diff(starts, append=len(chosen))
        total = int(counts.sum())
        count_B = lengths_B.int() + 1
        # Where the items of a row begin in `rows.items`, less where they begin here.
        shift_B = rows.end.index_select(0, at) - count_B.cumsum(0, dtype=rows.end.dtype)
        place = torch.repeat_interleave(shift_B, count_B, output_size=total)
        place += torch.arange(total, dtype=place.dtype, device=place.device)
        ids = rows.items.index_select(0, place).split(counts.tolist())
        context = []
        for name, column in rows.columns.items():
            values = column.index_select(0, at_host if name == rows.group else at)
            context.append(values.to(self._types.get(name, values.dtype)).split(batch_size))
        parts = zip(ids, lengths_B.split(batch_size), widths, zip(*context) if context else [()] * len(ids))
        for ids_of_batch, lengths_of_batch, width, values_of_batch in parts:
            named = dict(zip(rows.columns, values_of_batch))
            yield RaggedBatch(named, ids_of_batch, lengths_of_batch, int(width), self._columns)
