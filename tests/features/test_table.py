"""The item table: every strategy against scikit-learn, every file form, later items, parallel builds, refusals."""

import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features import columns
from fuxictr_mm.features import table as item_table_module
from fuxictr_mm.features.columns import ItemColumn
from fuxictr_mm.features.derive import modalities
from fuxictr_mm.features.table import ItemTable, build_item_table, read_item_info
from fuxictr_mm.features.vector_files import export_key_value
from tests.features.test_pca import sklearn_pca

N = 60
RNG = np.random.default_rng(5)
# Not contiguous, and files hold them in another order than the table.
IDS = np.sort(RNG.choice(np.arange(1, 200), N, replace=False))
TEXT = (RNG.normal(size=(N, 8)) * np.linspace(2, 0.2, 8) + 1).astype(np.float32)
IMAGE = (RNG.normal(size=(N, 10)) * np.linspace(40, 4, 10)).astype(np.float32)
TAGS = RNG.integers(0, 20, size=(N, 3))
LIKES = RNG.integers(1, 11, size=N)
PRICE = RNG.normal(size=N)
SHUFFLED = RNG.permutation(N)


def schema_of(*columns, **roles):
    item = {"name": "item_id", "type": "categorical", "source": "item"}
    return DatasetSchema.from_params({"feature_cols": [item, *columns], "label_col": {"name": "label"}, **roles})


def vector(pca, name="emb", **options):
    return {"name": name, "type": "embedding", "source": "item", "pca": pca, **options}


TAG_COL = {"name": "item_tags", "type": "sequence", "source": "item", "vocab_size": 20, "max_len": 3}
PLAIN = [
    TAG_COL,
    {"name": "likes", "type": "categorical", "source": "item", "vocab_size": 11},
    {"name": "price", "type": "numeric", "source": "item"},
    {"name": "ready", "type": "embedding", "source": "item"},
]


def item_rows(rows=SHUFFLED, **changes):
    columns = {
        "item_id": IDS[rows],
        "item_tags": TAGS[rows].tolist(),
        "likes": LIKES[rows],
        "price": PRICE[rows],
        "ready": TEXT[rows, :4].tolist(),
        "txt": TEXT[rows].tolist(),
        "img": IMAGE[rows].tolist(),
    }
    return {name: values for name, values in {**columns, **changes}.items() if values is not None}


def write(path, rows):
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture
def feature_file(tmp_path):
    return write(tmp_path / "item_feature.parquet", item_rows())


def reduced(rows, n_components, *, fit=slice(None), whiten=False, normalize=True):
    """The same by scikit-learn, signs as ModalityPCA fixes them."""
    rows = rows.astype(np.float64)
    pca = sklearn_pca(rows[fit], n_components, whiten=whiten)
    norm = np.sqrt((pca.transform(rows[fit]) ** 2).sum(axis=1).mean())
    return pca.transform(rows) / (norm if normalize else 1)


def unit(rows):
    return rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1).mean())


BOTH = np.concatenate([TEXT, IMAGE], axis=1)
STRATEGIES = {
    "text only": ([vector({"txt": 4})], [reduced(TEXT, 4)]),
    "image only": ([vector({"img": 5})], [reduced(IMAGE, 5)]),
    "concatenate, then one PCA": ([vector({"txt+img": 6})], [reduced(BOTH, 6)]),
    "one PCA per modality": ([vector({"txt": 3, "img": 5})], [np.hstack([reduced(TEXT, 3), reduced(IMAGE, 5)])]),
    "YAML order": ([vector({"img": 5, "txt": 3})], [np.hstack([reduced(IMAGE, 5), reduced(TEXT, 3)])]),
    "separate fields": (
        [vector({"txt": 3}, "t"), vector({"img": 5}, "i")],
        [reduced(TEXT, 3), reduced(IMAGE, 5)],
    ),
    "share of variance": ([vector({"txt": 0.9})], [reduced(TEXT, 0.9)]),
    "raw": ([vector({"txt": None, "img": 2})], [np.hstack([unit(TEXT), reduced(IMAGE, 2)])]),
    "raw, concatenated": ([vector({"txt+img": None})], [unit(BOTH)]),
    "raw, not normalised": ([vector({"img": None}, pca_normalize=False)], [IMAGE]),
    "not normalised": ([vector({"img": 4}, pca_normalize=False)], [reduced(IMAGE, 4, normalize=False)]),
    "whitened": (
        [vector({"img": 4}, pca_whiten=True, pca_normalize=False)],
        [reduced(IMAGE, 4, whiten=True, normalize=False)],
    ),
}


