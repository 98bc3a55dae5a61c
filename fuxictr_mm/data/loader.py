"""Batches by indexing: contiguous arrays, one gather per column, no Python per row."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.data.contract import Split, read_split
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.item_table import ItemTable, read_item_info
from fuxictr_mm.schema import DatasetSchema

__all__ = ["BatchGatherer", "MMCTRDataLoader", "named_item_table"]


class MMCTRDataLoader:
    """Iterate over a split in :class:`~fuxictr_mm.batch.MultimodalBatch`; takes the challenge loader's arguments.

    Histories are stored ragged and a batch is as long as its longest history. Every epoch has an order of its own that
    follows from ``seed`` alone.

    Args:
        feature_map: the host's ``FeatureMap``. If ``MultimodalFeatureProcessor`` made it, it names the item table.
        data_path: parquet file of the split; ``.parquet`` is added where it is missing.
        item_info: the challenge's ready-made item table, used where the feature map names none.
        batch_size: rows per batch; the last batch may be smaller.
        shuffle: a new order every epoch.
        num_workers: of the challenge's loader; gathering needs no worker processes, so none are started.
        max_len: longest history kept, counted from the latest item.
        split: ``"train"``, ``"valid"`` or ``"test"``; only a test file may come without labels.
        seed: of the order.
        trim: False pads every batch to ``max_len``, as the challenge's loader does; only a model with
            ``padding_mask: as_published`` can tell the difference.
        kwargs: further YAML keys; ``item_col`` and ``history_col`` name the columns, the rest is not for the loader.

    Attributes:
        num_samples: rows of the split.
        num_blocks: 1, the host's word for "one file".
        has_label: whether the split can be evaluated.

    Raises:
        DataError: the split breaks the data contract.
        ConfigError: there is no item table to read.
    """

    num_blocks = 1

    def __init__(
        self,
        feature_map: Any,
        data_path: str | Path,
        item_info: str | Path | None = None,
        batch_size: int = 32,
        shuffle: bool = False,
        num_workers: int = 1,
        max_len: int = 100,
        *,
        split: str = "train",
        seed: int = 20242025,
        trim: bool = True,
        **kwargs: Any,
    ) -> None:
        path = Path(data_path)
        if path.suffix != ".parquet":
            path = path.with_name(path.name + ".parquet")
        schema = DatasetSchema.from_feature_map(feature_map, max_len=max_len, **kwargs)
        table = _open_item_table(feature_map, schema, item_info)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.max_len = max_len
        self.seed = seed
        self.trim = trim
        self.epoch = 0
        self._split: Split = read_split(path, schema, table.item_ids, require_label=split != "test")
        self._gatherer = BatchGatherer(table, schema, trim=trim)
        self.num_samples = len(self._split)
        self.has_label = self._split.label is not None

    def __len__(self) -> int:
        return (self.num_samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[MultimodalBatch]:
        return self.iterate()

    def iterate(self, start: int = 0) -> Iterator[MultimodalBatch]:
        """Yield the batches of epoch ``self.epoch`` from batch number ``start`` on; then it is the next epoch's turn.

        Setting ``epoch`` first gives the rest of any epoch, exactly as an iteration over all of it would.
        """
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        self.epoch += 1
        for row in range(start * self.batch_size, self.num_samples, self.batch_size):
            yield self.batch(order[row : row + self.batch_size])

    def batch(self, rows: np.ndarray) -> MultimodalBatch:
        """Gather the batch of the given row numbers, (B,) int."""
        return self._gatherer.gather(self._split, rows)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of what the batches are gathered from: targets, histories, context and labels."""
        split = self._split
        arrays = {"item": split.item, "values": split.history_values, "offsets": split.history_offsets}
        arrays |= {f"context/{name}": values for name, values in split.context.items()}
        if split.label is not None:
            arrays["label"] = split.label
        digest = hashlib.blake2b(digest_size=16)
        for name, values in arrays.items():
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(values.data)
        return digest.hexdigest()


class BatchGatherer:
    """Turns rows of a split into batches: the one place where ids become item rows and a mask.

    Args:
        table: the items that the split's item indices point into.
        schema: roles of the columns.
        trim: a batch is as long as its longest history; False: as ``schema.max_len``.
    """

    def __init__(self, table: ItemTable, schema: DatasetSchema, *, trim: bool = True) -> None:
        self._schema = schema
        self._width = None if trim else schema.max_len
        self._items = {
            column.name: torch.from_numpy(np.asarray(table.columns[column.name])) for column in schema.item_columns
        }

    def gather(self, split: Split, rows: np.ndarray) -> MultimodalBatch:
        """Return the batch of the given row numbers of ``split``, (B,) int."""
        starts = split.history_offsets[rows]
        lengths = split.history_offsets[rows + 1] - starts
        width = max(1, int(lengths.max())) if self._width is None else self._width
        offset = np.arange(width) - (width - lengths)[:, None]  # position within the row's own history, < 0 is padding
        is_real = offset >= 0
        ids = np.zeros((len(rows), width + 1), dtype=np.int64)
        ids[:, :-1][is_real] = split.history_values[(starts[:, None] + offset)[is_real]]
        ids[:, -1] = split.item[rows]
        context = {name: torch.from_numpy(values[rows]) for name, values in self._row_arrays(split).items()}
        return MultimodalBatch.from_ids(context, torch.from_numpy(ids), torch.from_numpy(is_real), self._items)

    def _row_arrays(self, split: Split) -> dict[str, np.ndarray]:
        arrays = dict(split.context)
        if split.group is not None and self._schema.group_id is not None:
            arrays[self._schema.group_id] = split.group
        if split.label is not None:
            arrays[self._schema.label_col] = split.label
        return arrays


def named_item_table(feature_map: Any) -> ItemTable | None:
    """Open the item table that a feature map of ``MultimodalFeatureProcessor`` names; ``None``: it names none.

    Raises:
        DataError: the table is missing or damaged.
    """
    names = {spec["item_table"] for spec in feature_map.features.values() if "item_table" in spec}
    return ItemTable.load(Path(feature_map.data_dir) / names.pop()) if names else None


def _open_item_table(feature_map: Any, schema: DatasetSchema, item_info: str | Path | None) -> ItemTable:
    if (table := named_item_table(feature_map)) is not None:
        return table
    if item_info is None:
        raise ConfigError(
            "the feature map names no item table and 'item_info' is not set; build the features with "
            "MultimodalFeatureProcessor, or pass the path of the item table as item_info."
        )
    return read_item_info(item_info, schema)
