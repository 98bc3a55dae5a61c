"""Batches of ids, from rows in memory or on disk: a few operations per batch, no Python per row."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from fuxictr.pytorch.torch_utils import get_device

from fuxictr_mm.batch import ItemColumns, MultimodalBatch
from fuxictr_mm.config.keys import Gpu, NonNegative, Positive, Seed, check_arguments
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.gather import BatchGatherer
from fuxictr_mm.data.order import EpochOrder
from fuxictr_mm.data.rows import Rows, read_rows
from fuxictr_mm.data.stream import StreamedRows, stream_split
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.table import ItemTable, read_item_info

__all__ = ["MMCTRDataLoader", "item_columns", "named_item_table"]

# Item columns in use: the loaders of one run share them.
_SHARED: WeakValueDictionary[tuple[str, ...], ItemColumns] = WeakValueDictionary()


class MMCTRDataLoader:
    """Iterate over a split in :class:`~fuxictr_mm.batch.RaggedBatch`; takes the challenge loader's arguments.

    Rows are held as ids, histories ragged, on the device that trains if half of its free memory suffices. Item columns
    lie there once, for all loaders of a run. A batch is as long as its longest history. Every epoch has an order of its
    own that follows from ``seed`` alone.

    Args:
        feature_map: the host's ``FeatureMap``. If ``MultimodalFeatureProcessor`` made it, it names the item table.
        data_path: parquet file of the split, a folder or a glob of parts, see
            :func:`~fuxictr_mm.parquet.parts_of`; ``.parquet`` may be left out.
        item_info: the challenge's ready-made item table, used where the feature map names none.
        batch_size: rows per batch; the last batch may be smaller.
        shuffle: a new order every epoch.
        num_workers: of the challenge's loader; gathering needs no worker processes, so none are started.
        max_len: longest history kept, counted from the latest item.
        split: ``"train"``, ``"valid"`` or ``"test"``; only a test file may come without labels.
        seed: of the order.
        trim: False pads every batch to ``max_len``, as the challenge's loader does; only a model with
            ``padding_mask: as_published`` can tell the difference.
        stream: keep the rows on disk, for a split that memory does not hold: it is checked and arranged once in a file
            beside the feature map, and shuffled by blocks, see :mod:`~fuxictr_mm.data.stream`.
        length_buckets: make batches of rows whose histories are about equally long, so that little is padding; see
            :meth:`EpochOrder.of_rows <fuxictr_mm.data.order.EpochOrder.of_rows>`. Rows that are not shuffled keep
            their order.
        gpu: the host's number of the device that trains; -1 is the CPU.
        similarity: of the model: the columns that it compares. Others that are only compared are not gathered.
        kwargs: further YAML keys; ``item_col`` and ``history_col`` name the columns, the rest is not for the loader.

    Attributes:
        num_samples: rows of the split.
        num_blocks: 1, the host's word for "one file".
        schema: the roles of the columns.
        columns: of the items, as batches gather them.
        training: the file in terms of the item table, for who asks it as a training split.
        has_label: whether the split can be evaluated.
        epoch: number of the epoch that the next iteration gives.

    Raises:
        DataError: the split breaks the data contract.
        ConfigError: an argument has a wrong value, there is no item table to read, or the rows do not fit into memory.
    """

    num_blocks = 1

    @check_arguments
    def __init__(
        self,
        feature_map: Any,
        data_path: str | Path,
        item_info: str | Path | None = None,
        batch_size: Positive = 32,
        shuffle: bool = False,
        num_workers: NonNegative = 1,
        max_len: Positive = 100,
        *,
        split: str = "train",
        seed: Seed = 20242025,
        trim: bool = True,
        stream: bool = False,
        length_buckets: bool = False,
        gpu: Gpu = -1,
        similarity: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        path = Path(data_path)
        schema = DatasetSchema.from_feature_map(feature_map, max_len=max_len, **kwargs)
        table = _open_item_table(feature_map, schema, item_info)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.max_len = max_len
        self.seed = seed
        self.trim = trim
        self.length_buckets = length_buckets
        self.epoch = 0
        self.schema = schema
        self.training = TrainingSplit(path, schema, table.index_of, table.n_items)
        self._device = get_device(gpu)
        self.columns = item_columns(table, schema, similarity)
        self._gatherer = BatchGatherer(self.columns, schema, trim=trim)
        self._rows: Rows | StreamedRows
        required = split != "test"
        if stream:
            self._rows = stream_split(path, schema, table.item_ids, feature_map.data_dir, require_label=required)
            held = f"streamed from {self._rows.path}, {self._rows.window_rows:,} rows at a time"
        else:
            rows = read_rows(path, schema, table.item_ids, require_label=required)
            if not _fits(rows.nbytes, self._device):
                self._device = torch.device("cpu")
            self._rows = rows.to(self._device)
            held = f"resident on {self._device}"
        self.num_samples = len(self._rows)
        self.has_label = schema.label_col in self._rows.columns
        size = self._rows.nbytes
        share = size / self.num_samples
        logging.info(f"{path.name}: {self.num_samples:,} rows {held}: {size / 1e6:,.1f} MB, {share:.1f} bytes per row")

    def __len__(self) -> int:
        return (self.num_samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[MultimodalBatch]:
        return self.iterate()

    def iterate(self, start: int = 0) -> Iterator[MultimodalBatch]:
        """Yield the batches of epoch ``self.epoch`` from batch number ``start`` on; then it is the next epoch's turn.

        Setting ``epoch`` first gives the rest of any epoch, exactly as an iteration over all of it would.
        """
        key = (self.seed, self.epoch) if self.shuffle else None
        epoch = EpochOrder(self.batch_size, key, self.length_buckets)
        self.epoch += 1
        for rows, order in self._rows.windows(epoch, start * self.batch_size):
            on_device = rows if rows.items.device == self._device else rows.to(self._device)
            yield from self._gatherer.batches(on_device, order, self.batch_size)
            del rows, on_device  # not two windows at a time

    def in_file_order(self, *columns: str) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the item index of every target and then ``columns``, in the order of the file, part by part.

        Args:
            columns: context, group or label columns.
        """
        for rows, order in self._rows.windows(EpochOrder(self.batch_size, None), 0):
            targets = rows.items[rows.end.long() - 1]
            yield tuple(values.cpu().numpy()[order] for values in (targets, *(rows.columns[n] for n in columns)))

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of what the batches are gathered from: targets, histories, context and labels."""
        return self._rows.fingerprint


def item_columns(table: ItemTable, schema: DatasetSchema, compared: Sequence[str] = ()) -> ItemColumns:
    """The columns of a table that batches need; the same object while anybody uses that of a file.

    Those are the columns of ``schema``, but of ``type: meta`` only those that are ``compared``; and the item id where
    vectors are trained, for they are found by it.
    """
    names = [column.name for column in schema.item_columns if column.type != "meta" or column.name in compared]
    if schema.item_col not in names and not all(column.freeze_emb for column in schema.item_columns):
        names.append(schema.item_col)
    files = [table.path, *(table.stored[name].path for name in names if name != table.item_col)]
    scaled = {column.name: column for column in schema.item_columns if column.scaling is not None}
    key = (*names, *map(str, files), *(f"{name} {column.scaling}" for name, column in scaled.items()))
    is_stored = None not in files
    if is_stored and (shared := _SHARED.get(key)) is not None:
        return shared
    arrays = {name: np.asarray(table.columns[name]) for name in names}
    for name in scaled.keys() & arrays.keys():
        arrays[name] = np.concatenate([arrays[name][:1], scaled[name].scaled(arrays[name][1:])])
    columns = ItemColumns({name: torch.from_numpy(values) for name, values in arrays.items()})
    if is_stored:
        _SHARED[key] = columns
    return columns


def _fits(nbytes: int, device: torch.device) -> bool:
    return device.type != "cuda" or nbytes < torch.cuda.mem_get_info(device)[0] // 2


def named_item_table(feature_map: Any) -> ItemTable | None:
    """Open the item table that a feature map of ``MultimodalFeatureProcessor`` names; ``None``: it names none.

    Raises:
        DataError: a file of it is missing or damaged.
    """
    folder = Path(feature_map.data_dir)
    ids = {spec["item_ids"] for spec in feature_map.features.values() if "item_ids" in spec}
    columns = {name: spec["item_column"] for name, spec in feature_map.features.items() if "item_column" in spec}
    return ItemTable.load(folder / ids.pop(), {name: folder / columns[name] for name in columns}) if ids else None


def _open_item_table(feature_map: Any, schema: DatasetSchema, item_info: str | Path | None) -> ItemTable:
    if (table := named_item_table(feature_map)) is not None:
        return table
    if item_info is None:
        raise ConfigError(
            "the feature map names no item table and 'item_info' is not set; build the features with "
            "MultimodalFeatureProcessor, or pass the path of the item table as item_info."
        )
    return read_item_info(item_info, schema)
