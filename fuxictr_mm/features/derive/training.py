"""What derivations may ask of the training split: which items it shows, and who has clicked what."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from tqdm import tqdm

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.folds import fold_of
from fuxictr_mm.forms import GROUP, ID, IDS, LABEL, Misfit, check_form, group_numbers, lists, numbers, whole_numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["Clicks", "TrainingSplit", "read_clicks"]

MERGE_AT = 1 << 24  # pairs of user and item that are held before repeated ones are dropped: 128 MiB


class Clicks(NamedTuple):
    """Who has clicked what.

    Attributes:
        users: (users,) int64, see :func:`~fuxictr_mm.forms.group_numbers`.
        matrix: (users, n_items + 1), 1.0 for a click.
    """

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
    def has_file(self) -> bool:
        return self._path is not None

    @property
    def path(self) -> Path:
        """Its file.

        Raises:
            ConfigError: the dataset names none.
        """
        if self._path is None:
            raise ConfigError("pca_fit_on: train, clicks and normalizer need 'train_data' in the dataset's YAML.")
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
        for name, form in ((item_col, ID), (history_col, IDS)):
            check_form(self.path, name, file.schema_arrow.field(name).type, form)
        with tqdm(total=file.num_rows, desc="items seen in train", unit=" rows", disable=None) as bar:
            for batch in file.iter_batches(1 << 16, (item_col, history_col)):
                for name, ids in (
                    (item_col, batch.column(item_col)),
                    (history_col, lists(batch.column(history_col))[1]),
                ):
                    with _in_column(self.path, name):
                        seen[self._index_of(whole_numbers(ids).drop_null().to_numpy())] = True
                bar.update(len(batch))
        return seen[:-1]

    @property
    def clicks(self) -> Clicks:
        """Who has clicked what, see :func:`read_clicks`.

        Raises:
            ConfigError: the schema names no ``group_id``.
        """
        if self.schema.group_id is None:
            raise ConfigError(
                "clicks: the rows of one user are told by 'group_id', which the dataset's YAML has to name."
            )
        return self._clicks

    @cached_property
    def users_per_item(self) -> np.ndarray:
        """(n_items + 1,) int64: how many users have clicked each item, in a row with label 1 or by a history.

        What makes a target cold, rare or warm. Where the schema names no users, see :func:`read_clicks`.
        """
        return np.bincount(self._clicks.matrix.indices, minlength=self._n_items + 1)

    def users_per_item_without(self, fold: int) -> np.ndarray:
        """The same without the users of a fold (:func:`~fuxictr_mm.features.derive.folds.fold_of`)."""
        others = self._clicks.matrix[fold_of(self._clicks.users.astype(np.int64)) != fold]
        return np.bincount(others.indices, minlength=self._n_items + 1)

    @cached_property
    def _clicks(self) -> Clicks:
        return read_clicks(self.path, self.schema, self._index_of, self._n_items)


def read_clicks(
    path: Path, schema: DatasetSchema, index_of: Callable[[np.ndarray], np.ndarray], n_items: int
) -> Clicks:
    """Read who has clicked what: the items of a user's histories, and the targets of the user's rows with label 1.

    Both, because later histories need not hold every click; so whoever has a row with label 1 has clicked its target.

    Args:
        path: the training split.
        schema: names the user (``group_id``), the history, the target and the label. Without users every row with
            label 1 counts as one, and all histories together as another.
        index_of: raw item ids -> rows of the item table, 1-based; 0 or less is left out.
        n_items: number of items in the table.

    Raises:
        DataError: a row has no user, or items are no (lists of) integers.
    """
    item_col, history_col, label_col, user_col = schema.item_col, schema.history_col, schema.label_col, schema.group_id
    columns = [item_col, history_col, label_col]
    forms = {item_col: ID, history_col: IDS, label_col: LABEL, **({} if user_col is None else {user_col: GROUP})}
    file = open_parquet(path, list(forms))
    for name, form in forms.items():
        check_form(path, name, file.schema_arrow.field(name).type, form)
    if user_col is None:
        users = np.arange(file.num_rows + 1)
        user_of_row, user_of_history = users[1:], np.zeros(file.num_rows, np.int64)
    else:
        with _in_column(path, user_col):
            ids = file.read([user_col]).column(0).combine_chunks()
            if ids.null_count:
                raise DataError(f"{path}: column {user_col!r} has {ids.null_count:,} nulls; every row needs its user.")
            users, user_of_row = np.unique(group_numbers(ids), return_inverse=True)
        user_of_history = user_of_row
    pairs, held, row = [np.zeros(0, np.int64)], 0, 0
    with tqdm(total=file.num_rows, desc="clicks in train", unit=" rows", disable=None) as bar:
        for batch in file.iter_batches(1 << 16, columns):
            part = slice(row, row + len(batch))
            is_click = numbers(batch.column(label_col)) == 1
            with _in_column(path, item_col):
                targets = index_of(whole_numbers(batch.column(item_col)).fill_null(0).to_numpy())[is_click]
            lengths, flat = lists(batch.column(history_col))
            with _in_column(path, history_col):
                clicked = index_of(whole_numbers(flat).fill_null(0).to_numpy())
            item = np.concatenate([targets, clicked]).astype(np.int64)
            user = np.concatenate([user_of_row[part][is_click], np.repeat(user_of_history[part], lengths)])
            pairs.append(np.unique(user[item > 0] * (n_items + 1) + item[item > 0]))
            held += len(pairs[-1])
            if held > MERGE_AT:
                pairs, held = [np.unique(np.concatenate(pairs))], 0
            row += len(batch)
            bar.update(len(batch))
    user, item = np.divmod(np.unique(np.concatenate(pairs)), n_items + 1)
    matrix = sparse.csr_array((np.ones(len(item), np.float32), (user, item)), (len(users), n_items + 1))
    return Clicks(users, matrix)


@contextmanager
def _in_column(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except Misfit as err:
        raise DataError(f"{path}: column {name!r}: {err.reason}.") from err
