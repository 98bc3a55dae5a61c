"""Batches by indexing: contiguous arrays, one gather per column, no Python per row."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.data.contract import Split, read_split
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.item_table import ItemTable, read_item_info
from fuxictr_mm.schema import DatasetSchema

__all__ = ["MMCTRDataLoader"]


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
        self._columns = _row_tensors(self._split, schema)
        self._items = {
            column.name: torch.from_numpy(np.asarray(table.columns[column.name])) for column in schema.item_columns
        }
        self.num_samples = len(self._split)
        self.has_label = self._split.label is not None

    def __len__(self) -> int:
        return (self.num_samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[MultimodalBatch]:
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        self.epoch += 1
        for start in range(0, self.num_samples, self.batch_size):
            yield self.batch(order[start : start + self.batch_size])

    def batch(self, rows: np.ndarray) -> MultimodalBatch:
        """Gather the batch of the given row numbers, (B,) int."""
        split = self._split
        starts = split.history_offsets[rows]
        lengths = split.history_offsets[rows + 1] - starts
        width = max(1, int(lengths.max())) if self.trim else self.max_len
        offset = np.arange(width) - (width - lengths)[:, None]  # position within the row's own history, < 0 is padding
        is_real = offset >= 0
        ids = np.zeros((len(rows), width + 1), dtype=np.int64)
        ids[:, :-1][is_real] = split.history_values[(starts[:, None] + offset)[is_real]]
        ids[:, -1] = split.item[rows]
        selected = torch.from_numpy(rows)
        context = {name: column[selected] for name, column in self._columns.items()}
        return MultimodalBatch.from_ids(context, torch.from_numpy(ids), torch.from_numpy(is_real), self._items)


def _open_item_table(feature_map: Any, schema: DatasetSchema, item_info: str | Path | None) -> ItemTable:
    names = {spec["item_table"] for spec in feature_map.features.values() if "item_table" in spec}
    if names:
        return ItemTable.load(Path(feature_map.data_dir) / names.pop())
    if item_info is None:
        raise ConfigError(
            "the feature map names no item table and 'item_info' is not set; build the features with "
            "MultimodalFeatureProcessor, or pass the path of the item table as item_info."
        )
    return read_item_info(item_info, schema)


def _row_tensors(split: Split, schema: DatasetSchema) -> Mapping[str, torch.Tensor]:
    arrays = dict(split.context)
    if split.group is not None and schema.group_id is not None:
        arrays[schema.group_id] = split.group
    if split.label is not None:
        arrays[schema.label_col] = split.label
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