@pytest.mark.parametrize("chunk_rows", [7, 8192])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(tmp_path, monkeypatch, feature_file, strategy, chunk_rows):
    monkeypatch.setattr(modalities, "CHUNK_ROWS", chunk_rows)
    columns, expected = STRATEGIES[strategy]
    table = build_item_table(schema_of(*columns), tmp_path, item_feature=feature_file)
    assert table.item_ids.tolist() == IDS.tolist()
    for column, values in zip(columns, expected):
        vectors = table.columns[column["name"]]
        assert vectors.shape == (N + 1, values.shape[1]) and vectors.dtype == np.float32
        assert not vectors[0].any()
        np.testing.assert_allclose(vectors[1:], values, rtol=1e-4, atol=1e-4)


def test_columns_that_are_read_as_they_are(tmp_path, feature_file):
    table = build_item_table(schema_of(*PLAIN), tmp_path, item_feature=feature_file)
    assert list(table.columns) == ["item_id", "item_tags", "likes", "price", "ready"]
    assert table.columns["item_id"].tolist() == list(range(N + 1))
    for name, values in {"item_tags": TAGS, "likes": LIKES, "price": PRICE, "ready": TEXT[:, :4]}.items():
        column = table.columns[name]
        assert not np.asarray(column[0]).any()
        np.testing.assert_allclose(column[1:], values, rtol=1e-6)
        assert column.dtype == (np.int32 if name in ("item_tags", "likes") else np.float32)


def test_item_info_goes_before_item_feature_and_drops_padding(tmp_path, feature_file):
    with_padding = item_rows(np.arange(N), likes=None, txt=None, img=None)
    padding = {"item_id": [0], "item_tags": [[0, 0, 0]], "price": [0.0], "ready": [[0.0] * 4]}
    with_padding = {name: padding[name] + list(values) for name, values in with_padding.items()}
    with_padding["item_tags"] = [[0, 0, 0], *(19 - TAGS).tolist()]
    info = write(tmp_path / "item_info.parquet", with_padding)
    table = build_item_table(schema_of(*PLAIN), tmp_path, item_info=info, item_feature=feature_file)
    assert np.array_equal(table.columns["item_tags"][1:], 19 - TAGS)  # from item_info
    assert np.array_equal(table.columns["likes"][1:], LIKES)  # only item_feature has it
    columns = [column for column in PLAIN if column["name"] != "likes"]
    ready = read_item_info(info, schema_of(*columns[:-1], vector({"txt": 99}, "ready")))
    assert ready.path is None and np.array_equal(ready.columns["ready"], table.columns["ready"])
    assert ready.item_ids.tolist() == IDS.tolist()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_every_file_form_gives_the_same_table(tmp_path, feature_file, suffix):
    path = tmp_path / f"text{suffix}"
    export_key_value(path, IDS[SHUFFLED], TEXT[SHUFFLED])
    schema = schema_of(vector({"txt": 4, "img": 4}))
    inside = build_item_table(schema, tmp_path / "a", item_feature=feature_file)
    outside = build_item_table(schema, tmp_path / "b", item_feature=feature_file, modality_data={"txt": path})
    assert inside.stored["emb"].path.name != outside.stored["emb"].path.name
    assert np.array_equal(inside.columns["emb"], outside.columns["emb"])


def test_row_order_of_the_files_does_not_matter(tmp_path, feature_file):
    other = RNG.permutation(N)
    export_key_value(tmp_path / "text.h5", IDS[other], TEXT[other])
    export_key_value(tmp_path / "extra.npz", np.append(IDS, 500), np.vstack([IMAGE, IMAGE[:1] * 1000]))
    schema = schema_of(vector({"txt+img": 4, "txt": 2}))
    table = build_item_table(
        schema,
        tmp_path,
        item_feature=feature_file,
        modality_data={"txt": tmp_path / "text.h5", "img": tmp_path / "extra.npz"},  # item 500 is no item here
    )
    expected = np.hstack([reduced(BOTH, 4), reduced(TEXT, 2)])
    np.testing.assert_allclose(table.columns["emb"][1:], expected, rtol=1e-4, atol=1e-4)


