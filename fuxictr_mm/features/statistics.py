"""What training shows of numbers and ids: the scale of ``numeric`` columns, and how many ids a vocabulary has."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.forms import ID, NUMBER, Misfit, check_form, numbers, whole_numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["NumberStatistics", "check_vocabulary", "training_statistics"]

# FuxiCTR keeps a Python dict with an entry for every id of a vocabulary, used or not: 100 MB for a million.
FREE_IDS, IDS_PER_USED = 1_000_000, 100
CHUNK_ROWS = 1 << 16


class NumberStatistics:
    """The numbers of one column, in one pass.

    Args:
        normalizer: FuxiCTR's word for the scaler, ``None``: nothing is scaled.
    """

    def __init__(self, normalizer: str | None) -> None:
        self.normalizer = normalizer
        self._standard, self._range = StandardScaler(), MinMaxScaler()

    def add(self, values: np.ndarray) -> None:
        """Take (n,) finite float64 in."""
        self._standard.partial_fit(values[:, None])
        self._range.partial_fit(values[:, None])

    def feature_spec(self) -> dict[str, Any]:
        """What the feature map keeps: mean and standard deviation, and the scaling if there is a normalizer.

        The scaling of a constant column only moves it to 0.
        """
        mean, deviation = float(self._standard.mean_[0]), float(np.sqrt(self._standard.var_[0]))
        spec: dict[str, Any] = {"train_mean": mean, "train_std": deviation}
        if self.normalizer == "StandardScaler":
            spec["scaling"] = [mean, float(self._standard.scale_[0])]
        elif self.normalizer == "MinMaxScaler":
            spec["scaling"] = [float(self._range.data_min_[0]), float(self._range.data_range_[0]) or 1.0]
        return spec


def training_statistics(
    training: TrainingSplit, items: Mapping[str, np.ndarray]
) -> tuple[dict[str, NumberStatistics], dict[str, int]]:
    """What the values of the training split decide before training.

    Args:
        training: the split; without a file, numbers that are not scaled have no statistics.
        items: item column -> (n_items + 1, ...); numbers of items count once for every item that the split shows.

    Returns:
        numeric column -> its statistics; context column -> number of distinct ids, for those whose vocabulary is large
        enough to ask.

    Raises:
        ConfigError: a column has a normalizer and the dataset names no training split.
        DataError: a value is no finite number, or no id.
    """
    schema = training.schema
    numeric = [c for c in schema.columns if c.type == "numeric" and (training.has_file or c.normalizer)]
    found = {column.name: NumberStatistics(column.normalizer) for column in numeric}
    for column in numeric:
        if column.is_item:
            found[column.name].add(items[column.name][1:][training.seen[1:]].astype(np.float64))
    numbers_of = [column.name for column in numeric if not column.is_item]
    large = [c.name for c in schema.context_columns if c.type == "categorical" and (c.vocab_size or 0) > FREE_IDS]
    seen = {name: pa.array([], pa.int64()) for name in large}
    if not (names := [*numbers_of, *large]):
        return found, {}
    table = open_parquet(training.path, names)
    for name in names:
        check_form(training.path, name, table.schema_arrow.field(name).type, NUMBER if name in found else ID)
    start = 0
    for batch in table.iter_batches(CHUNK_ROWS, names):
        for name in numbers_of:
            values = numbers(batch.column(name)).astype(np.float64)
            if (bad := ~np.isfinite(values)).any():
                part, row = table.place(start + int(bad.argmax()))
                raise DataError(
                    f"{part}: column {name!r}, row {row} (counted from 0): found "
                    f"{batch.column(name)[int(bad.argmax())].as_py()}; a finite number is expected in every row."
                )
            found[name].add(values)
        for name in large:
            try:
                ids = whole_numbers(batch.column(name)).drop_null().cast(pa.int64())
            except Misfit as err:
                part, row = table.place(start + err.at)
                raise DataError(f"{part}: column {name!r}, row {row} (counted from 0): {err.reason}.") from err
            seen[name] = pc.unique(pa.concat_arrays([seen[name], pc.unique(ids)]))
        start += len(batch)
    return found, {name: len(ids) for name, ids in seen.items()}


def check_vocabulary(column: str, size: int, distinct: int) -> None:
    """Refuse a vocabulary that is far larger than the ids that occur: it would fill the memory for nothing.

    Raises:
        ConfigError: names the sizes and what to do.
    """
    if size > FREE_IDS + IDS_PER_USED * distinct:
        raise ConfigError(
            f"column {column!r}: a vocabulary of {size:,} (the largest id plus 1, or vocab_size) for {distinct:,} "
            "distinct ids would take memory for every id between; number the ids from 1 on, or correct vocab_size."
        )
