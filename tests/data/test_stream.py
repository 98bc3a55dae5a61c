"""Streamed epochs: every row once and with the right contents, the rest of an epoch, and the arranged file itself."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pandas.util import hash_array

from fuxictr_mm.data import contract, stream
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.data.order import EpochOrder
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.run import resolve_experiment, run_experiment
from tests.synthetic import RUN_PARAMS, tiny_feature_map, write_cluster_dataset

N = 103
BLOCK, WINDOW = 4, 24


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (contract, "CHUNK_ROWS", 2 * BLOCK), (stream, "CHUNK_ROWS", 2 * BLOCK),
        (stream, "BLOCK_ROWS", BLOCK), (stream, "WINDOW_ROWS", WINDOW),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def write(folder: Path, name: str = "train", **changes: Any) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "user_id": np.arange(N),
        "item_seq": [rng.integers(1, 13, length).tolist() for length in rng.integers(0, 7, N)],
        "item_id": rng.integers(1, 13, N),
        "likes_level": rng.integers(1, 11, N),
        "views_level": rng.integers(1, 11, N),
        "label": rng.integers(0, 2, N),
    }
    columns = {key: column for key, column in {**rows, **changes}.items() if column is not None}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=17)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    rng = np.random.default_rng(1)
    items = {"item_id": range(1, 13), "item_tags": [[0, 1, 2]] * 12, "item_emb": rng.normal(size=(12, 7)).tolist()}
    pq.write_table(pa.table(items), tmp_path / "item_info.parquet")
    return tmp_path


def loader(folder: Path, name: str = "train", **changes: Any) -> MMCTRDataLoader:
    arguments = {"split": name, "batch_size": 5, "max_len": 6, "shuffle": True, "stream": True, **changes}
    feature_map = tiny_feature_map(folder / "processed")
    return MMCTRDataLoader(feature_map, folder / name, folder / "item_info.parquet", **arguments)


Row = tuple[Any, ...]


def rows_of(batch: Any) -> list[Row]:
    """Everything about each row; the user id is the row's number."""
    ids = [tuple(i for i in row if i) for row in batch.item_ids.tolist()]
    names = ("user_id", "likes_level", "views_level", "label")
    return list(zip(*(batch.context[name].tolist() for name in names), ids, strict=True))


def epoch(batches: Any) -> list[list[Row]]:
    return [rows_of(batch) for batch in batches]


@pytest.mark.parametrize("length_buckets", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 8, 30, 200])
def test_every_row_comes_once_and_as_it_is(folder: Path, batch_size: int, length_buckets: bool) -> None:
    known = sorted(row for rows in epoch(loader(folder, stream=False, shuffle=False)) for row in rows)
    streamed = loader(folder, batch_size=batch_size, length_buckets=length_buckets)
    epochs = [epoch(streamed) for _ in range(3)]
    for batches in epochs:
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(streamed) - 1)
        assert sorted(row for batch in batches for row in batch) == known
    assert epochs[0] != epochs[1] != epochs[2]
    again = loader(folder, batch_size=batch_size, length_buckets=length_buckets)
    assert [epoch(again) for _ in range(3)] == epochs
    assert epoch(loader(folder, batch_size=batch_size, length_buckets=length_buckets, seed=1)) != epochs[0]


def test_file_order_without_shuffling(folder: Path) -> None:
    assert epoch(loader(folder, shuffle=False)) == epoch(loader(folder, shuffle=False, stream=False))


@pytest.mark.parametrize("form", [{}, {"length_buckets": True}, {"shuffle": False}, {"stream": False}])
def test_the_rest_of_an_epoch(folder: Path, form: dict[str, Any]) -> None:
    whole = loader(folder, **form)
    epochs = [epoch(whole) for _ in range(2)]
    resumed = loader(folder, **form)
    for number in (1, 0):
        for start in (0, 1, 4, 5, 20, 21):
            resumed.epoch = number
            assert epoch(resumed.iterate(start)) == epochs[number][start:]
            assert resumed.epoch == number + 1


def test_buckets_of_resident_rows_hold_every_row_once(folder: Path) -> None:
    known = sorted(row for rows in epoch(loader(folder, stream=False, shuffle=False)) for row in rows)
    batches = epoch(loader(folder, stream=False, length_buckets=True))
    assert sorted(row for batch in batches for row in batch) == known
    widths = [np.ptp([len(row[-1]) for row in batch]) for batch in batches[:-1]]
    assert np.mean(widths) < 1.5


