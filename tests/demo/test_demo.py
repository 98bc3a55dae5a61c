"""The generated stand-in: its bytes, its columns, its truth."""

import hashlib
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from fuxictr_mm.demo import generator as demo
from fuxictr_mm.demo.generator import DemoSettings, best_auc, ensure_demo, generate_demo
from fuxictr_mm.demo.world import World
from fuxictr_mm.errors import ConfigError, DataError

SMALL = DemoSettings(items=400, rows=24_000, valid_rows=400, test_rows=4000, text_width=40, image_width=50)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "MMCTR_demo"
    generate_demo(out, SMALL)
    return out


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("leaky") / "MMCTR_demo"
    generate_demo(out, replace(SMALL, leaky_levels=True))
    return out


def read(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {
        name: np.array(table[name].to_pylist()) if pa.types.is_list(table[name].type) else table[name].to_numpy()
        for name in table.column_names
    }


def truth_of(out: Path, split: str) -> np.ndarray:
    truth = read(out / "truth.parquet")
    return truth["probability"][truth["split"] == split]


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def test_bytes_follow_from_the_seed(made: Path, tmp_path: Path) -> None:
    generate_demo(tmp_path / "again", SMALL)
    generate_demo(tmp_path / "other", replace(SMALL, seed=1))
    assert digests(tmp_path / "again") == digests(made)
    assert not set(digests(tmp_path / "other").values()) & set(digests(made).values())


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    wide = DemoSettings(rows=4, valid_rows=4, test_rows=4)
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            generate_demo(tmp_path / str(threads), wide)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_columns_and_dtypes_are_the_challenges(made: Path) -> None:
    integers, floats = pa.list_(pa.int64()), pa.list_(pa.float32())
    rows = {
        "user_id": pa.int64(),
        "item_seq": integers,
        "item_id": pa.int64(),
        "likes_level": pa.int64(),
        "views_level": pa.int64(),
        "label": pa.int64(),
    }
    levels = {"likes_level": pa.int64(), "views_level": pa.int64()}
    views = {"txt_emb_BERT": floats, "img_emb_CLIPRN50": floats}
    expected = {
        "train": rows,
        "valid": rows,
        "test": {"ID": pa.int64(), **rows},
        "item_info": {"item_id": pa.int64(), "item_tags": integers, "item_emb_d128": floats},
        "item_feature": {"item_id": pa.int64(), "item_title": pa.string(), "item_tags": integers, **levels, **views},
        "truth": {"split": pa.string(), "row": pa.int64(), "probability": pa.float64()},
    }
    for name, columns in expected.items():
        schema = pq.read_schema(made / f"{name}.parquet")
        assert list(zip(schema.names, schema.types)) == list(columns.items()), name
    counts = {name: pq.read_metadata(made / f"{name}.parquet").num_rows for name in expected}
    assert counts == {
        "train": 24_000, "valid": 400, "test": 4000, "item_info": 401, "item_feature": 400, "truth": 28_400
    }  # fmt: skip


def test_items_are_in_order_and_row_0_is_padding(made: Path) -> None:
    info, feature = read(made / "item_info.parquet"), read(made / "item_feature.parquet")
    assert info["item_id"].tolist() == list(range(401)) and feature["item_id"].tolist() == list(range(1, 401))
    assert not info["item_tags"][0].any() and not info["item_emb_d128"][0].any()
    assert (info["item_tags"][1:] == feature["item_tags"]).all() and info["item_tags"].shape == (401, 5)
    tags = feature["item_tags"]
    assert (tags[:, -1] > 0).all() and tags.max() <= 50
    assert ((tags[:, :-1] == 0) | (tags[:, 1:] > 0)).all(), "padding is on the left"
    for name in ("likes_level", "views_level"):
        assert np.bincount(feature[name]).tolist() == [0] + [40] * 10
    norms = {name: np.linalg.norm(feature[name], axis=1).mean() for name in ("txt_emb_BERT", "img_emb_CLIPRN50")}
    assert norms["txt_emb_BERT"] == pytest.approx(1, abs=0.1) and norms["img_emb_CLIPRN50"] == pytest.approx(16, abs=1)


def test_the_joint_pca_is_the_unscaled_one(made: Path) -> None:
    info, feature = read(made / "item_info.parquet"), read(made / "item_feature.parquet")
    both = np.hstack([feature["txt_emb_BERT"], feature["img_emb_CLIPRN50"]]).astype(np.float64)
    values = np.linalg.svd(both - both.mean(axis=0), compute_uv=False)
    joint = info["item_emb_d128"][1:]
    assert joint.shape == (400, 90)
    np.testing.assert_allclose(np.sqrt((joint**2).sum(axis=0)), values[:90], rtol=1e-3, atol=1e-3)


def test_rows(made: Path) -> None:
    for split in ("train", "valid", "test"):
        rows = read(made / f"{split}.parquet")
        four = {name: column.reshape(-1, 4, *column.shape[1:]) for name, column in rows.items()}
        assert (four["label"].sum(axis=1) == 1).all()
        assert (four["user_id"] == four["user_id"][:, :1]).all()
        assert (four["item_seq"] == four["item_seq"][:, :1]).all()
        assert all(len(set(items)) == 4 for items in four["item_id"].tolist())
        history = rows["item_seq"]
        assert history.shape[1] == 64 and (history[:, -1] > 0).all() and (history[:, :44] == 0).all()
        assert ((history[:, :-1] == 0) | (history[:, 1:] > 0)).all(), "padding is on the left"
        assert not (history == rows["item_id"][:, None]).any(), "a candidate was not seen before"
    assert rows["ID"].tolist() == list(range(4000))
    users = [set(read(made / f"{split}.parquet")["user_id"].tolist()) for split in ("train", "valid", "test")]
    assert set.union(*users) == set(range(1, SMALL.impressions + 1)) and sum(map(len, users)) == SMALL.impressions


def test_history_lengths() -> None:
    histories = _world(history_median=6, history_max=64)._histories(np.random.default_rng(0), 4000)
    lengths = (histories > 0).sum(axis=1)
    assert np.median(lengths) == 6 and lengths.mean() == pytest.approx(8, abs=0.4) and lengths.max() <= 64


def test_some_test_items_never_occur_in_train(made: Path) -> None:
    train, test = read(made / "train.parquet"), read(made / "test.parquet")
    seen = np.union1d(train["item_id"], train["item_seq"])
    cold = ~np.isin(test["item_id"], seen)
    assert 0.05 < cold.mean() < 0.25
    assert 0.1 < test["label"][cold].mean() < 0.4, "cold items are clicked as well"


def test_levels_are_the_items_own(made: Path) -> None:
    feature, train = read(made / "item_feature.parquet"), read(made / "train.parquet")
    for name in ("likes_level", "views_level"):
        assert (feature[name][train["item_id"] - 1] == train[name]).all()


def test_leaky_levels_copy_those_of_the_clicked_item(made: Path, leaky: Path) -> None:
    feature, rows, honest = (read(p) for p in (leaky / "item_feature.parquet", leaky / "train.parquet",
                                               made / "train.parquet"))  # fmt: skip
    assert (rows["item_id"] == honest["item_id"]).all() and (rows["label"] == honest["label"]).all()
    clicked = rows["item_id"].reshape(-1, 4)[rows["label"].reshape(-1, 4) == 1]
    for name in ("likes_level", "views_level"):
        assert (rows[name] == np.repeat(feature[name][clicked - 1], 4)).all()


# A rival that could have given the row its levels is rare among the draws, so the leaky truth is less exact.
@pytest.mark.parametrize(("fixture", "slack"), [("made", 0.003), ("leaky", 0.02)])
def test_truth_is_calibrated(fixture: str, slack: float, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(fixture)
    label, truth = read(out / "train.parquet")["label"], truth_of(out, "train")
    assert ((truth >= 0) & (truth <= 1)).all()
    assert truth.mean() == pytest.approx(0.25, abs=0.005)
    for decile in np.array_split(np.argsort(truth, kind="stable"), 10):
        error = np.sqrt(max(truth[decile].mean() * (1 - truth[decile].mean()), 1e-4) / len(decile))
        assert label[decile].mean() == pytest.approx(truth[decile].mean(), abs=4 * error + slack)


def test_best_auc(made: Path, leaky: Path, tmp_path: Path) -> None:
    label = read(made / "test.parquet")["label"]
    best = best_auc(made / "test.parquet")
    assert best == roc_auc_score(label, truth_of(made, "test")) and 0.75 < best < 0.98
    assert abs(roc_auc_score(np.random.default_rng(0).permutation(label), truth_of(made, "test")) - 0.5) < 0.05
    assert best_auc(leaky / "test.parquet") > 0.98, "the leak gives the label away"
    assert best_auc(made / "other.parquet") is None and best_auc(tmp_path / "test.parquet") is None


def test_truth_of_another_file_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.parquet").write_bytes((made / "truth.parquet").read_bytes())
    (tmp_path / "test.parquet").write_bytes((made / "valid.parquet").read_bytes())
    with pytest.raises(DataError, match=r"4000 rows of split test, but test\.parquet has 400"):
        best_auc(tmp_path / "test.parquet")


def test_rows_that_four_does_not_divide_cut_the_last_impression(made: Path, tmp_path: Path) -> None:
    generate_demo(tmp_path / "cut", replace(SMALL, rows=4000, test_rows=3998))
    cut, whole = read(tmp_path / "cut" / "test.parquet"), read(made / "test.parquet")
    assert len(cut["label"]) == len(truth_of(tmp_path / "cut", "test")) == 3998
    assert (cut["item_id"] == whole["item_id"][:3998]).all()


def test_users_may_be_more_than_needed(tmp_path: Path) -> None:
    generate_demo(tmp_path / "d", replace(SMALL, users=100_000, rows=4000))
    assert 90_000 < read(tmp_path / "d" / "train.parquet")["user_id"].max() <= 100_000


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: World, users: int, *, split: str, block: int) -> None:
        if split == "test":
            raise KeyboardInterrupt

    monkeypatch.setattr(World, "impressions", _then(World.impressions, stop))
    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


def _then(first: Callable, second: Callable) -> Callable:
    def both(*args: Any, **kwargs: Any) -> Any:
        second(*args, **kwargs)
        return first(*args, **kwargs)

    return both


def test_files_that_were_not_generated_stay(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("mine")
    with pytest.raises(DataError, match=r"train\.parquet: exists and was not generated .* another folder"):
        generate_demo(tmp_path, SMALL)
    assert (tmp_path / "train.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"items": 1}, "items=1 is too small for a demo; use at least 200."),
        ({"rows": 0}, "rows=0 is too small for a demo; use at least 4."),
        ({"history_median": 0}, "history_median=0 is too small"),
        ({"seed": -1}, "seed=-1 is too small"),
        ({"history_max": 65}, "history_max=65 does not fit the 64 slots"),
        ({"users": 10}, "users=10 is too few: rows, valid_rows and test_rows make 7100 impressions"),
    ],
)
def test_settings_that_make_no_world(change: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        replace(SMALL, **change)


def test_the_smallest_world(tmp_path: Path) -> None:
    least = DemoSettings(items=200, rows=4, valid_rows=4, test_rows=4, text_width=1, image_width=1, history_max=64)
    generate_demo(tmp_path / "d", replace(least, history_median=64))
    assert pq.read_metadata(tmp_path / "d" / "train.parquet").num_rows == 4


def test_blocks_do_not_depend_on_the_number_of_rows(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_demo(tmp_path / "few", replace(SMALL, rows=demo.USER_BLOCK * 4, users=SMALL.impressions))
    few, many = read(tmp_path / "few" / "train.parquet"), read(made / "train.parquet")
    assert (few["item_id"] == many["item_id"][: len(few["item_id"])]).all()


def test_ensure_demo_makes_what_is_absent_or_outdated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(SMALL, rows=400, test_rows=400)
    out = tmp_path / "demo"
    calls: list[DemoSettings] = []
    monkeypatch.setattr(demo, "generate_demo", lambda o, s: (calls.append(s), generate_demo(o, s)))
    assert ensure_demo(out, tiny) == {}
    assert ensure_demo(out, tiny) == {}
    assert calls == [tiny]
    (out / "truth.parquet").unlink()
    assert ensure_demo(out, tiny) == {}
    monkeypatch.setattr(demo, "FORMAT", demo.FORMAT + 1)
    assert ensure_demo(out, tiny) == {}
    assert len(calls) == 3


def test_a_demo_of_other_settings_is_kept_and_told(tmp_path: Path) -> None:
    tiny = replace(SMALL, rows=400, test_rows=400)
    generate_demo(tmp_path / "demo", replace(tiny, seed=7, leaky_levels=True))
    before = (tmp_path / "demo" / "train.parquet").read_bytes()
    assert ensure_demo(tmp_path / "demo", tiny) == {"seed": 7, "leaky_levels": True}
    assert (tmp_path / "demo" / "train.parquet").read_bytes() == before


def _ensure(out: Path, log: Path) -> None:
    original = demo.generate_demo

    def noted(folder: Path, settings: DemoSettings) -> None:
        with open(log, "a") as stream:
            stream.write("made\n")
        original(folder, settings)

    demo.generate_demo = noted
    ensure_demo(out, replace(SMALL, rows=400, test_rows=400))


def test_processes_that_ensure_at_once_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ensure, args=(tmp_path / "demo", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert best_auc(tmp_path / "demo" / "test.parquet") is not None


def _world(**changes: Any) -> World:
    widths = {"text_width": 40, "image_width": 50, "history_median": 14, "history_max": 20}
    return World(**{"items": 400, "seed": 1, "tags": 50, **widths, "leaky_levels": False, **changes})


def test_truth_is_the_chance_to_win_against_fresh_competitors() -> None:
    """The probability of one row against a loop that draws its competitors and its clicks again and again."""
    world = _world()
    made = world.impressions(200, split="train", block=0)
    rng = np.random.default_rng(3)
    rivals = world._candidates(rng, made.history, 3 * 400, world._mass_old)
    odds = np.exp(world._utility(made.history, np.hstack([made.item[:, :1], rivals])).astype(np.float64))
    against = odds[:, 1:].reshape(200, 400, 3).sum(axis=2)
    loop = (odds[:, :1] / (odds[:, :1] + against)).mean(axis=1)
    assert np.abs(loop - made.truth[:, 0]).mean() < 0.02 and np.corrcoef(loop, made.truth[:, 0])[0, 1] > 0.99


def test_each_view_shows_half_and_the_loud_one_hides_the_other() -> None:
    """What a linear reader gets of the items' content: from both, from one, and from one PCA over both."""
    world = _world(items=2000)
    text, image = world.views(1, 2001, 0)
    content = world.latent[1:] - world.latent[1:].mean(axis=0)
    assert _explained(np.hstack([_pca(text, 16), _pca(image, 16)]), content) > 0.8
    for alone in (_pca(text, 32), _pca(image, 32), _pca(np.hstack([text, image]), 32)):
        assert _explained(alone, content) < 0.7


def _pca(rows: np.ndarray, width: int) -> np.ndarray:
    centred = rows - rows.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:width].T


def _explained(rows: np.ndarray, content: np.ndarray) -> float:
    fit = rows @ np.linalg.lstsq(rows, content, rcond=None)[0]
    return float(1 - ((content - fit) ** 2).sum() / (content**2).sum())