def test_missing_vectors(tmp_path):
    no_text, no_image = np.arange(N) % 7 == 0, np.arange(N) % 5 == 0
    text = [None if no_text[i] else TEXT[i].tolist() for i in SHUFFLED]
    path = write(tmp_path / "f.parquet", item_rows(txt=text, img=None))
    export_key_value(tmp_path / "img.npz", IDS[~no_image], IMAGE[~no_image])  # absent rows are missing vectors too
    schema = schema_of(
        vector({"txt": 3, "img": 4}, "each"), vector({"txt+img": 5}, "joint"), vector({"txt": None}, "raw")
    )
    table = build_item_table(schema, tmp_path, item_feature=path, modality_data={"img": tmp_path / "img.npz"})
    each, joint, raw = (table.columns[name][1:] for name in ("each", "joint", "raw"))
    text_block = np.where(no_text[:, None], 0, reduced(TEXT, 3, fit=~no_text))
    image_block = np.where(no_image[:, None], 0, reduced(IMAGE, 4, fit=~no_image))
    np.testing.assert_allclose(each, np.hstack([text_block, image_block]), rtol=1e-4, atol=1e-4)
    whole = ~no_text & ~no_image
    filled = np.hstack(
        [
            np.where(no_text[:, None], TEXT[whole].mean(axis=0), TEXT),
            np.where(no_image[:, None], IMAGE[whole].mean(axis=0), IMAGE),
        ]
    )
    expected = np.where((no_text & no_image)[:, None], 0, reduced(filled, 5, fit=whole))
    np.testing.assert_allclose(joint, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(raw[~no_text], unit(TEXT[~no_text]), rtol=1e-5)
    assert not raw[no_text].any()
    report = {entry["modality"]: entry for column in table.stored.values() for entry in column.info["reports"]}
    assert report["img"]["rows_missing"] == no_image.sum() and report["img"]["rows_fitted"] == (~no_image).sum()
    assert report["txt+img"]["rows_missing"] == (no_text & no_image).sum()
    assert report["txt+img"]["rows_fitted"] == whole.sum()


def write_train(path, targets, histories):
    return write(path, {"item_id": targets, "item_seq": histories, "label": [0] * len(targets)})


def rows_fitted(table):
    return table.stored["emb"].info["reports"][0]["rows_fitted"]


def test_fit_on_train_uses_the_items_that_train_shows(tmp_path, feature_file):
    seen = np.arange(N) < 30
    histories = [[0, 0, IDS[i].item()] for i in range(20)] + [[]]
    train = write_train(tmp_path / "train.parquet", [*IDS[20:30].tolist(), *([999] * 11)], histories)
    schema = schema_of(vector({"txt": 3}, pca_fit_on="train"), vector({"txt": 3}, "on_all"))
    table = build_item_table(schema, tmp_path, item_feature=feature_file, train_data=train)
    np.testing.assert_allclose(table.columns["emb"][1:], reduced(TEXT, 3, fit=seen), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table.columns["on_all"][1:], reduced(TEXT, 3), rtol=1e-4, atol=1e-4)
    assert rows_fitted(table) == 30
    pq.write_table(
        pq.read_table(train).append_column("other_seq", [[[i] for i in IDS[[*range(20), 30]].tolist()]]), train
    )
    first = build_item_table(schema, tmp_path, item_feature=feature_file, train_data=train)
    renamed = schema_of(vector({"txt": 3}, pca_fit_on="train"), vector({"txt": 3}, "on_all"), history_col="other_seq")
    other = build_item_table(renamed, tmp_path, item_feature=feature_file, train_data=train)
    assert (rows_fitted(first), rows_fitted(other)) == (30, 31)
    with pytest.raises(ConfigError, match="pca_fit_on: train, clicks and normalizer need 'train_data'"):
        build_item_table(schema, tmp_path, item_feature=feature_file)
    bad = write(tmp_path / "bad.parquet", {"item_id": ["a"], "item_seq": [[1]]})
    with pytest.raises(
        DataError, match=r"'item_id' has type string; integer ids are expected, so convert it \(cast digits"
    ):
        build_item_table(schema, tmp_path, item_feature=feature_file, train_data=bad)
    none = write_train(tmp_path / "none.parquet", [999], [[998]])
    with pytest.raises(
        DataError, match=r"modality 'txt': none of the 0 items to fit on \(pca_fit_on: train\) has a vec"
    ):
        build_item_table(schema, tmp_path, item_feature=feature_file, train_data=none)


def test_a_column_is_reused_until_what_it_depends_on_changes(tmp_path, feature_file, caplog):
    caplog.set_level(logging.INFO)

    def path(file, *columns):
        return build_item_table(schema_of(*columns), tmp_path, item_feature=file).stored["emb"].path

    first = path(feature_file, vector({"txt": 3}), TAG_COL)
    stamp = first.stat().st_mtime_ns
    caplog.clear()
    copy = write(tmp_path / "renamed.parquet", item_rows())
    again = build_item_table(schema_of(vector({"txt": 3}), TAG_COL), tmp_path, item_feature=copy)
    assert again.stored["emb"].path == first and first.stat().st_mtime_ns == stamp
    assert [record.message.partition(":")[0] for record in caplog.records] == ["Reuse item column"] * 2
    assert list(again.columns) == ["item_id", "emb", "item_tags"]
    # Other columns do not matter, nor does an option at its default; freeze_emb is the model's business.
    same = vector({"txt": 3}, pca_normalize=True, pca_whiten=False, pca_fit_on="all", freeze_emb=False)
    assert path(feature_file, same, vector({"img": 2}, "other")) == first
    for column in (vector({"txt": 4}), vector({"txt": 3}, pca_whiten=True), vector({"txt": 3}, pca_normalize=False)):
        assert path(feature_file, column) != first
    two, swapped = vector({"txt": 3, "img": 3}), vector({"img": 3, "txt": 3})
    assert path(feature_file, two) != path(feature_file, swapped)
    assert path(write(tmp_path / "changed.parquet", item_rows(txt=(TEXT[SHUFFLED] * 2).tolist())), two) != path(
        feature_file, two
    )
    # The same bytes of vectors, but other items.
    export_key_value(tmp_path / "text.npz", IDS, TEXT)
    info = [write(tmp_path / f"{n}.parquet", {"item_id": IDS[:n]}) for n in (N, N - 1)]
    outside = {"modality_data": {"txt": tmp_path / "text.npz"}}
    tables = [build_item_table(schema_of(vector({"txt": 3})), tmp_path, item_info=file, **outside) for file in info]
    assert tables[0].stored["emb"].path != tables[1].stored["emb"].path and tables[0].path != tables[1].path


def test_a_column_is_built_when_it_is_read_and_never_otherwise(tmp_path, feature_file, monkeypatch):
    broken = write(tmp_path / "broken.parquet", item_rows(img=poison(IMAGE[SHUFFLED], 0, [float("nan")] * 10)))
    good, bad = vector({"txt": 3}, "good"), vector({"img": 3}, "bad")
    build_item_table(schema_of(good), tmp_path / "out", item_feature=broken)
    with pytest.raises(DataError, match=r"column 'img', id \d+: NaN"):
        build_item_table(schema_of(good, bad), tmp_path / "out", item_feature=broken)
    monkeypatch.setattr(columns, "_fit", lambda *_: pytest.fail("built twice"))
    table = build_item_table(schema_of(good), tmp_path / "out", item_feature=broken)
    assert list(table.columns) == ["item_id", "good"]
    build_item_table(schema_of(), tmp_path / "out", item_feature=broken)


def test_an_older_table_on_disk_is_not_looked_at(tmp_path, feature_file):
    (tmp_path / "item_table-0123456789abcdef.safetensors").write_bytes(b"anything")
    table = build_item_table(schema_of(vector({"txt": 3})), tmp_path, item_feature=feature_file)
    assert table.columns["emb"].shape == (N + 1, 3)


def test_what_a_killed_build_left_is_removed(tmp_path, feature_file):
    schema = schema_of(vector({"txt": 3}))
    path = build_item_table(schema, tmp_path, item_feature=feature_file).stored["emb"].path
    path.unlink()
    torn = path.with_name(f".{path.name}.999999999-x.tmp")
    torn.write_bytes(b"torn")
    assert build_item_table(schema, tmp_path, item_feature=feature_file).stored["emb"].path == path
    assert not torn.exists()


def test_stored_columns_are_mapped_and_described(tmp_path, feature_file):
    table = build_item_table(schema_of(vector({"txt": 3}), *PLAIN), tmp_path, item_feature=feature_file)
    path = table.stored["emb"].path
    values = table.columns["emb"]
    values[0] = 1.0  # a private copy of the page: the file stays as it is
    assert not ItemColumn.load(path).values[0].any()
    while isinstance(values, np.ndarray) and not isinstance(values, np.memmap):
        values = values.base
    assert isinstance(values, np.memmap)
    info = ItemColumn.load(path).info
    assert info["sources"]["txt"]["file"] == "item_feature.parquet" and str(tmp_path) not in json.dumps(info)
    assert info["column"]["name"] == "emb" and info["column"]["derived"] == {"pca": {"txt": 3}}
    (report,) = info["reports"]
    theirs = sklearn_pca(TEXT, 3)
    np.testing.assert_allclose(report["explained_variance_ratio"], theirs.explained_variance_ratio_, rtol=1e-4)
    assert report["variance_kept"] == pytest.approx(theirs.explained_variance_ratio_.sum())
    assert (report["raw_widths"], report["width"], report["rows_fitted"], report["rows_missing"]) == ([8], 3, N, 0)
    assert {"numpy", "scikit-learn"} <= set(info["libraries"])
    assert oct(path.stat().st_mode) == oct(feature_file.stat().st_mode)
    table, loaded = load_again(table), load_again(table)
    assert all(np.array_equal(loaded.columns[name], values) for name, values in table.columns.items())
    assert loaded.item_ids.tolist() == IDS.tolist() and list(loaded.columns) == list(table.columns)


def load_again(table):
    return ItemTable.load(table.path, {name: column.path for name, column in table.stored.items()})


def test_damaged_and_foreign_files_are_refused(tmp_path, feature_file):
    schema = schema_of(vector({"txt": 3}))
    table = build_item_table(schema, tmp_path, item_feature=feature_file)
    path = table.stored["emb"].path
    whole = path.read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            DataError, match=r"not a whole file of item arrays \(.*\); delete it, and the next run builds it anew"
        ):
            build_item_table(schema, tmp_path, item_feature=feature_file)
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(DataError, match=r"not a whole file of item arrays"):
        ItemColumn.load(path)
    with pytest.raises(DataError, match=r"format 'fuxictr_mm item ids 2', expected 'fuxictr_mm item column 2'"):
        ItemColumn.load(table.path)
    path.write_bytes(whole)
    info = write(tmp_path / "info.parquet", {"item_id": IDS[:-1]})
    fewer = build_item_table(schema_of(), tmp_path, item_info=info)
    with pytest.raises(DataError, match=rf"emb-.*: {N} items, but .*item_ids-.* has {N - 1}; delete both"):
        ItemTable.load(fewer.path, {"emb": path})
    path.unlink()
    with pytest.raises(DataError, match=r"not a whole file of item arrays \(.*No such file"):
        ItemTable.load(table.path, {"emb": path})


