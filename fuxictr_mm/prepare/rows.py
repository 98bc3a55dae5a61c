"""The rows that are written: which split each is in, negatives among them, their context and their histories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.prepare.columns import Encoded, context_column
from fuxictr_mm.prepare.histories import (
    Clicks,
    cold_items,
    last_of_users,
    negatives,
    pairs,
    session_starts,
    split_by_time,
)
from fuxictr_mm.prepare.log import Ids, Log

__all__ = ["SPLITS", "Rows"]

SPLITS = ("train", "valid", "test")
ROWS_AT_ONCE = 1 << 19  # whose histories are held together


class Rows:
    """N rows.

    Args:
        log: of which all rows have an item of the catalogue.
        users, items: their numbers.

    Attributes:
        user, item: (N,) numbers.
        time, label: (N,).
        split: (N,) 0 train, 1 valid, 2 test.
        source: (N,) row of the log that a row is from.
        notes: what a person should know.
    """

    def __init__(self, log: Log, users: Ids, items: Ids) -> None:
        self._log = log
        self.user, self.item = users.numbers(log.user), items.numbers(log.item)
        self.time, self.label = log.time, log.label
        self.n_items = len(items.originals)
        self.split = np.zeros(len(log), np.int8)
        self.source = np.arange(len(log))
        self.notes: list[str] = []
        clicked = self.label == 1
        self._clicked = self.user[clicked], self.item[clicked]
        self._clicks = Clicks.of(*self._clicked, self.time[clicked])
        self._shown_in_training = self._clicks

    def split_by(self, how: str, valid: float, test: float, last: int, column: str | None, seed: int) -> None:
        """Fill :attr:`split`; the arguments are those of :func:`~fuxictr_mm.prepare.prepare.prepare`."""
        if how == "time":
            self.split, bounds = split_by_time(self.time, valid, test)
            self.notes.append(f"valid begins at time {bounds[0]:.10g}, test at {bounds[1]:.10g}")
        elif how == "last":
            self.split = last_of_users(self.user, self.time, self.label == 1, last)
        elif column is not None:
            self.split = _named_splits(self._log.frame[column])
        else:
            cold = cold_items(self.n_items, valid + test, seed)
            drawn = np.random.default_rng(seed + 1).permutation(np.flatnonzero(cold))
            in_test = np.zeros_like(cold)
            in_test[drawn[: round(len(drawn) * test / (valid + test))]] = True
            self.split = cold[self.item].astype(np.int8) + in_test[self.item]
            # What training must not see, its histories must not show.
            seen = (self.label == 1) & ~cold[self.item]
            self._shown_in_training = Clicks.of(self.user[seen], self.item[seen], self.time[seen])
            self.notes.append(f"{cold.sum():,} of {self.n_items:,} items are held out with every click of them")

    def add_negatives(self, count: int, power: float, seed: int) -> None:
        """Add ``count`` rows of label 0 to every click, at its time, with its context and history."""
        rows, items = [], []
        known = pairs(*self._clicked, self.n_items)
        clicks = np.flatnonzero(self.label == 1)
        for at in range(len(SPLITS)):
            of_split = clicks[self.split[clicks] == at]
            if not len(of_split):
                continue
            # By what was clicked until then: an item that only a later split knows is no negative of an earlier one. Of
            # held-out items, each split draws its own, or being held out would tell the label.
            is_cold_split = self._shown_in_training is not self._clicks
            until = of_split if is_cold_split else clicks[self.split[clicks] <= at]
            counts = np.bincount(self.item[until], minlength=self.n_items + 1)
            weights = np.where(counts, counts.astype(np.float64) ** power, 0)
            row, item = negatives(self.user[of_split], known, weights, count, seed + at)
            rows.append(of_split[row])
            items.append(item)
        row = np.concatenate(rows)
        missing = count * len(clicks) - len(row)
        self.notes.append(
            f"{len(row):,} negatives were drawn, {count} per click by popularity to the power {power:g}"
            + (f"; {missing:,} were not found, because their users have clicked nearly everything" if missing else "")
        )
        self.item = np.concatenate([self.item, *items])
        self.label = np.concatenate([self.label, np.zeros(len(row), np.uint8)])
        self.user, self.time, self.split, self.source = (
            np.concatenate([values, values[row]]) for values in (self.user, self.time, self.split, self.source)
        )

    def check(self) -> None:
        """Refuse what could not be trained on.

        Raises:
            DataError: a split is empty or has one class.
        """
        for at, name in enumerate(SPLITS):
            labels = np.unique(self.label[self.split == at])
            if not len(labels):
                raise DataError(
                    f"{name} would have none of {len(self.split):,} rows; choose another split or larger shares."
                )
            if len(labels) == 1:
                raise DataError(
                    f"{name} would have label {labels[0]} only; a log of clicks needs negatives (--negatives 4), one "
                    "of ratings another --positive."
                )

    @property
    def training_clicks(self) -> np.ndarray:
        """(n_items + 1,) clicks of each item in training."""
        return np.bincount(self.item[(self.split == 0) & (self.label == 1)], minlength=self.n_items + 1)

    def contexts(self, without: set[str]) -> list[Encoded]:
        """The further columns of the log."""
        names = [name for name in self._log.frame.columns if name not in without]
        taken = {"user_id", "item_id", "item_seq", "label", "timestamp"} & set(names)
        if taken:
            raise ConfigError(f"column {sorted(taken)[0]!r} of the log has a name that is needed; rename or drop it.")
        in_train = np.zeros(len(self._log), bool)
        in_train[self.source[self.split == 0]] = True
        return [context_column(self._log.frame[name], in_train) for name in names]

    def write(self, folder: Path, contexts: Sequence[Encoded], max_len: int, sessions: float | None) -> None:
        """The three split files."""
        since = None if sessions is None else session_starts(self.user, self.time, sessions)
        without = 0
        for at, name in enumerate(SPLITS):
            rows = np.flatnonzero(self.split == at)
            clicks = self._shown_in_training if name == "train" else self._clicks
            writer = None
            for start in range(0, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE]
                first, end = clicks.before(
                    self.user[part], self.time[part], max_len, None if since is None else since[part]
                )
                without += int((first == end).sum())
                offsets, items = clicks.lists(first, end)
                columns: dict[str, Any] = {
                    "user_id": self.user[part],
                    "item_id": self.item[part],
                    "item_seq": pa.ListArray.from_arrays(offsets.astype(np.int32), items.astype(np.int64)),
                    "label": self.label[part].astype(np.int64),
                    "timestamp": self.time[part],
                }
                source = self.source[part]
                columns |= {one.values.name: one.values.gather(source).to_arrow() for one in contexts}
                table = pa.table(columns)
                writer = writer or pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
                writer.write_table(table)
            assert writer is not None  # check
            writer.close()
        self.notes.append(f"{without:,} of {len(self.split):,} rows have no history")


def _named_splits(values: pl.Series) -> np.ndarray:
    known = {**{name: at for at, name in enumerate(SPLITS)}, "validation": 1, "0": 0, "1": 1, "2": 2}
    names = values.cast(pl.String).str.to_lowercase()
    found = names.replace_strict(known, default=None, return_dtype=pl.Int8)
    if found.null_count():
        at = int(found.is_null().arg_max() or 0)
        raise DataError(f"column {values.name!r}, row {at}: {values[at]!r} is no split; train, valid, test or 0, 1, 2.")
    return found.to_numpy()
