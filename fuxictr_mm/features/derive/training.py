"""What derivations may ask of the training split: which items it shows, and who has clicked what."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from tqdm import tqdm

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.files import open_parquet

__all__ = ["Clicks", "TrainingSplit", "read_clicks"]

MERGE_AT = 1 << 24  # pairs of user and item that are held before repeated ones are dropped: 128 MiB


class Clicks(NamedTuple):
    """Who has clicked what: user ids (users,) as the file has them, and (users, n_items + 1), 1.0 for a click."""

    users: np.ndarray
    matrix: sparse.csr_array


class TrainingSplit:
    """The training split in terms of the item table; each answer is read once, when it is asked for.

    Args:
        path: its file; ``None`` where the dataset names none.
        schema: names its columns.
        index_of: raw item ids -> rows of the item table, 1-based; 0 or less is no item of it.
        n_items: number of items in the table.
    """

    def __init__(
        self, path: Path | None, schema: DatasetSchema, index_of: Callable[[np.ndarray], np.ndarray], n_items: int
    ) -> None:
        self._path = path
        self.schema = schema
        self._index_of = index_of
        self._n_items = n_items

    @property
    def path(self) -> Path:
        """Its file.

        Raises:
            ConfigError: the dataset names none.
        """
        if self._path is None:
            raise ConfigError("pca_fit_on: train, and clicks, need 'train_data' in the dataset's YAML.")
        return self._path

    @cached_property
    def seen(self) -> np.ndarray:
        """(n_items + 1,) bool: the items that occur as target or in a history.

        Raises:
            DataError: ids are no integers.
        """
        item_col, history_col = self.schema.item_col, self.schema.history_col
        seen = np.zeros(self._n_items + 2, bool)  # the last place takes unknown ids (-1), which the data checks name
        file = open_parquet(self.path, (item_col, history_col))
        with tqdm(total=file.metadata.num_rows, desc="items seen in train", unit=" rows", disable=None) as bar:
            for batch in file.iter_batches(1 << 16, columns=[item_col, history_col]):
                history = batch.column(history_col)
                kinds = batch.column(item_col).type, getattr(history.type, "value_type", pa.null())
                if not all(pa.types.is_integer(kind) for kind in kinds):
                    raise DataError(
                        f"{self.path}: columns {item_col!r} and {history_col!r} have the types {kinds[0]} and "
                        f"{history.type}; integer ids and lists of them are expected."
                    )
                for ids in (batch.column(item_col), history.flatten()):
                    seen[self._index_of(ids.drop_null().to_numpy())] = True
                bar.update(len(batch))
        return seen[:-1]

    @cached_property
    def clicks(self) -> Clicks:
        """Who has clicked what, see :func:`read_clicks`."""
        return read_clicks(self.path, self.schema, self._index_of, self._n_items)


def read_clicks(
    path: Path, schema: DatasetSchema, index_of: Callable[[np.ndarray], np.ndarray], n_items: int
) -> Clicks:
    """Read who has clicked what from the histories of a split.

    Only histories count, never labels: the click that a row asks for is not looked at.

    Args:
        path: the training split.
        schema: names the user (``group_id``) and the history.
        index_of: raw item ids -> rows of the item table, 1-based; 0 or less is left out.
        n_items: number of items in the table.

    Raises:
        ConfigError: the schema names no ``group_id``.
        DataError: a row has no user, or the histories are no lists of integers.
    """
    if schema.group_id is None:
        raise ConfigError("clicks: the rows of one user are told by 'group_id', which the dataset's YAML has to name.")
    file = open_parquet(path, (schema.group_id, schema.history_col))
    users = file.read([schema.group_id]).column(0).combine_chunks().dictionary_encode()
    if users.null_count:
        raise DataError(f"{path}: column {schema.group_id!r} has {users.null_count:,} nulls; every row needs its user.")
    user_of_row = users.indices.to_numpy().astype(np.int64)
    pairs, held, row = [np.zeros(0, np.int64)], 0, 0
    with tqdm(total=file.metadata.num_rows, desc="clicks in histories", unit=" rows", disable=None) as bar:
        for batch in file.iter_batches(1 << 16, columns=[schema.history_col]):
            history = batch.column(0)
            if not pa.types.is_integer(getattr(history.type, "value_type", pa.null())):
                raise DataError(
                    f"{path}: column {schema.history_col!r} has type {history.type}; lists of integer ids are expected."
                )
            lengths = pc.list_value_length(history).fill_null(0).to_numpy()
            index = index_of(history.flatten().fill_null(0).to_numpy()).astype(np.int64)
            user = np.repeat(user_of_row[row : row + len(batch)], lengths)
            pairs.append(np.unique(user[index > 0] * (n_items + 1) + index[index > 0]))
            held += len(pairs[-1])
            if held > MERGE_AT:
                pairs, held = [np.unique(np.concatenate(pairs))], 0
            row += len(batch)
            bar.update(len(batch))
    user, item = np.divmod(np.unique(np.concatenate(pairs)), n_items + 1)
    shape = len(users.dictionary), n_items + 1
    matrix = sparse.csr_array((np.ones(len(item), np.float32), (user, item)), shape)
    return Clicks(users.dictionary.to_numpy(zero_copy_only=False), matrix)