def test_no_flipped_bit_gets_through(tmp_path, feature_file):
    columns = [vector({"txt": 3}), TAG_COL]
    table = build_item_table(schema_of(*columns), tmp_path, item_feature=feature_file)
    for path in (table.path, table.stored["emb"].path, table.stored["item_tags"].path):
        whole = path.read_bytes()
        for at in range(0, len(whole), 11):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            with pytest.raises(DataError, match=rf"{path.name}: "):
                load_again(table)
        path.write_bytes(whole)
    assert load_again(table).columns["item_tags"].tolist() == table.columns["item_tags"].tolist()


class Replaced:
    """Puts other contents into a file while it is being read, so many times."""

    def __init__(self, monkeypatch, path, contents):
        self.path, self.contents = path, list(contents)
        real = columns._fit

        def fit(*args):
            found = real(*args)
            if self.contents:
                other = path.with_name("other")
                write(other, self.contents.pop(0))
                other.replace(path)
            return found

        monkeypatch.setattr(columns, "_fit", fit)


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, feature_file, monkeypatch, caplog):
    schema = schema_of(vector({"txt": None}, pca_normalize=False))
    before = build_item_table(schema, tmp_path / "before", item_feature=feature_file)
    other = item_rows(txt=(TEXT[SHUFFLED] + 1).tolist())
    Replaced(monkeypatch, feature_file, [other])
    table = build_item_table(schema, tmp_path / "out", item_feature=feature_file)
    np.testing.assert_array_equal(table.columns["emb"][1:], TEXT + 1)
    assert "replaced while the item columns were read" in caplog.text
    assert [path.name for path in (tmp_path / "out").glob("emb-*")] == [table.stored["emb"].path.name]
    assert table.stored["emb"].path.name != before.stored["emb"].path.name  # nothing is kept under the old name
    again = build_item_table(schema, tmp_path / "out", item_feature=feature_file)
    np.testing.assert_array_equal(again.columns["emb"], table.columns["emb"])


