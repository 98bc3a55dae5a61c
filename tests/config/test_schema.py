"""Roles come from the YAML, and what cannot be a role is refused in one sentence."""

from typing import Any

import pytest

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError
from tests.synthetic import tiny_feature_map

COLUMNS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": ["likes_level", "views_level"], "active": True, "dtype": "int", "type": "categorical", "vocab_size": 11},
    {"name": "price", "active": False, "dtype": "float", "type": "numeric"},
    {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item", "vocab_size": 13},
    {"name": "emb", "type": "embedding", "source": "item", "pca": {"text": 4, "image+audio": 0.9, "raw": None}},
]


def schema(**changes: Any) -> DatasetSchema:
    params = {"feature_cols": COLUMNS, "label_col": {"name": "click"}, "group_id": "user_id", "max_len": 9, **changes}
    return DatasetSchema.from_params(params)


def test_roles_from_yaml() -> None:
    found = schema(item_col="clip", history_col="clips")
    assert (found.item_col, found.history_col, found.label_col, found.group_id) == ("clip", "clips", "click", "user_id")
    assert [column.name for column in found.item_columns] == ["item_id", "emb"]
    assert [column.name for column in found.context_columns] == ["likes_level", "views_level"]
    emb = found.item_columns[1]
    assert emb.derived["pca"] == {"text": 4, "image+audio": 0.9, "raw": None}
    assert list(emb.derived) == ["pca"] and not found.item_columns[0].derived


def test_roles_from_a_feature_map() -> None:
    found = DatasetSchema.from_feature_map(tiny_feature_map(), max_len=6, item_col="item_id")
    assert [column.name for column in found.item_columns] == ["item_id", "item_tags", "item_emb"]
    assert [column.name for column in found.context_columns] == ["likes_level", "views_level"]
    assert found.item_columns[2].width == 7
    assert found.group_id == "user_id"


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"type": "text"}, r"column 'x': type: found 'text'; one of 'categorical', .* is expected"),
        ({"type": "sequence"}, r"column 'x': type='sequence' is supported for 'source: item' columns only"),
        ({"type": "embedding", "pca": {"text": 4}}, r"column 'x': type='embedding' is supported for 'source: item'"),
        (
            {"type": "categorical", "source": "item", "pca": {"text": 4}},
            r"'pca' needs 'source: item' and 'type: embedding' or 'type: meta'",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": 4}, "pca_whiten": 2},
            r"column 'x': pca_whiten: found 2; True or False or at most 1",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": 4}, "pca_whiten": "no"},
            r"pca_whiten: found 'no'; True or False or a number",
        ),
        (
            {"type": "embedding", "source": "item", "pca": 64},
            r"column 'x': pca: found 64; a mapping is expected",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": 0}},
            r"column 'x': pca: found {'text': 0}; at least 1 at 'text'",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": 1.5}},
            r"pca: found {'text': 1.5}; a whole number at 'text' or less than 1 at 'text'",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": True}},
            r"pca: found {'text': True}; a whole number at 'text'",
        ),
        (
            {"type": "embedding", "source": "item", "pca": {"text": 4}, "pca_fit_on": "valid"},
            r"pca_fit_on: found 'valid'; one of 'all' or 'train' is expected",
        ),
    ],
)
def test_refusals(column: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        schema(feature_cols=[*COLUMNS, {"name": "x", **column}])


def test_no_item_column_is_refused() -> None:
    with pytest.raises(ConfigError, match="no active column has 'source: item'"):
        schema(feature_cols=COLUMNS[:2])


@pytest.mark.parametrize("max_len", [0, "50", None])
def test_max_len_is_checked(max_len: Any) -> None:
    with pytest.raises(ConfigError, match=r"key 'max_len': found .* is expected"):
        schema(max_len=max_len)
