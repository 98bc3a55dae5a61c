"""What each column of a dataset is for, read once from FuxiCTR's own YAML keys.

Every other room asks the schema for names, widths and roles, so that none of them stands in code. FuxiCTR describes
columns twice, in ``feature_cols`` (YAML, before processing) and in ``feature_map.json`` (after); both lead to the
same :class:`DatasetSchema`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fuxictr_mm.config.code import check_encoder
from fuxictr_mm.config.keys import MOST, Number, Positive, Text, check_value, nearest
from fuxictr_mm.errors import ConfigError

__all__ = ["COLUMN_KEYS", "Column", "DatasetSchema", "check_columns"]

_Width = Positive | Annotated[float, Field(gt=0, lt=1)] | None
_VECTORS = ("embedding", "meta")
_Id = Annotated[int, Field(ge=2, le=MOST)] | None


@dataclass(frozen=True)
class ColumnKey:
    """One key of a column in ``feature_cols``.

    Attributes:
        type: annotation that its value must keep.
        rewrites: FuxiCTR applies it while it rewrites the data; nothing is rewritten here, so it would be ignored.
        derives: it says how an item column of vectors is derived; the types of column that may carry it.
    """

    type: Any
    rewrites: bool = False
    derives: tuple[str, ...] = ()


COLUMN_KEYS: dict[str, ColumnKey] = {
    "name": ColumnKey(Text | Annotated[list[Text], Field(min_length=1)]),
    "active": ColumnKey(bool),
    "dtype": ColumnKey(Literal["int", "float", "str"]),
    "type": ColumnKey(Literal["categorical", "numeric", "sequence", "embedding", "meta"]),
    "source": ColumnKey(str | None),
    "vocab_size": ColumnKey(_Id),
    "max_len": ColumnKey(Positive | None),
    "feature_encoder": ColumnKey(Text | Annotated[list[Text], Field(min_length=1)] | None),
    "embedding_dim": ColumnKey(Positive),
    "emb_output_dim": ColumnKey(Positive),
    "pretrain_dim": ColumnKey(Positive | None),
    "pretrain_usage": ColumnKey(Literal["init", "sum", "concat"]),
    "freeze_emb": ColumnKey(bool),
    "share_embedding": ColumnKey(Text),
    "fill_na": ColumnKey(Number | int | str | None),
    "remap": ColumnKey(bool),
    "splitter": ColumnKey(Text),
    "padding": ColumnKey(Literal["pre", "post"]),
    "min_categr_count": ColumnKey(Positive),
    "num_buckets": ColumnKey(Positive),
    "pca": ColumnKey(Annotated[dict[Text, _Width], Field(min_length=1)] | None, derives=_VECTORS),
    "pca_whiten": ColumnKey(bool | Annotated[float, Field(ge=0, le=1)] | None, derives=_VECTORS),
    "pca_normalize": ColumnKey(bool, derives=_VECTORS),
    "pca_fit_on": ColumnKey(Literal["all", "train"], derives=_VECTORS),
    "zero_vectors": ColumnKey(Literal["real", "missing"], derives=_VECTORS),
    "clicks": ColumnKey(Positive | None, derives=("meta",)),
    "normalizer": ColumnKey(Literal["StandardScaler", "MinMaxScaler"] | None),
    "preprocess": ColumnKey(Any, rewrites=True),
    "category_processor": ColumnKey(Any, rewrites=True),
    "pretrained_emb": ColumnKey(Any, rewrites=True),
}


@dataclass(frozen=True)
class Column:
    """One active feature column.

    Attributes:
        name: column name in the file, or the name of a vector that ``pca`` derives.
        type: one of FuxiCTR's types: categorical, numeric, sequence, embedding, meta. Meta columns are no fields: the
            group id, or item vectors that a model only compares.
        source: ``"item"`` for a column of the item table, anything else for a column of the split files.
        vocab_size: number of ids including padding id 0 (``None`` where the type has none or the data decides).
        max_len: list length of a ``sequence`` column.
        width: length of one vector of an ``embedding`` or item ``meta`` column as stored (FuxiCTR's ``pretrain_dim``).
        derived: the keys that say how it is derived, in the order of ``COLUMN_KEYS``; empty: it is read as it stands.
            ``pca`` maps ``"modality"`` or ``"modality+modality"`` to a width (int), a share of variance (float < 1) or
            ``None`` for the raw vector; ``clicks`` is the width of click vectors. See
            :mod:`fuxictr_mm.features.derive`.
        normalizer: FuxiCTR's word: what a ``numeric`` column is scaled by, ``None``: not at all.
        scaling: what the normalizer has learned of the training split, as the feature map keeps it: models see
            ``(value - scaling[0]) / scaling[1]``.
        freeze_emb: FuxiCTR's word; False: models of ours go on training the vectors of this ``embedding`` column.
    """

    name: str
    type: str
    source: str = ""
    vocab_size: int | None = None
    max_len: int | None = None
    width: int | None = None
    derived: Mapping[str, Any] = field(default_factory=dict)
    freeze_emb: bool = True
    normalizer: str | None = None
    scaling: tuple[float, float] | None = None

    @property
    def is_item(self) -> bool:
        return self.source == "item"

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Values of a ``numeric`` column as models see them, float32; what float32 cannot hold becomes inf."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.scaling is not None:
                shift, width = self.scaling
                values = (values.astype(np.float64) - shift) / width
            return values.astype(np.float32)


@dataclass(frozen=True)
class DatasetSchema:
    """The roles of a dataset's columns.

    Attributes:
        item_col: the target item's id in the split files, and the id column of the item table.
        history_col: the list of item ids the user clicked, latest last.
        label_col: the 0/1 label.
        group_id: the column that gAUC groups by (``None``: no gAUC).
        columns: all active feature columns in YAML order.
        max_len: the longest history that is kept, counted from the latest item.
    """

    item_col: str
    history_col: str
    label_col: str
    group_id: str | None
    columns: tuple[Column, ...]
    max_len: int

    @property
    def item_columns(self) -> tuple[Column, ...]:
        """Columns of the item table, in feature order."""
        return tuple(column for column in self.columns if column.is_item)

    @property
    def context_columns(self) -> tuple[Column, ...]:
        """Feature columns of the split files (meta columns left out)."""
        return tuple(column for column in self.columns if not column.is_item and column.type != "meta")

    def read_by(self, params: Mapping[str, Any]) -> "DatasetSchema":
        """Return the schema of the columns that an experiment reads; nothing else decides which these are.

        Those are the columns of ``use_features``, all where it is not given; but item columns of ``type: meta`` only
        where ``similarity`` names them, since FuxiCTR's own models would count one that is only compared as a field;
        and always the group id, which every batch carries.

        Raises:
            ConfigError: no item column is left.
        """
        used, compared = params.get("use_features"), params.get("similarity") or ()
        columns = [
            column
            for column in self.columns
            if column.name == self.group_id
            or (
                (not used or column.name in used)
                and (column.name in compared or column.type != "meta" or not column.is_item)
            )
        ]
        if not any(column.is_item for column in columns):
            raise ConfigError(
                f"use_features={used}: none of them is an item column that is a field or that 'similarity' names, so "
                "there is no target item; add the item id."
            )
        return replace(self, columns=tuple(columns))

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "DatasetSchema":
        """Build the schema from FuxiCTR's merged YAML parameters.

        Raises:
            ConfigError: a column has an unknown type, lacks a key that its type needs, or no item column exists.
        """
        feature_cols = params.get("feature_cols") or ()
        labels = params.get("label_col") or {"name": "label"}
        check_columns(feature_cols, labels, params.get("use_features"))
        specs = [spec for spec in _flatten(feature_cols) if spec.get("active", True)]
        columns = [_column(spec["name"], spec, spec.get("pretrain_dim")) for spec in specs]
        label = labels[0]["name"] if isinstance(labels, list) else labels["name"]
        return cls._build(columns, label, params)

    @classmethod
    def from_feature_map(cls, feature_map: Any, **params: Any) -> "DatasetSchema":
        """Build the schema from a loaded ``fuxictr.features.FeatureMap``; roles come from ``params``."""
        columns = [
            _column(name, spec, spec.get("pretrain_dim", spec.get("embedding_dim")))
            for name, spec in feature_map.features.items()
        ]
        label = feature_map.labels[0] if feature_map.labels else "label"
        return cls._build(columns, label, {**params, "group_id": feature_map.group_id})

    @classmethod
    def _build(cls, columns: list[Column], label: str, params: Mapping[str, Any]) -> "DatasetSchema":
        if not any(column.is_item for column in columns):
            raise ConfigError(
                "feature_cols: no active column has 'source: item', so there is no target item; "
                "add it to the item id, e.g. {name: item_id, type: categorical, source: item, ...}."
            )
        return cls(
            item_col=params.get("item_col", "item_id"),
            history_col=params.get("history_col", "item_seq"),
            label_col=label,
            group_id=params.get("group_id"),
            columns=tuple(columns),
            max_len=check_value("key 'max_len'", Positive, params.get("max_len", 100)),
        )


def check_columns(feature_cols: Sequence[Mapping[str, Any]], label_col: Any, use_features: Any = None) -> None:
    """Refuse a key of a column that nothing reads, a value that its reader does not take, and an unknown name.

    Args:
        feature_cols, label_col: as FuxiCTR's YAML gives them.
        use_features: names of columns, where the experiment lists them.

    Raises:
        ConfigError: names the column and the key.
    """
    names: list[str] = []
    for column in feature_cols:
        _check_keys("feature_cols", column)
        for key, value in column.items():
            check_value(f"column {column['name']!r}: {key}", COLUMN_KEYS[key].type, value)
        if column.get("feature_encoder") is not None:
            check_encoder(f"column {column['name']!r}: feature_encoder", column["feature_encoder"])
        if "emb_output_dim" in column and not column.get("feature_encoder"):
            raise ConfigError(
                f"column {column['name']!r}: emb_output_dim says how wide feature_encoder makes it, and there is none; "
                "set embedding_dim."
            )
        names += column["name"] if isinstance(column["name"], list) else [column["name"]]
        if not column.get("active", True):
            continue
        if ignored := [key for key in column if COLUMN_KEYS[key].rewrites]:
            raise ConfigError(
                f"column {column['name']!r}: {ignored[0]!r} needs the data files to be rewritten, which is not done "
                "here; prepare the column in the files, and give vectors as a column of 'type: embedding'."
            )
        if "freeze_emb" in column and column.get("type") != "embedding":
            raise ConfigError(
                f"column {column['name']!r}: freeze_emb belongs to a column of 'type: embedding'; found "
                f"'type: {column.get('type')}'."
            )
        if column.get("normalizer") and column.get("type") != "numeric":
            raise ConfigError(
                f"column {column['name']!r}: normalizer belongs to a column of 'type: numeric'; found "
                f"'type: {column.get('type')}'."
            )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"feature_cols: two columns have the name {twice[0]!r}; rename one.")
    labels = label_col if isinstance(label_col, list) else [label_col]
    if len(labels) != 1:
        raise ConfigError(
            f"label_col: found {len(labels)} labels; one is expected, e.g. {{name: label, dtype: float}}."
        )
    _check_keys("label_col", labels[0])
    for key, value in labels[0].items():
        check_value(f"label_col {labels[0]['name']!r}: {key}", COLUMN_KEYS[key].type, value)
    if labels[0]["name"] in names:
        raise ConfigError(f"label_col: {labels[0]['name']!r} is a column of feature_cols too; take it out there.")
    for name in use_features or ():
        if name not in names:
            raise ConfigError(f"use_features: {name!r} is no column of feature_cols; {nearest(name, names)}.")


def _check_keys(where: str, column: Any) -> None:
    if not isinstance(column, Mapping):
        raise ConfigError(f"{where}: found {column!r:.200}; a mapping with 'name' is expected.")
    for key in column:
        if key not in COLUMN_KEYS:
            raise ConfigError(
                f"{where}: key {key!r} of column {column.get('name')!r} is not known; {nearest(key, COLUMN_KEYS)}."
            )
    if "name" not in column:
        raise ConfigError(f"{where}: a column without 'name': {column}; e.g. {{name: label, dtype: float}}.")


def _flatten(feature_cols: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """FuxiCTR lets one entry carry a list of names."""
    for spec in feature_cols:
        names = spec["name"] if isinstance(spec["name"], list) else [spec["name"]]
        for name in names:
            yield {**spec, "name": name}


def _column(name: str, spec: Mapping[str, Any], width: int | None) -> Column:
    kind = check_value(f"column {name!r}: type", COLUMN_KEYS["type"].type, spec.get("type"))
    is_item = spec.get("source") == "item"
    if not is_item and kind in ("sequence", "embedding"):
        raise ConfigError(
            f"column {name!r}: type={kind!r} is supported for 'source: item' columns only; the history itself is "
            "named by the dataset key 'history_col' and needs no feature column."
        )
    derived = {key: spec[key] for key, known in COLUMN_KEYS.items() if known.derives and spec.get(key) is not None}
    for key in derived:
        if not is_item or kind not in COLUMN_KEYS[key].derives:
            kinds = " or ".join(f"'type: {one}'" for one in COLUMN_KEYS[key].derives)
            raise ConfigError(
                f"column {name!r}: {key!r} needs 'source: item' and {kinds}; a column of 'type: meta' is compared only."
            )
    return Column(
        name=name,
        type=kind,
        source=spec.get("source") or "",
        vocab_size=spec.get("vocab_size"),
        max_len=spec.get("max_len"),
        width=width if kind == "embedding" or (kind == "meta" and derived) else None,
        derived=derived,
        freeze_emb=kind != "embedding" or spec.get("freeze_emb", True),
        normalizer=spec.get("normalizer"),
        scaling=tuple(spec["scaling"]) if spec.get("scaling") else None,
    )