def test_a_file_that_is_replaced_without_end_is_refused(tmp_path, feature_file, monkeypatch):
    contents = [item_rows(txt=(TEXT[SHUFFLED] + 1 + i).tolist()) for i in range(9)]
    Replaced(monkeypatch, feature_file, contents)
    with pytest.raises(DataError, match=r"item_feature.parquet: replaced 3 times while being read; wait until"):
        build_item_table(schema_of(vector({"txt": 2})), tmp_path / "out", item_feature=feature_file)
    assert not list((tmp_path / "out").glob("emb-*"))


@pytest.mark.parametrize("ids", [IDS, np.arange(1, 61), IDS * 10**12])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32])
def test_index_of(ids, dtype):
    if ids.max() > np.iinfo(dtype).max:
        pytest.skip("these ids need int64")
    table = ItemTable(ids)
    unknown = np.setdiff1d(np.arange(1, 300), ids)[:5]
    raw = np.concatenate([ids[::-1], [0], unknown, [np.iinfo(dtype).max]]).astype(dtype)
    expected = [*range(N, 0, -1), 0, *[-1] * 6]
    assert table.index_of(raw).tolist() == expected and table.index_of(raw).dtype == np.int32
    assert table.index_of(raw[:66].reshape(6, 11)).tolist() == np.reshape(expected[:66], (6, 11)).tolist()
    assert table.index_of(-5) == -1 and table.index_of(ids[3]).shape == () and table.index_of([]).shape == (0,)


