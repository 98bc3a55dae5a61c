"""Reading vectors from every file form, and every sentence that a bad file gets."""

import re

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuxictr.preprocess.tokenizer import load_pretrain_emb

from fuxictr_mm.errors import DataError
from fuxictr_mm.features.vector_files import export_key_value, iter_vectors, read_ids
from tests.synthetic import write_parquet

IDS = np.array([7, 3, 9, 4, 12])
VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def read_all(path, chunk_rows=2, **options):
    parts = list(iter_vectors(path, "txt", "item_id", chunk_rows, **options))
    assert all(len(part[0]) <= chunk_rows for part in parts)
    return [np.concatenate(column) for column in zip(*parts)]


def write_vectors(path, values, ids=IDS, kind=None, names=("item_id", "txt")):
    return write_parquet(pa.table({names[0]: pa.array(ids), names[1]: pa.array(values, kind)}), path)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)])
def test_parquet_column_with_missing_vectors(tmp_path, kind):
    values = [None, VECTORS[1].tolist(), None, VECTORS[3].tolist(), None]
    ids, vectors, is_present = read_all(write_vectors(tmp_path / "f.parquet", values, kind=kind))
    assert ids.tolist() == IDS.tolist() and ids.dtype == np.int64
    assert is_present.tolist() == [False, True, False, True, False]
    assert np.array_equal(vectors, np.where(is_present[:, None], VECTORS, 0)) and vectors.dtype == np.float32


def test_a_first_chunk_of_nulls_waits_for_the_width(tmp_path):
    path = write_vectors(tmp_path / "f.parquet", [None, None, None, None, VECTORS[4].tolist()])
    ids, vectors, is_present = read_all(path)
    assert ids.tolist() == IDS.tolist() and vectors.shape == (5, 3) and is_present.tolist() == [False] * 4 + [True]
    only_nulls = write_vectors(tmp_path / "n.parquet", [None] * 5, kind=pa.list_(pa.float32()))
    with pytest.raises(DataError, match="column 'txt' holds no vector, only nulls"):
        read_all(only_nulls)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
