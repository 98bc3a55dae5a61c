"""A column of several derivations, one of them a stranger's, for the items of the table and those that come later."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_mm.config.schema import COLUMN_KEYS, ColumnKey, DatasetSchema
from fuxictr_mm.features.derive import derivation as module
from fuxictr_mm.features.derive.derivation import Derivation, WholeRows, derivations_of, derives
from fuxictr_mm.features.derive.modalities import ReducedModalities
from fuxictr_mm.features.table import ItemTable, build_item_table

N = 30
RNG = np.random.default_rng(8)
TEXT = RNG.normal(size=(N + 5, 6)).astype(np.float32)
IMAGE = RNG.normal(size=(N + 5, 4)).astype(np.float32)


class Signs(Derivation):
    """Whether each number of the column is above its mean."""

    name = "signs"

    def __init__(self):
        self.settings = {}

    def fit(self, rows, training):
        ((_, vectors, _),) = rows
        self.mean = vectors.mean(axis=0)
        return self.transform(rows)

    def transform(self, rows):
        ((index, vectors, _),) = rows
        block = np.zeros((rows.n_items + 1, vectors.shape[1]), np.float32)
        block[index] = vectors > self.mean
        return block

    def to_arrays(self):
        return {"mean": self.mean}

    def restore(self, arrays):
        self.mean = arrays["mean"]

    def report(self):
        return {"mean": self.mean.tolist()}

    def feature_spec(self):
        return {"is_sign": True}


@pytest.fixture
def signs() -> Iterator[None]:
    derives("signs")(lambda column, before: [Signs()])
    COLUMN_KEYS["signs"] = ColumnKey(bool, derives=("embedding",))
    yield
    del module._MAKERS["signs"], COLUMN_KEYS["signs"]


def write(path: Path, items: slice) -> Path:
    ids = np.arange(1, N + 6)[items]
    pq.write_table(pa.table({"item_id": ids, "text": TEXT[items].tolist(), "image": IMAGE[items].tolist()}), path)
    return path


def schema_of(**keys: object) -> DatasetSchema:
    emb = {"name": "emb", "type": "embedding", "source": "item", **keys}
    return DatasetSchema.from_params(
        {"feature_cols": [{"name": "item_id", "type": "categorical", "source": "item"}, emb]}
    )


def test_a_derivation_that_replaces_what_was_before_it(signs: None, tmp_path: Path) -> None:
    items = write(tmp_path / "items.parquet", slice(N))
    plain = build_item_table(schema_of(pca={"text": 3, "image": None}), tmp_path, item_info=items)
    # The order of the keys in YAML does not matter.
    table = build_item_table(schema_of(signs=True, pca={"text": 3, "image": None}), tmp_path, item_info=items)
    before, found = plain.columns["emb"], table.columns["emb"]
    mean = before[1:].mean(axis=0)
    np.testing.assert_array_equal(found[1:], before[1:] > mean)
    stored = table.stored["emb"]
    assert stored.modalities == [["emb", 7]] and stored.info["feature_spec"] == {"is_sign": True}
    assert [(r["modality"], r["width"]) for r in stored.info["reports"]] == [("text", 3), ("image", 4), ("signs", 7)]
    table = ItemTable.load(table.path, {"emb": stored.path})
    new = write(tmp_path / "new.parquet", slice(N - 3, None))
    later, later_plain = table.with_items(item_info=new), plain.with_items(item_info=new)
    assert later.item_ids.tolist() == list(range(1, N + 6))
    np.testing.assert_array_equal(later.columns["emb"][N + 1 :], later_plain.columns["emb"][N + 1 :] > mean)
    np.testing.assert_array_equal(later.columns["emb"][: N + 1], found)


def test_the_registry_gives_each_key_its_derivations(signs: None) -> None:
    def found(**keys: object) -> list[tuple[str, str]]:
        return [(type(one).__name__, one.name) for one in derivations_of(schema_of(**keys).item_columns[1])]

    assert found() == []
    assert [name for _, name in found(pca={"b": 2, "a+c": None})] == ["b", "a+c"]
    assert found(signs=True, pca={"b": 2})[-1] == ("Signs", "signs")
    (joint,) = derivations_of(schema_of(pca={"a + c": 2}).item_columns[1])
    assert isinstance(joint, ReducedModalities) and joint.modalities == ("a", "c")
    for clicks, pca in (("ExpectedClicks", {"b": 2}), ("OwnClicks", None)):
        meta = {"type": "meta", "clicks": 3, "pca": pca}
        assert found(**meta)[-1][0] == clicks


def test_whole_rows() -> None:
    values = np.array([[0, 0], [1, 2], [0, 0]], np.float32)
    rows = WholeRows(values)
    for _ in range(2):
        ((index, vectors, is_present),) = rows
        assert index.tolist() == [1, 2] and is_present.tolist() == [[True], [False]]
        np.testing.assert_array_equal(vectors, values[1:])
    assert rows.n_items == 2 and rows.widths == [2]