def test_later_items_go_through_the_saved_pca(tmp_path, feature_file):
    schema = schema_of(vector({"txt": 3, "img": None}), vector({"txt+img": 4}, "joint", pca_whiten=True), *PLAIN)
    table = build_item_table(schema, tmp_path, item_feature=feature_file)
    rng = np.random.default_rng(9)
    text, image = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(4, 10)).astype(np.float32)
    ids = np.sort(np.setdiff1d(np.arange(1, 400), IDS)[[3, 40, 200, 90]])
    rows = [2, 0, 3, 1]
    new = item_rows(rows, item_id=ids[rows], txt=text[rows].tolist(), img=image[rows].tolist())
    later = load_again(table).with_items(item_feature=write(tmp_path / "new.parquet", new))
    assert later.item_ids.tolist() == [*IDS, *ids] and later.path is None
    for name, values in table.columns.items():
        assert np.array_equal(later.columns[name][: N + 1], values)
    assert later.columns["item_id"][N + 1 :].tolist() == [0, 0, 0, 0]  # cold: no row of an id embedding is theirs
    assert later.index_of(ids).tolist() == [N + 1, N + 2, N + 3, N + 4] and later.index_of(IDS[5]) == 6
    pca = sklearn_pca(TEXT, 3)
    norm = np.sqrt((pca.transform(TEXT) ** 2).sum(axis=1).mean())
    by_hand = np.hstack([pca.transform(text) / norm, image / np.sqrt((IMAGE**2).sum(axis=1).mean())])
    np.testing.assert_allclose(later.columns["emb"][N + 1 :], by_hand, rtol=1e-4, atol=1e-4)
    assert np.array_equal(later.columns["likes"][N + 1 :], LIKES[:4])
    saved = later.save(tmp_path / "later")
    assert np.array_equal(saved.columns["joint"], later.columns["joint"]) and saved.n_items == N + 4
    assert np.array_equal(saved.columns["item_id"], later.columns["item_id"])
    again = saved.with_items(item_feature=write(tmp_path / "x.parquet", item_rows([0], item_id=[5000])))
    assert again.columns["item_id"].tolist() == [*range(N + 1), 0, 0, 0, 0, 0]
    assert again.index_of([5000, *ids]).tolist() == [N + 5, N + 1, N + 2, N + 3, N + 4]
    assert later.with_items(item_feature=feature_file) is later  # all known
    changed = item_rows(txt=rng.normal(size=(N, 8)).astype(np.float32).tolist())
    catalogue = write(tmp_path / "catalogue.parquet", pa.concat_tables([pa.table(new), pa.table(changed)]).to_pydict())
    whole = table.with_items(item_feature=catalogue)  # known items stay as they are, whatever the file says of them
    assert whole.item_ids.tolist() == later.item_ids.tolist()
    assert all(np.array_equal(values, later.columns[name]) for name, values in whole.columns.items())
    narrow = write(tmp_path / "narrow.parquet", item_rows(rows, item_id=ids[rows] + 10**6, txt=text[:, :5].tolist()))
    with pytest.raises(DataError, match=rf"column 'txt', id {ids[2] + 10**6}: vector of length 5, expected 8"):
        later.with_items(item_feature=narrow)


def test_export_gives_raw_ids_and_real_items(tmp_path, feature_file):
    table = build_item_table(schema_of(vector({"txt": 3}), TAG_COL), tmp_path, item_feature=feature_file)
    table.export("emb", tmp_path / "emb.npz")
    with np.load(tmp_path / "emb.npz") as file:
        assert np.array_equal(file["key"], IDS) and np.array_equal(file["value"], table.columns["emb"][1:])
    with pytest.raises(
        ConfigError, match=r"column 'item_tags' is no vector column of the item table; it has \['emb'\]"
    ):
        table.export("item_tags", tmp_path / "tags.npz")


def build_in_process(folder, barrier, built):
    def fit(*arguments):
        built.put(1)
        time.sleep(0.3)
        return _fit(*arguments)

    _fit, columns._fit = columns._fit, fit
    barrier.wait()
    schema = schema_of(vector({"txt": 3, "img": 3, "txt+img": 2}))
    table = build_item_table(schema, Path(folder) / "out", item_feature=Path(folder) / "item_feature.parquet")
    assert table.columns["emb"].shape == (N + 1, 8)


