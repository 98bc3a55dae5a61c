"""What training shows of numbers and ids: the scale of ``numeric`` columns, and how many ids a vocabulary has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.forms import ID, NUMBER, Misfit, check_form, numbers, whole_numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["NumberStatistics", "check_vocabulary", "context_statistics"]

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


def context_statistics(
    path: str | Path, columns: Sequence[Column]
) -> tuple[dict[str, NumberStatistics], dict[str, int]]:
    """Read the context columns of the training split whose values decide something before training.

    Returns:
        column -> its statistics, for numeric columns; column -> number of distinct ids, for those whose vocabulary is
        large enough to ask.

    Raises:
        DataError: a value is no finite number, or no id.
    """
    found = {column.name: NumberStatistics(column.normalizer) for column in columns if column.type == "numeric"}
    large = [c.name for c in columns if c.type == "categorical" and (c.vocab_size or 0) > FREE_IDS]
    seen = {name: pa.array([], pa.int64()) for name in large}
    names = [*found, *large]
    if not names:
        return {}, {}
    table = open_parquet(path, names)
    for name in names:
        check_form(path, name, table.schema_arrow.field(name).type, NUMBER if name in found else ID)
    start = 0
    for batch in table.iter_batches(CHUNK_ROWS, names):
        for name, statistics in found.items():
            values = numbers(batch.column(name)).astype(np.float64)
            if (bad := ~np.isfinite(values)).any():
                part, row = table.place(start + int(bad.argmax()))
                raise DataError(
                    f"{part}: column {name!r}, row {row} (counted from 0): found "
                    f"{batch.column(name)[int(bad.argmax())].as_py()}; a finite number is expected in every row."
                )
            statistics.add(values)
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