def test_exported_files_come_back_here_and_in_the_host(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    export_key_value(path, IDS, VECTORS)
    ids, vectors, is_present = read_all(path)
    assert np.array_equal(ids, IDS) and np.array_equal(vectors, VECTORS) and is_present.all()
    try:
        keys, values = load_pretrain_emb(str(path))
    except NameError as err:  # 2.3.7 and 2.3.9 use pandas there without importing it
        pytest.skip(f"load_pretrain_emb of this fuxictr cannot read {suffix}: {err}")
    assert np.array_equal(keys, IDS) and np.array_equal(values, VECTORS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_in_any_memory_order(tmp_path, save, order):
    save(tmp_path / "v.npz", key=IDS.astype(np.int32), value=np.asarray(VECTORS.astype(np.float64), order=order))
    ids, vectors, _ = read_all(tmp_path / "v.npz")
    assert np.array_equal(ids, IDS) and np.array_equal(vectors, VECTORS)


def test_the_modalitys_own_column_goes_before_key_and_value(tmp_path):
    table = pa.table({"item_id": IDS, "txt": VECTORS.tolist(), "key": IDS + 1, "value": (VECTORS * 2).tolist()})
    pq.write_table(table, tmp_path / "f.parquet")
    ids, vectors, _ = read_all(tmp_path / "f.parquet")
    assert np.array_equal(ids, IDS) and np.allclose(vectors, VECTORS)


def poison(value):
    rows = VECTORS.tolist()
    rows[3][1] = value
    return rows


BAD_PARQUET = {
    "shorter vector": (dict(values=[[1.0, 2.0, 3.0]] * 3 + [[1.0, 2.0]] * 2), "id 4: vector of length 2, expected 3"),
    "empty vector": (dict(values=[[]] * 5, kind=pa.list_(pa.float32())), "id 7: empty vector; write null"),
    "nan": (dict(values=poison(float("nan"))), "column 'txt', id 4: NaN, null or inf inside the vector"),
    "inf": (dict(values=poison(float("inf"))), "column 'txt', id 4: NaN, null or inf inside the vector"),
    "too large for float32": (dict(values=poison(1e300)), "column 'txt', id 4: NaN, null or inf inside the vector"),
    "null inside": (dict(values=poison(None)), "column 'txt', id 4: NaN, null or inf inside the vector"),
    "text": (dict(values=[["a"]] * 5), "column 'txt' has type list<.*string>; lists of numbers are expected"),
    "no list": (dict(values=[1.0] * 5), "column 'txt' has type double; lists of numbers are expected"),
    "double id": (
        dict(values=VECTORS.tolist(), ids=np.array([7, 3, 9, 3, 12])),
        "id 3 occurs 2 times in column 'item_id' (rows 1 and 3); keep one row per item.",
    ),
    "negative id": (
        dict(values=VECTORS.tolist(), ids=np.array([7, 3, -9, 4, 12])),
        "id column 'item_id', row 2: negative id -9; ids must be >= 0.",
    ),
    "text id": (
        dict(values=VECTORS.tolist(), ids=list("abcde")),
        "column 'item_id' has type string; integer ids are expected",
    ),
    "null id": (
        dict(values=VECTORS.tolist(), ids=[1, None, 2, 3, 4]),
        "id column 'item_id' has 1 nulls; every row needs its id.",
    ),
    "other columns": (
        dict(values=VECTORS.tolist(), names=("item_id", "image")),
        "no vectors of 'txt' here: neither columns 'item_id' and 'txt' nor 'key' and 'value'; "
        "found ['item_id', 'image'].",
    ),
    "empty": (dict(values=[], ids=np.array([], int), kind=pa.list_(pa.float32())), "no rows; at least one item"),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_refuses_bad_parquet(tmp_path, case):
    arguments, sentence = BAD_PARQUET[case]
    path = write_vectors(tmp_path / "f.parquet", **arguments)
    pattern = sentence if "*" in sentence else re.escape(sentence)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*{pattern}"):
        read_all(path)


def test_refuses_another_width_than_the_declared_one(tmp_path):
    path = write_vectors(tmp_path / "f.parquet", VECTORS.tolist())
    with pytest.raises(DataError, match=r"id 7: vector of length 3, expected 4 as in .* 'pretrain_dim'"):
        read_all(path, width=4)


BAD_ARRAYS = {
    "no value": (dict(key=IDS), "'key' (ids) and 'value' (vectors) are expected; found ['key']."),
    "no key": (dict(value=VECTORS), "'key' (ids) and 'value' (vectors) are expected; found ['value']."),
    "float key": (dict(key=IDS * 1.5, value=VECTORS), "id column 'key', row 0: found"),
    "rows differ": (dict(key=IDS[:4], value=VECTORS), "numbers of shape (4, width), one row per key; found float32"),
    "flat value": (dict(key=IDS, value=VECTORS[:, 0]), "numbers of shape (5, width), one row per key; found float32"),
    "bytes": (dict(key=IDS, value=VECTORS.astype("S")), "'value' must hold numbers of shape (5, width)"),
    "double": (dict(key=np.array([1, 2, 2, 3, 4]), value=VECTORS), "id 2 occurs 2 times in column 'key'"),
    "nan": (dict(key=IDS, value=VECTORS * np.nan), "id 7: NaN, null or inf inside the vector (2 such rows"),
}


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_refuses_bad_arrays(tmp_path, case, suffix):
    arrays, sentence = BAD_ARRAYS[case]
    path = tmp_path / f"v{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    with pytest.raises(DataError, match=re.escape(sentence)):
        read_all(path)


def linked(path, kind, target):
    """An .h5 file whose vectors lie in another place, in one of the ways that the format has."""
    with h5py.File(path, "w") as file:
        file["key"] = np.arange(1, 4)
        if kind == "external link":
            file["value"] = h5py.ExternalLink(str(target), "value")
        elif kind == "soft link":
            file["there"] = np.ones((3, 2), np.float32)
            file["value"] = h5py.SoftLink("/there")
        elif kind == "external storage":
            file.create_dataset("value", (3, 2), "f4", external=[(str(target), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 2), "f4")
            layout[:] = h5py.VirtualSource(str(target), "value", (3, 2))
            file.create_virtual_dataset("value", layout)
        else:
            file.create_group("value")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("external link", "'value' is a ExternalLink, which is not followed"),
        ("soft link", "'value' is a SoftLink, which is not followed"),
        ("external storage", "'value' keeps its numbers in other files"),
        ("virtual", "'value' keeps its numbers in other files"),
        ("group", "'value' is a group; an array is expected"),
    ],
)
def test_an_h5_file_reads_no_other_file(tmp_path, kind, sentence):
    target = tmp_path / "secret.h5"
    with h5py.File(target, "w") as file:
        file["value"] = np.ones((3, 2), np.float32)
    linked(tmp_path / "x.h5", kind, target)
    with pytest.raises(DataError, match=rf"x.h5: .*{sentence}"):
        list(iter_vectors(tmp_path / "x.h5", "txt", "item_id"))


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".h5"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_refuses_missing_and_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"v{suffix}"
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: file not found; check the path"):
        read_ids(path, "txt", "item_id")
    export_key_value(path, IDS, VECTORS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*(copy|make) .*again"):
        read_all(path)


def test_a_damaged_npz_member_is_refused(tmp_path):
    path = tmp_path / "v.npz"
    vectors = np.random.default_rng(1).normal(size=(1000, 8)).astype(np.float32)
    export_key_value(path, np.arange(1000), vectors)
    whole = bytearray(path.read_bytes())
    spot = whole.find(vectors[900].tobytes())
    whole[spot] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"the vectors of 'txt' cannot be read .*CRC"):
        read_all(path)


def test_refuses_unknown_forms_and_shapes(tmp_path):
    (tmp_path / "v.csv").write_text("key,value")
    with pytest.raises(DataError, match=r"v.csv: a .csv file; tables are read from parquet, so convert it"):
        read_all(tmp_path / "v.csv")
    with pytest.raises(DataError, match=r"unknown file form '.csv'; vectors are written to .parquet, .npz, .h5."):
        export_key_value(tmp_path / "v.csv", IDS, VECTORS)
    with pytest.raises(DataError, match=r"keys \(4,\) and vectors \(5, 3\) must have the shapes \(n,\) and \(n, d\)"):
        export_key_value(tmp_path / "v.npz", IDS[:4], VECTORS)
    np.savez(tmp_path / "o.npz", key=IDS, value=np.array([[object()]] * 5))
    with pytest.raises(DataError, match="'value' must hold numbers"):
        read_all(tmp_path / "o.npz")