def test_of_two_processes_one_builds_and_both_end_whole(tmp_path, feature_file):
    context = multiprocessing.get_context("spawn")
    barrier, built = context.Barrier(2), context.Queue()
    workers = [context.Process(target=build_in_process, args=(str(tmp_path), barrier, built)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert built.get() and built.empty()
    schema = schema_of(vector({"txt": 3, "img": 3, "txt+img": 2}))
    alone = build_item_table(schema, tmp_path / "alone", item_feature=feature_file)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == sorted([alone.path.name, alone.stored["emb"].path.name])
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def poison(rows, row, value):
    rows = rows.tolist()
    rows[row] = value
    return rows


FIRST = IDS[SHUFFLED[0]]
REFUSALS = {
    "missing column": (
        dict(likes=None),
        PLAIN,
        DataError,
        r"item column 'likes' is missing: .*f.parquet has \['item_id', .*'img'\]; check",
    ),
    "missing modality": (
        dict(txt=None),
        [vector({"txt": 2})],
        DataError,
        "item column 'txt' is missing: .* check its name",
    ),
    "double item": (
        dict(item_id=[FIRST, FIRST, *IDS[SHUFFLED[2:]]]),
        [],
        DataError,
        rf"id {FIRST} occurs 2 times in column 'item_id'",
    ),
    "negative item": (
        dict(item_id=[-4, *IDS[SHUFFLED[1:]]]),
        [],
        DataError,
        r"row 0: negative id -4; ids must be >= 0",
    ),
    "text item": (
        dict(item_id=["a"] * N),
        [],
        DataError,
        "column 'item_id' has type string; integer ids are expected",
    ),
    "no id column": (dict(item_id=None), [], DataError, "column 'item_id' is missing; found"),
    "list length": (
        dict(item_tags=poison(TAGS[SHUFFLED], 0, [1, 2])),
        PLAIN,
        DataError,
        rf"column 'item_tags', item {FIRST}: list of length 2, expected 3 as in 'max_len' in the YAML; pad shorter",
    ),
    "tag out of vocab": (
        dict(item_tags=poison(TAGS[SHUFFLED], 0, [1, 20, 2])),
        PLAIN,
        DataError,
        rf"'item_tags', item {FIRST}: id 20 is outside 0..19 \(vocab_size=20; 1 such ids, largest 20\)",
    ),
    "negative tag": (
        dict(item_tags=poison(TAGS[SHUFFLED], 0, [1, -1, 2])),
        PLAIN,
        DataError,
        rf"'item_tags', item {FIRST}: id -1 is outside 0..19",
    ),
    "float tags": (
        dict(item_tags=TEXT[:, :3].tolist()),
        PLAIN,
        DataError,
        "'item_tags', item 1: found .*; a whole number is expected",
    ),
    "null tags": (
        dict(item_tags=poison(TAGS[SHUFFLED], 0, None)),
        PLAIN,
        DataError,
        rf"'item_tags', item {FIRST}: null \(1 such items\)",
    ),
    "scalar tags": (
        dict(item_tags=LIKES),
        PLAIN,
        DataError,
        "'item_tags' has type int64; lists of integer ids are expected",
    ),
    "level out of vocab": (
        dict(likes=LIKES + 1),
        PLAIN,
        DataError,
        r"column 'likes', item \d+: id 11 is outside 0..10",
    ),
    "nan price": (
        dict(price=[float("nan"), *PRICE[1:]]),
        PLAIN,
        DataError,
        rf"'price', item {FIRST}: NaN or inf \(1 such items\)",
    ),
    "text price": (dict(price=["x"] * N), PLAIN, DataError, "'price' has type string; numbers are expected"),
    "nan vector": (
        dict(txt=poison(TEXT[SHUFFLED], 0, [float("nan")] * 8)),
        [vector({"txt": 2})],
        DataError,
        rf"column 'txt', id {FIRST}: NaN, null or inf inside the vector",
    ),
    "vector length": (
        dict(txt=poison(TEXT[SHUFFLED], 1, [1.0])),
        [vector({"txt": 2})],
        DataError,
        rf"column 'txt', id {IDS[SHUFFLED[1]]}: vector of length 1, expected 8",
    ),
    "ready-made width": (
        {},
        [{**PLAIN[3], "pretrain_dim": 9}],
        DataError,
        rf"column 'ready', id {FIRST}: vector of length 4, expected 9",
    ),
    "pca width": (
        {},
        [vector({"txt": 2}, pretrain_dim=9)],
        ConfigError,
        "column 'emb': pretrain_dim=9 but what is derived for it has the width 2; leave",
    ),
    "too many components": (
        {},
        [vector({"txt": 9})],
        ConfigError,
        r"column 'emb', modality 'txt': n_components=9 must be between 1 and min\(n_samples=60, n_features=8\)=8; use",
    ),
    "meta": (
        {},
        [{"name": "likes", "type": "meta", "source": "item"}],
        ConfigError,
        "column 'likes': a 'source: item' column of 'type: meta' holds vectors and needs 'pca'",
    ),
    "only padding": (
        {name: values[:1] for name, values in item_rows(item_id=[0]).items()},
        [],
        DataError,
        "f.parquet: no item besides padding id 0; at least one is expected",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(tmp_path, case):
    changes, columns, error, sentence = REFUSALS[case]
    path = write(tmp_path / "f.parquet", item_rows(**changes))
    with pytest.raises(error, match=sentence) as caught:
        build_item_table(schema_of(*columns), tmp_path / "out", item_feature=path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/emb*"))


def test_refuses_a_vocabulary_without_room(tmp_path, feature_file):
    item = {"name": "item_id", "type": "categorical", "source": "item", "vocab_size": N}
    schema = DatasetSchema.from_params({"feature_cols": [item]})
    with pytest.raises(
        DataError, match="'item_id': vocab_size=60 but there are 60 items and a padding id; use vocab_size >= 61"
    ):
        build_item_table(schema, tmp_path, item_feature=feature_file)
    item["vocab_size"] = N + 1
    table = build_item_table(DatasetSchema.from_params({"feature_cols": [item]}), tmp_path, item_feature=feature_file)
    # An item that comes later takes no place in the vocabulary.
    later = table.with_items(item_feature=write(tmp_path / "one.parquet", {"item_id": [10**9]}))
    assert later.columns["item_id"].tolist() == [*range(N + 1), 0] and later.index_of(10**9) == N + 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"item_tags": [[0, 1, 20]]}, r"column 'item_tags', item 777: id 20 is outside 0..19 \(vocab_size=20;"),
        ({"item_tags": [[0, 1]]}, "column 'item_tags', item 777: list of length 2, expected 3"),
        ({"likes": [11]}, r"column 'likes', item 777: id 11 is outside 0..10 \(vocab_size=11; 1 such ids"),
        ({"ready": [[1.0, 2.0]]}, "column 'ready', id 777: vector of length 2, expected 4"),
        ({"txt": [[1.0, 2.0]]}, "column 'txt', id 777: vector of length 2, expected 8"),
    ],
)
def test_later_items_must_fit_the_models_of_the_table(tmp_path, feature_file, changes, sentence):
    """What the YAML left to the data is bound by the table: an id beyond would index outside an embedding."""
    open_columns = [{key: v for key, v in column.items() if key not in ("vocab_size", "max_len")} for column in PLAIN]
    table = build_item_table(schema_of(*open_columns, vector({"txt": 3})), tmp_path, item_feature=feature_file)
    assert (table.columns["item_tags"].max(), table.columns["likes"].max()) == (19, 10)
    fits = write(tmp_path / "fits.parquet", item_rows([0], item_id=[777], item_tags=[[0, 1, 19]], likes=[10]))
    assert table.with_items(item_feature=fits).columns["item_tags"][-1].tolist() == [0, 1, 19]
    new = write(tmp_path / "new.parquet", item_rows([0], item_id=[777], **changes))
    with pytest.raises(DataError, match=sentence):
        table.with_items(item_feature=new)


def test_refuses_files_that_lack_items_or_are_absent(tmp_path, feature_file):
    info = write(tmp_path / "info.parquet", {"item_id": [*IDS, 777]})
    with pytest.raises(DataError, match=r"column 'likes' has no row for item 777 \(1 of 61 items are missing\)"):
        build_item_table(schema_of(PLAIN[1]), tmp_path, item_info=info, item_feature=feature_file)
    table = build_item_table(schema_of(vector({"txt": 2})), tmp_path, item_info=info, item_feature=feature_file)
    assert not table.columns["emb"][table.index_of(777)].any()  # a vector may be missing
    with pytest.raises(ConfigError, match="neither 'item_info' nor 'item_feature' is given"):
        build_item_table(schema_of(), tmp_path)
    with pytest.raises(DataError, match=r"absent.parquet: file not found"):
        build_item_table(schema_of(), tmp_path, item_feature=tmp_path / "absent.parquet")
    with pytest.raises(DataError, match=r"modality_data of 'txt': .*absent.h5: file not found"):
        build_item_table(
            schema_of(vector({"txt": 2})),
            tmp_path,
            item_feature=feature_file,
            modality_data={"txt": tmp_path / "absent.h5"},
        )


def test_large_ids_do_not_need_a_large_lookup(monkeypatch):
    monkeypatch.setattr(item_table_module, "LOOKUP_IDS", 10)
    assert ItemTable(np.array([5, 7, 12])).index_of([12, 5, 6, 0, -1]).tolist() == [3, 1, -1, 0, -1]


@pytest.mark.real_data
def test_lfm2k(tmp_path):
    root = os.environ.get("FUXICTR_MM_REAL_DATA")
    if not root or not Path(root, "lfm2k").is_dir():
        pytest.skip("FUXICTR_MM_REAL_DATA does not name a folder with lfm2k/")
    file = Path(root, "lfm2k", "item_feature.parquet")
    tags = {"name": "item_tags", "type": "sequence", "source": "item", "vocab_size": 417, "max_len": 5}
    schema = schema_of(tags, vector({"txt_emb_MiniLM": 16, "aud_emb_Whisper": 16}))
    table = build_item_table(schema, tmp_path, item_feature=file)
    raw = pq.read_table(file).sort_by("item_id").to_pydict()
    blocks = [reduced(np.array(raw[name], np.float32), 16) for name in ("txt_emb_MiniLM", "aud_emb_Whisper")]
    np.testing.assert_allclose(table.columns["emb"][1:], np.hstack(blocks), atol=1e-4)
    assert np.array_equal(table.columns["item_tags"][1:], raw["item_tags"])
    for block in np.split(table.columns["emb"], 2, axis=1):
        assert np.sqrt((block[1:] ** 2).sum(axis=1).mean()) == pytest.approx(1, abs=1e-3)
