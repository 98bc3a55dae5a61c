"""Builds item columns, ready-made or derived, for the items of a new table or for those that arrive later.

Apart from the item table, which asks for whole columns, and from the derivation of one entry, which knows no columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.clicks import Clicks, ExpectedClicks, own_clicks, own_clicks_width
from fuxictr_mm.features.derive.raw import ModalityRows, fit_entry, restore_entry, transform_entry
from fuxictr_mm.features.sources import Sources, entry_modalities, read_column

__all__ = ["ColumnBuilder", "check_vocab", "read_specification", "write_specification"]


class ColumnBuilder:
    """Reads or derives the columns of one set of items.

    Args:
        sources: the files of the items.
        item_ids: (n_items,) int64, sorted.
        index_of: raw ids -> position in ``item_ids`` + 1, or 0 or less.
        spool_dir: folder for temporary files.

    Attributes:
        states: fitted reducers as arrays, ``"<column>/<entry number>/<field>"`` -> array.
        reports: column -> one record per entry of its ``pca``: widths, rows fitted, variance kept.
        click_reports: column -> what :class:`ExpectedClicks` says about its fit.
    """

    def __init__(
        self, sources: Sources, item_ids: np.ndarray, index_of: Callable[[np.ndarray], np.ndarray], spool_dir: Path
    ) -> None:
        self.sources = sources
        self.item_ids = item_ids
        self.index_of = index_of
        self.spool_dir = spool_dir
        self.states: dict[str, np.ndarray] = {}
        self.reports: dict[str, list[dict[str, Any]]] = {}
        self.click_reports: dict[str, dict[str, Any]] = {}

    def fit(self, column: Column, in_fit: Mapping[str, np.ndarray], clicks: Clicks | None = None) -> np.ndarray:
        """Return the column (n_items + 1, ...), fitting its reducers on the items that ``in_fit[pca_fit_on]`` marks.

        ``clicks`` is needed by columns of click vectors.
        """
        if column.has_own_clicks:
            assert clicks is not None and column.clicks is not None
            vectors, self.click_reports[column.name] = own_clicks(column.clicks, float(column.pca_whiten), clicks)
            return vectors
        if column.pca is None:
            return self._read(column)
        blocks = []
        self.reports[column.name] = []
        for number, entry in enumerate(column.pca):
            rows = self._rows(entry, None)
            reducer = fit_entry(rows, column, entry, in_fit[column.pca_fit_on])
            block, missing = transform_entry(rows, reducer, entry)
            blocks.append(block)
            for name, values in reducer.to_arrays().items():
                self.states[f"{column.name}/{number}/{name}"] = values
            ratio = getattr(reducer, "explained_variance_ratio_", None)
            self.reports[column.name].append(
                {
                    "modality": entry,
                    "raw_widths": rows.widths,
                    "width": block.shape[1],
                    "rows_fitted": reducer.n_samples_seen_,
                    "rows_missing": missing,
                    "variance_kept": 1.0 if ratio is None else float(ratio.sum()),
                    "explained_variance_ratio": None if ratio is None else ratio.tolist(),
                    "rms_norm": reducer.scale_,
                }
            )
        vectors = np.concatenate(blocks, axis=1)
        if column.clicks is not None:
            assert clicks is not None
            expected_clicks = ExpectedClicks(column.clicks, float(column.pca_whiten))
            vectors = expected_clicks.fit(vectors, clicks.matrix)
            self.click_reports[column.name] = expected_clicks.report_
            for name, values in expected_clicks.to_arrays().items():
                self.states[f"{column.name}/clicks/{name}"] = values
        if column.width is not None and vectors.shape[1] != column.width:
            raise ConfigError(
                f"column {column.name!r}: pretrain_dim={column.width} but its pca gives vectors of width "
                f"{vectors.shape[1]}; leave pretrain_dim out or make them agree."
            )
        return vectors

    def transform(
        self, column: Column, states: Mapping[str, np.ndarray], reports: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Return the column (n_items + 1, ...) by reducers that :meth:`fit` fitted on other items."""
        if column.has_own_clicks:  # nobody has clicked these items yet
            assert column.clicks is not None
            return np.zeros((len(self.item_ids) + 1, own_clicks_width(column.clicks)), np.float32)
        if column.pca is None:
            return self._read(column)
        blocks = []
        for number, entry in enumerate(column.pca):
            prefix = f"{column.name}/{number}/"
            rows = self._rows(entry, reports[number]["raw_widths"])
            blocks.append(transform_entry(rows, restore_entry(column, entry, _below(states, prefix)), entry)[0])
        vectors = np.concatenate(blocks, axis=1)
        if column.clicks is None:
            return vectors
        # Nobody has clicked a new item yet: it stands where its content says, as a target and in a history.
        return np.tile(ExpectedClicks.from_arrays(_below(states, f"{column.name}/clicks/")).transform(vectors), 2)

    def _read(self, column: Column) -> np.ndarray:
        if column.name == self.sources.key_col:
            return np.arange(len(self.item_ids) + 1, dtype=np.int32)
        return read_column(self.sources, column, self.item_ids)

    def _rows(self, entry: str, widths: Sequence[int] | None) -> ModalityRows:
        names = entry_modalities(entry)
        paths = [self.sources.file_of_modality(name) for name in names]
        n_items = len(self.item_ids)
        return ModalityRows(names, paths, self.sources.key_col, self.index_of, n_items, self.spool_dir, widths)


def _below(states: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in states.items() if name.startswith(prefix)}


def check_vocab(columns: Sequence[Column], item_col: str, n_items: int) -> None:
    """Refuse more items than the declared vocabulary of the item id column has room for.

    Raises:
        DataError: ``n_items + 1 > vocab_size``.
    """
    vocab_size = next((column.vocab_size for column in columns if column.name == item_col), None)
    if vocab_size is not None and n_items + 1 > vocab_size:
        raise DataError(
            f"column {item_col!r}: vocab_size={vocab_size} but there are {n_items} items and a padding id; use "
            f"vocab_size >= {n_items + 1} or leave it out."
        )


def write_specification(columns: Sequence[Column], item_col: str) -> dict[str, Any]:
    """Return the item columns in a form that JSON keeps as it is."""
    # pca as pairs: their order is the order of the blocks, and sorted JSON objects would lose it.
    specs = [
        {**asdict(column), "pca": column.pca and [list(pair) for pair in column.pca.items()]} for column in columns
    ]
    for spec in specs:
        del spec["freeze_emb"]  # what a model does with the vectors is not the table's business
    return {"item_col": item_col, "columns": specs}


def read_specification(specification: Mapping[str, Any]) -> tuple[str, list[Column]]:
    """Return the item id column and the item columns that :func:`write_specification` wrote."""
    columns = [Column(**{**spec, "pca": spec["pca"] and dict(spec["pca"])}) for spec in specification["columns"]]
    return specification["item_col"], columns
