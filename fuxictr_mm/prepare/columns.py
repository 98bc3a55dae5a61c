"""What a column of a log or of an item table becomes: an id, a number, tags, a vector, or nothing.

Each function gets the values of one column and returns what is written, with the entry of ``feature_cols`` for it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fuxictr_mm.errors import DataError

__all__ = ["Encoded", "context_column", "item_column", "popularity_levels"]

MOST_CATEGORIES = 1000  # distinct values of a column of the log that is taken for categories
TAG_SIGNS = ("|", "^")
SLOTS = 10  # most tags per item that are kept
UNKNOWN = 1  # id of a value that training has not seen; 0 is padding


@dataclass(frozen=True)
class Encoded:
    """A column as it is written.

    Attributes:
        values: a polars series.
        spec: its entry in ``feature_cols``; ``None``: it is kept beside the others, but no feature.
        values_of_ids: what the ids 1, 2, ... stand for; ``None`` where there are none.
        note: what a person should know of it.
    """

    values: pl.Series
    spec: dict[str, Any] | None = None
    values_of_ids: list[str] | None = field(default=None)
    note: str = ""


def context_column(values: pl.Series, in_train: np.ndarray) -> Encoded:
    """A further column of the log: numbers as they are, everything else by ids that training rows give out.

    Args:
        values: (N,).
        in_train: (N,) bool.

    Raises:
        DataError: it has missing numbers.
    """
    name, kind = values.name, values.dtype
    if kind.is_float() or (kind.is_integer() and values.filter(pl.Series(in_train)).n_unique() > MOST_CATEGORIES):
        if values.null_count() or (kind.is_float() and not values.is_finite().all()):
            missing = values.null_count() + int((~values.fill_null(0.0).is_finite()).sum() if kind.is_float() else 0)
            raise DataError(
                f"column {name!r}: {missing:,} of {len(values):,} numbers are missing or not finite; fill them in, or "
                "leave the column out."
            )
        spec = {"name": name, "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"}
        return Encoded(values.cast(pl.Float64), spec)
    ids, known = _numbered(values.cast(pl.String), in_train)
    spec = {"name": name, "active": True, "dtype": "int", "type": "categorical", "vocab_size": len(known) + 2}
    return Encoded(ids, spec, ["unknown", *known])


def _numbered(text: pl.Series, in_train: np.ndarray) -> tuple[pl.Series, list[str]]:
    known = text.filter(pl.Series(in_train)).drop_nulls().unique().sort()
    ids = pl.DataFrame({text.name: known, "id": np.arange(2, len(known) + 2, dtype=np.int64)})
    joined = pl.DataFrame({text.name: text}).join(ids, on=text.name, how="left", maintain_order="left")
    return joined["id"].fill_null(UNKNOWN).alias(text.name), known.to_list()


def item_column(values: pl.Series, embedding_dim: int = 32) -> Encoded:
    """A column of the item table, by what is in it: vectors, tags, categories, numbers; other text is no feature.

    Args:
        values: (n_items,), in the order of the item ids.
        embedding_dim: width to which PCA reduces vectors that are wider.

    Raises:
        DataError: it cannot be told what it is, or vectors have several widths.
    """
    name, kind = values.name, values.dtype
    if isinstance(kind, pl.List | pl.Array):
        inner = kind.inner
        assert inner is not None
        if inner.is_float():
            return _vectors(values, embedding_dim)
        return _tags(values.cast(pl.List(pl.String)))
    if kind == pl.String:
        return _of_text(values)
    if kind == pl.Boolean or (kind.is_integer() and values.n_unique() <= MOST_CATEGORIES):
        return _categories(values.cast(pl.String))
    if kind.is_numeric():
        if values.null_count():
            return Encoded(values, note=f"{name}: kept, but no feature, because {values.null_count():,} are missing")
        spec = {"name": name, "active": True, "dtype": "float", "type": "numeric", "source": "item"}
        return Encoded(values.cast(pl.Float64), {**spec, "normalizer": "StandardScaler"})
    return Encoded(values.cast(pl.String), note=f"{name}: kept as text, but no feature ({kind})")


def _of_text(values: pl.Series) -> Encoded:
    present = values.drop_nulls()
    for sign in TAG_SIGNS:
        if len(present) and present.str.contains(sign, literal=True).mean() > 0.1:  # type: ignore[operator]
            return _tags(values.fill_null("").str.split(sign).list.eval(pl.element().filter(pl.element() != "")))
    if len(present) and present.n_unique() <= min(MOST_CATEGORIES, len(present) // 2):
        return _categories(values)
    return Encoded(values, note=f"{values.name}: kept as text for reports and encode, but no feature")


def _categories(values: pl.Series) -> Encoded:
    ids, known = _numbered(values, np.ones(len(values), bool))
    spec = {"name": values.name, "active": True, "dtype": "int", "type": "categorical", "source": "item"}
    return Encoded(ids, {**spec, "vocab_size": len(known) + 2}, ["unknown", *known])


def _tags(lists: pl.Series) -> Encoded:
    name, lists = lists.name, lists.fill_null([])
    known = lists.explode().drop_nulls().unique().sort()
    if not len(known):
        raise DataError(f"column {name!r}: lists without any tag; leave the column out.")
    slots = min(SLOTS, int(lists.list.len().max()))  # type: ignore[arg-type]
    ids = pl.DataFrame({"tag": known, "id": np.arange(1, len(known) + 1, dtype=np.int64)})
    flat = pl.DataFrame({"row": np.arange(len(lists)), "tag": lists}).explode("tag").drop_nulls()
    rows = flat.join(ids, on="tag", how="left", maintain_order="left").group_by("row", maintain_order=True).agg("id")
    table = np.zeros((len(lists), slots), np.int64)
    for row, of_row in zip(rows["row"].to_list(), rows["id"].to_list()):
        table[row, : min(len(of_row), slots)] = of_row[:slots]
    cut = int((lists.list.len() > slots).sum())
    note = f"{name}: {cut:,} items have more than {slots} tags, of which the first are kept" if cut else ""
    spec = {"name": name, "active": True, "dtype": "int", "type": "sequence", "source": "item"}
    spec |= {"vocab_size": len(known) + 1, "max_len": slots, "feature_encoder": "layers.MaskedAveragePooling()"}
    return Encoded(pl.Series(name, table.tolist(), pl.List(pl.Int64)), spec, known.to_list(), note)


def _vectors(values: pl.Series, embedding_dim: int) -> Encoded:
    name = values.name
    lists = values.cast(pl.List(pl.Float32))
    widths = lists.drop_nulls().list.len().unique().to_list()
    if len(widths) != 1 or not widths[0]:
        raise DataError(f"column {name!r}: vectors of the widths {sorted(widths)[:5]}; all need the same.")
    missing = lists.null_count()
    note = f"{name}: vectors of width {widths[0]}, missing for {missing:,} of {len(values):,} items"
    return Encoded(lists, {"modality": name, "pca": min(embedding_dim, widths[0])}, note=note)


def popularity_levels(clicks: np.ndarray) -> np.ndarray:
    """Deciles of training clicks: (n_items + 1,) counts -> (n_items,) 1 to 10, equal counts in one level."""
    counts = np.sort(clicks[1:])
    at = np.searchsorted(counts, clicks[1:], "right") / len(counts)
    return np.ceil(10 * at).astype(np.int64)
