"""FuxiCTR's feature processor, extended by an item table with derived vectors."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fuxictr.preprocess import FeatureProcessor

from fuxictr_mm.config.keys import check_value
from fuxictr_mm.config.schema import COLUMN_KEYS, Column, DatasetSchema
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.statistics import FREE_IDS, check_vocabulary, training_statistics
from fuxictr_mm.features.table import ItemTable, build_item_table
from fuxictr_mm.files import atomic_write

__all__ = ["MultimodalFeatureProcessor", "refuse_rebuild"]


class MultimodalFeatureProcessor(FeatureProcessor):
    """Builds the item table and FuxiCTR's feature map; used as ``FeatureProcessor`` is::

        processor = MultimodalFeatureProcessor(**params)
        train, valid, test = build_dataset(processor, **params)  # params: rebuild_dataset: False

    The data files are left as they are: our loader reads them directly, with the item table beside them. Feature maps
    are written atomically, so that parallel runs may share a dataset folder.

    The feature map holds the columns that the experiment reads and no others, see
    :meth:`~fuxictr_mm.config.schema.DatasetSchema.read_by`.

    Args:
        feature_cols, label_col, dataset_id, data_root: as in FuxiCTR.
        params: further keys of the experiment: ``item_info``, ``item_feature``, ``modality_data``, ``train_data``,
            ``item_col``, ``history_col``, ``max_len``, ``group_id``, ``rebuild_dataset``, ``use_features``,
            ``similarity``.

    Attributes:
        schema: the roles of the columns that the experiment reads.
        item_table: the :class:`ItemTable`, after :meth:`fit`.
        feature_map: the host's ``FeatureMap``, in which every item column names its file, and that of the item ids.

    Raises:
        ConfigError: a column's specification cannot be used, or ``rebuild_dataset`` is not False.
    """

    item_table: ItemTable
    feature_cols: list[dict[str, Any]]

    def __init__(
        self,
        *,
        feature_cols: Sequence[Mapping[str, Any]],
        label_col: Any,
        dataset_id: str,
        data_root: str | os.PathLike[str] = "../data/",
        **params: Any,
    ) -> None:
        refuse_rebuild(params.get("rebuild_dataset", True))
        # Copies, because fit fills in what the item table decides.
        columns = [{"active": True, **column} for column in feature_cols]
        _check_dtypes(columns, label_col)
        super().__init__(columns, label_col, dataset_id, os.fspath(data_root), **params)
        params_of_schema = {**params, "feature_cols": columns, "label_col": label_col}
        self.schema = DatasetSchema.from_params(params_of_schema).read_by(params)
        read = {column.name for column in self.schema.columns}
        for column in self.feature_cols:
            column["active"] = column["name"] in read
        _check_sharing(self.feature_cols)
        self._sources = {key: params.get(key) for key in ("item_info", "item_feature", "modality_data", "train_data")}

    def fit(self, train_ddf: None = None, rebuild_dataset: bool = False, **kwargs: Any) -> None:
        """Build or reuse the item table, then the feature map, and write ``feature_map.json`` atomically.

        Args:
            train_ddf: not used; here because ``build_dataset`` passes it.
            rebuild_dataset: must be False.
            kwargs: what FuxiCTR's ``fit`` takes.

        Raises:
            ConfigError: a specification asks for what the data cannot give.
            DataError: an item file breaks the contract.
        """
        refuse_rebuild(rebuild_dataset)
        table = build_item_table(self.schema, self.data_dir, **self._sources)
        train = self._sources["train_data"]
        training = TrainingSplit(None if train is None else Path(train), self.schema, table.index_of, table.n_items)
        statistics, distinct = training_statistics(training, table.columns)
        for column in self.feature_cols:
            if column["active"]:
                self._complete(column, table, distinct)
        self.feature_map.features = OrderedDict()
        self.feature_map.total_features = 0  # the host adds to it
        with self._own_files_aside():
            super().fit(None, rebuild_dataset=False, **kwargs)
        for role in self.schema.item_columns:
            self._describe(role, table)
        for name, found in statistics.items():
            self.feature_map.features[name] |= found.feature_spec()
        with atomic_write(self.json_file) as temporary:
            self.feature_map.save(str(temporary))
        self.item_table = table

    def _complete(self, column: dict[str, Any], table: ItemTable, distinct: Mapping[str, int]) -> None:
        """Fill in what the item table decides: vocabularies of item columns, list lengths, widths of vectors."""
        name, kind = column["name"], column["type"]
        values = table.columns.get(name) if column.get("source") == "item" else None
        if values is not None and kind == "embedding":
            column["pretrain_dim"] = values.shape[1]
        if values is not None and kind == "sequence":
            column["max_len"] = values.shape[1]
        if kind in ("categorical", "sequence"):
            if values is not None:
                column.setdefault("vocab_size", max(int(values.max()) + 1, 2))
            size = column.get("vocab_size")
            if not isinstance(size, int) or size < 2:
                raise ConfigError(
                    f"column {name!r}: vocab_size={size!r} must be a whole number >= 2: the largest id plus 1, padding "
                    "id 0 counted."
                )
            if values is not None and size > FREE_IDS:
                distinct = {name: len(np.unique(values))}
            check_vocabulary(name, size, distinct.get(name, size))

    def _describe(self, column: Column, table: ItemTable) -> None:
        """Tell models of an item column, in the feature map: its files, and what is in its vectors."""
        spec = self.feature_map.features[column.name]
        assert table.path is not None  # a built table is stored
        spec["item_ids"] = table.path.name
        if (stored := table.stored.get(column.name)) is None:
            return  # the item ids themselves
        assert stored.path is not None
        spec["item_column"] = stored.path.name
        if column.type in ("embedding", "meta"):
            spec["source"] = "item"  # the host drops it from meta columns
            spec["pretrain_dim"] = stored.values.shape[1]  # not every host carries it over from the column
            if not column.freeze_emb:
                spec["freeze_emb"], spec["vocab_size"] = False, len(stored.values)
            spec |= stored.info["feature_spec"]
            zeros = {report["modality"]: report.get("rows_zero", 0) for report in stored.info["reports"]}
            spec["zero_vectors"] = {name: count for name, count in zeros.items() if count}
            spec["modalities"] = stored.modalities

    @contextmanager
    def _own_files_aside(self) -> Iterator[None]:
        """Send what the host writes in place (feature map, vocabularies, pickle) to a folder that is thrown away.

        Written in place they would be torn under parallel runs; only the feature map is read later, and ids are
        their own vocabulary here.
        """
        names = ("json_file", "vocab_file", "pickle_file")
        paths = {name: getattr(self, name) for name in names}
        item_table = self.__dict__.pop("item_table", None)  # of an earlier fit: it has no place in the host's pickle
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, path in paths.items():
                    setattr(self, name, os.path.join(folder, os.path.basename(path)))
                yield
        finally:
            for name, path in paths.items():
                setattr(self, name, path)
            if item_table is not None:
                self.item_table = item_table


def refuse_rebuild(rebuild_dataset: Any) -> None:
    """Refuse FuxiCTR's default, which nothing here could carry out.

    Raises:
        ConfigError: ``rebuild_dataset`` is not False.
    """
    if rebuild_dataset:
        raise ConfigError(
            "rebuild_dataset: True (FuxiCTR's default) would rewrite the data files, which nothing here needs: the "
            "loader reads them directly; set 'rebuild_dataset: False'."
        )


def _check_dtypes(feature_cols: Sequence[Mapping[str, Any]], label_col: Any) -> None:
    labels = label_col if isinstance(label_col, list) else [label_col]
    for column in [*feature_cols, *labels]:
        check_value(f"column {column['name']!r}: dtype", COLUMN_KEYS["dtype"].type, column.get("dtype"))


def _check_sharing(feature_cols: Sequence[Mapping[str, Any]]) -> None:
    before: list[str] = []
    for column in feature_cols:
        partner = column.get("share_embedding")
        if column["active"] and partner is not None and partner not in before:
            raise ConfigError(
                f"column {column['name']!r}: share_embedding={partner!r} names no id column before it; found {before}."
            )
        if column["active"] and column["type"] in ("categorical", "sequence"):
            before.append(column["name"])
