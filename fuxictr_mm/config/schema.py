"""What each column of a dataset is for, read once from FuxiCTR's own YAML keys.

Every other room asks the schema for names, widths and roles, so that none of them stands in code. FuxiCTR describes
columns twice, in ``feature_cols`` (YAML, before processing) and in ``feature_map.json`` (after); both lead to the
same :class:`DatasetSchema`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fuxictr_mm.errors import ConfigError

__all__ = ["Column", "DatasetSchema"]

COLUMN_TYPES = ("categorical", "numeric", "sequence", "embedding", "meta")


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
        pca: for a derived vector: ``{"modality" or "modality+modality": components}``; the number is a width (int),
            a share of variance (float < 1) or ``None`` for the raw vector.
        pca_whiten, pca_normalize, pca_fit_on: options of the derivation, see :mod:`fuxictr_mm.features`.
        clicks: of an item ``meta`` column: it holds click vectors of this width, expected from what ``pca`` gives or,
            without ``pca``, of the items' own clicks; see :mod:`fuxictr_mm.features.derive.clicks`.
        freeze_emb: FuxiCTR's word; False: models of ours go on training the vectors of this ``embedding`` column.
    """

    name: str
    type: str
    source: str = ""
    vocab_size: int | None = None
    max_len: int | None = None
    width: int | None = None
    pca: Mapping[str, int | float | None] | None = None
    pca_whiten: bool | float = False
    pca_normalize: bool = True
    pca_fit_on: str = "all"
    clicks: int | None = None
    freeze_emb: bool = True

    @property
    def is_item(self) -> bool:
        return self.source == "item"

    @property
    def has_own_clicks(self) -> bool:
        """Whether it is derived from clicks alone, and from no file of items."""
        return self.clicks is not None and self.pca is None


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

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "DatasetSchema":
        """Build the schema from FuxiCTR's merged YAML parameters.

        Raises:
            ConfigError: a column has an unknown type, lacks a key that its type needs, or no item column exists.
        """
        columns = []
        for spec in _flatten(params.get("feature_cols") or ()):
            if spec.get("active", True):
                columns.append(_column(spec["name"], spec, spec.get("pretrain_dim")))
        labels = params.get("label_col") or {"name": "label"}
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
        item_col = params.get("item_col", "item_id")
        max_len = params.get("max_len", 100)
        if not isinstance(max_len, int) or max_len < 1:
            raise ConfigError(f"max_len={max_len!r} must be a whole number of history items, at least 1.")
        return cls(
            item_col=item_col,
            history_col=params.get("history_col", "item_seq"),
            label_col=label,
            group_id=params.get("group_id"),
            columns=tuple(columns),
            max_len=max_len,
        )


def _flatten(feature_cols: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """FuxiCTR lets one entry carry a list of names."""
    for spec in feature_cols:
        names = spec["name"] if isinstance(spec["name"], list) else [spec["name"]]
        for name in names:
            yield {**spec, "name": name}


def _column(name: str, spec: Mapping[str, Any], width: int | None) -> Column:
    kind = spec.get("type")
    if kind not in COLUMN_TYPES:
        raise ConfigError(f"column {name!r}: type={kind!r} is not one of {list(COLUMN_TYPES)}.")
    if spec.get("source") != "item" and kind in ("sequence", "embedding"):
        raise ConfigError(
            f"column {name!r}: type={kind!r} is supported for 'source: item' columns only; the history itself is "
            "named by the dataset key 'history_col' and needs no feature column."
        )
    pca = spec.get("pca")
    if pca is not None:
        _check_pca(name, kind, spec)
    clicks = spec.get("clicks")
    if clicks is not None and (kind != "meta" or spec.get("source") != "item"):
        raise ConfigError(
            f"column {name!r}: 'clicks' needs 'source: item' and 'type: meta', since click vectors are compared only."
        )
    if clicks is not None and not (isinstance(clicks, int) and not isinstance(clicks, bool) and clicks >= 1):
        raise ConfigError(f"column {name!r}: clicks={clicks!r} must be the width of the click vectors, at least 1.")
    return Column(
        name=name,
        type=kind,
        source=spec.get("source") or "",
        vocab_size=spec.get("vocab_size"),
        max_len=spec.get("max_len"),
        width=width if kind == "embedding" or (kind == "meta" and pca is not None) else None,
        pca=dict(pca) if pca is not None else None,
        pca_whiten=spec.get("pca_whiten") or False,
        pca_normalize=bool(spec.get("pca_normalize", True)),
        pca_fit_on=spec.get("pca_fit_on", "all"),
        clicks=spec.get("clicks"),
        freeze_emb=kind != "embedding" or spec.get("freeze_emb", True),
    )


def _check_pca(name: str, kind: str, spec: Mapping[str, Any]) -> None:
    pca = spec["pca"]
    if kind not in ("embedding", "meta") or spec.get("source") != "item":
        raise ConfigError(
            f"column {name!r}: 'pca' needs 'source: item' and 'type: embedding', or 'type: meta' for vectors that are "
            "compared only."
        )
    if not isinstance(pca, Mapping) or not pca:
        raise ConfigError(f"column {name!r}: pca={pca!r} must map modality names to widths, e.g. {{txt_emb_BERT: 64}}.")
    for modality, size in pca.items():
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        share = isinstance(size, float) and 0 < size < 1
        if not (whole or share or size is None):
            raise ConfigError(
                f"column {name!r}: pca width {size!r} of {modality!r} must be a whole number >= 1, "
                "a share of variance between 0 and 1, or null for the raw vector."
            )
    whiten = spec.get("pca_whiten") or False
    if not isinstance(whiten, bool | int | float) or not 0 <= whiten <= 1:
        raise ConfigError(
            f"column {name!r}: pca_whiten={whiten!r} must be True, False or the power between 0 and 1 of the standard "
            "deviation that components are divided by."
        )
    fit_on = spec.get("pca_fit_on", "all")
    if fit_on not in ("all", "train"):
        raise ConfigError(f"column {name!r}: pca_fit_on={fit_on!r} must be 'all' or 'train'.")