def test_a_window_mixes_blocks_from_everywhere(folder: Path) -> None:
    users = [row[0] for rows in epoch(loader(folder, batch_size=4)) for row in rows]
    first = sorted({user // BLOCK for user in users[:WINDOW]})
    assert len(first) == WINDOW // BLOCK and np.diff(first).max() > 1  # blocks that are not neighbours
    assert any(a // BLOCK != b // BLOCK for a, b in zip(users[:WINDOW:2], users[1:WINDOW:2]))


def test_a_late_start_does_not_read_what_lies_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = loader(folder, batch_size=4, shuffle=False)
    seen: list[int] = []
    read = stream.StreamedRows._block
    monkeypatch.setattr(
        stream.StreamedRows, "_block", lambda self, reader, number: seen.append(number) or read(self, reader, number)
    )
    next(streamed.iterate(24))  # row 96 begins the last window of 24, which has two blocks
    assert seen == [24, 25]
    assert list(streamed.iterate(26)) == []


def test_the_fingerprint_is_that_of_the_resident_rows(folder: Path) -> None:
    assert loader(folder).fingerprint == loader(folder, stream=False).fingerprint
    assert loader(folder, max_len=2).fingerprint != loader(folder).fingerprint


def files(folder: Path) -> list[Path]:
    return sorted((folder / "processed").iterdir())


def test_the_file_is_written_once_and_anew_for_other_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = epoch(loader(folder))
    (file,) = files(folder)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "iter_whole_split", lambda *_, **__: pytest.fail("read again"))
        assert epoch(loader(folder)) == before
    for changes in ({"max_len": 3}, {"max_len": 6}):
        loader(folder, **changes)
    assert len(files(folder)) == 2
    write(folder, label=np.zeros(N, int))
    os.utime(folder / "train.parquet")
    after = loader(folder)
    assert len(files(folder)) == 3 and file in files(folder)
    assert all(row[3] == 0 for rows in epoch(after) for row in rows)


def test_other_items_or_a_smaller_vocabulary_are_checked_again(folder: Path) -> None:
    loader(folder)
    feature_map = tiny_feature_map(folder / "processed")
    feature_map.features["likes_level"]["vocab_size"] = 5
    with pytest.raises(DataError, match="likes_level"):
        MMCTRDataLoader(feature_map, folder / "train", folder / "item_info.parquet", max_len=6, stream=True)
    items = pq.read_table(folder / "item_info.parquet")
    pq.write_table(items.slice(0, 11), folder / "item_info.parquet")
    with pytest.raises(DataError, match="found 12; the item table has no such id"):
        loader(folder)


def test_a_bad_split_leaves_no_file(folder: Path) -> None:
    write(folder, label=[0] * (N - 1) + [2])
    with pytest.raises(DataError, match="label must be 0 or 1"):
        loader(folder)
    write(folder, item_seq=[[]] * (N - 1) + [[0]])
    with pytest.raises(DataError, match="holds padding"):
        loader(folder)
    assert files(folder) == []


def test_a_test_split_without_label_and_text_groups(folder: Path) -> None:
    write(folder, "test", label=None, user_id=[f"user {i % 7}" for i in range(N)])
    test = loader(folder, "test", shuffle=False)
    assert not test.has_label
    users = [user for batch in test for user in batch.context["user_id"].tolist()]
    hashes = hash_array(np.array([f"user {i}" for i in range(7)], object)).view(np.int64).tolist()
    assert users == [hashes[i % 7] for i in range(N)]


def damaged(content: bytes, damage: str) -> bytes:
    if damage == "other format":
        return content.replace(b"mm rows 2", b"mm rows 3")
    if damage == "other column":  # in the head and in the footer
        return content.replace(b"likes_level", b"LIKES_level")
    if damage == "other description":  # it stays JSON
        return content.replace(b'"rows": 103', b'"rows": 104')
    end = {"cut at its end": -5, "cut in its rows": len(content) // 2, "head alone": 10}
    return content[: end[damage]] if damage in end else {"empty": b"", "other": b"x" * len(content)}[damage]


@pytest.mark.parametrize(
    "damage",
    [
        "cut at its end", "cut in its rows", "head alone", "empty", "other", "other format", "other column",
        "other description",
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(folder: Path, damage: str) -> None:
    loader(folder)
    (file,) = files(folder)
    content = file.read_bytes()
    file.write_bytes(damaged(content, damage))
    assert file.read_bytes() != content
    with pytest.raises(DataError, match=r"not a whole file of rows \(.+\); delete it, and the next run builds it anew"):
        loader(folder)


def copied(file: Path, order: list[int]) -> None:
    """Write the file again with these of its record batches."""
    content = file.read_bytes()
    with pa.ipc.open_file(content) as old, pa.ipc.new_file(str(file), old.schema) as new:
        for number in order:
            batch, metadata = old.get_batch_with_custom_metadata(number)
            new.write_batch(batch, custom_metadata=metadata)


def test_a_block_that_is_missing_or_at_another_place(folder: Path) -> None:
    before = epoch(loader(folder, shuffle=False))
    (file,) = files(folder)
    blocks = -(-N // BLOCK)
    copied(file, list(range(blocks + 1)))
    assert epoch(loader(folder, shuffle=False)) == before
    copied(file, [1, 0, *range(2, blocks + 1)])
    with pytest.raises(DataError, match="block 0 differs from its sum"):
        list(loader(folder, shuffle=False))
    for order, match in (
        ([0, *range(2, blocks + 1)], f"{blocks - 1} of {blocks} blocks"), ([0, 1], "not a whole file of rows"),
    ):  # fmt: skip
        file.unlink()
        loader(folder)
        copied(file, order)
        with pytest.raises(DataError, match=match):
            loader(folder)


def test_a_changed_byte_is_found_when_its_block_is_read(folder: Path) -> None:
    streamed = loader(folder)
    (file,) = files(folder)
    content = bytearray(file.read_bytes())
    first = next(streamed._rows.windows(EpochOrder(5, None), 0))[0]  # type: ignore[union-attr]
    content[content.index(first.items[:4].numpy().tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="block 0 differs from its sum"):
        list(streamed)


def test_an_offset_that_points_outside_is_found_when_its_block_is_read(folder: Path) -> None:
    streamed = loader(folder, shuffle=False)
    (file,) = files(folder)
    content = bytearray(file.read_bytes())
    ends = next(streamed._rows.windows(EpochOrder(5, None), 0))[0].end.numpy()  # type: ignore[union-attr]
    at = content.index(ends[:BLOCK].tobytes())
    content[at + 3] = 0x7F
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole file of rows \(block 0: "):
        list(streamed)


def test_the_file_is_narrow_and_others_can_read_it(folder: Path) -> None:
    known = rows_of(next(iter(loader(folder, shuffle=False, stream=False, batch_size=N))))
    loader(folder)
    with pa.ipc.open_file(files(folder)[0].read_bytes()) as reader:
        table = reader.read_all()
    assert {field.name: str(field.type) for field in table.schema} == {
        "items": "list<item: int32>", "likes_level": "uint8", "views_level": "uint8", "user_id": "int64",
        "label": "uint8",
    }  # fmt: skip
    names = ("user_id", "likes_level", "views_level", "label")
    columns = (table[name].to_pylist() for name in names)
    assert list(zip(*columns, map(tuple, table["items"].to_pylist()), strict=True)) == known


def test_a_column_may_have_the_name_of_the_items(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.rename_columns([{"views_level": "items"}.get(n, n) for n in table.column_names]),
                   folder / "train.parquet")  # fmt: skip
    feature_map = tiny_feature_map(folder / "processed")
    feature_map.features["items"] = feature_map.features.pop("views_level")
    arguments = {"batch_size": N, "max_len": 6, "stream": True}
    (batch,) = MMCTRDataLoader(feature_map, folder / "train", folder / "item_info.parquet", **arguments)
    assert batch.context["items"].tolist() == table["views_level"].to_pylist()


def test_two_that_arrange_the_same_split_at_once_both_end_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrange, others = stream.arrange_split, []

    def while_another_does(chunk: contract.Split, schema: Any) -> Any:
        if not others:
            others.append(None)
            others[0] = epoch(loader(folder))  # begins later and ends before
        return arrange(chunk, schema)

    monkeypatch.setattr(stream, "arrange_split", while_another_does)
    assert [epoch(loader(folder))] == others
    assert len(files(folder)) == 1


def test_what_a_killed_process_left_goes_and_files_of_other_formats_stay(folder: Path) -> None:
    before = epoch(loader(folder))
    (file,) = files(folder)
    file.unlink()
    left, old = file.with_name(f".{file.name}.999999999-abc.tmp"), file.with_suffix(".rows")
    left.write_bytes(b"half")
    old.write_bytes(b"another format")
    assert epoch(loader(folder)) == before
    assert files(folder) == [file, old] and old.read_bytes() == b"another format"


def test_a_place_that_cannot_be_written_to(folder: Path) -> None:
    (folder / "processed").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"cannot be written .*stream: True needs room"):
        loader(folder)


def test_long_rows_make_smaller_windows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 1)
    streamed = loader(folder)
    assert streamed._rows.window_rows == BLOCK  # type: ignore[union-attr]
    assert sum(len(rows) for rows in epoch(streamed)) == N


def test_batches_of_both_forms_unpack_alike(folder: Path) -> None:
    for ours, theirs in zip(loader(folder, shuffle=False), loader(folder, shuffle=False, stream=False), strict=True):
        for part, other in zip(ours, theirs, strict=True):
            if isinstance(part, dict):
                assert all(torch.equal(part[name], values) for name, values in other.items())
            else:
                assert torch.equal(part, other)


def test_a_run_streams(tmp_path: Path) -> None:
    dataset = write_cluster_dataset(tmp_path, rows=400)
    model = {
        "model": "DIN_SE_MHTA", "dataset_id": "clusters", "model_root": "checkpoints", "seed": 1, "epochs": 2,
        "stream": True, "length_buckets": True, **RUN_PARAMS,
    }  # fmt: skip
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump({"Base": {}, "din": model}))
    params = resolve_experiment("din", tmp_path)
    result = run_experiment(params)
    assert result.valid["AUC"] > 0.5
    assert {path.name.split("-")[0] for path in (tmp_path / "processed" / "clusters").glob("*.arrow")} == {
        "train", "valid", "test",
    }  # fmt: skip
    assert run_experiment(params.but(model_root=str(tmp_path / "again"))).valid == result.valid
