"""Scores of files against the loader that training and evaluation use, and what is written of them."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import build_dataset

import fuxictr_mm
from fuxictr_mm.compat import find_model, host_model_names
from fuxictr_mm.data import contract
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.run import Trained
from fuxictr_mm.serve.prediction import Prediction, predict_file
from tests.synthetic import RUN_PARAMS, move_weights, tiny_feature_map, write_cluster_dataset

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # of the host's TransAct

SMALL: dict[str, dict[str, Any]] = {
    "Transformer_DCNv2": {"dcn_hidden_units": [16], "mlp_hidden_units": [8], "dim_feedforward": 16, "first_k_cols": 2},
    "DIN_SE_MHTA": {"dnn_hidden_units": [16]},
    "TransAct": {"dcn_hidden_units": [16], "mlp_hidden_units": [8], "dim_feedforward": 16, "first_k_cols": 2},
    "DIN": {"dnn_hidden_units": [16], "attention_hidden_units": [8]},
}
OURS = ("Transformer_DCNv2", "DIN_SE_MHTA")
MAX_LEN = 5


@dataclass
class Setup:
    """A dataset of 150 test rows and models on it whose weights are large enough for scores to differ."""

    folder: Path
    params: dict[str, Any]
    feature_map: Any

    def model(self, name: str = "Transformer_DCNv2", **options: Any) -> Any:
        if name not in OURS and name not in host_model_names():
            pytest.skip("this fuxictr carries no models")
        torch.manual_seed(5)
        net = find_model(fuxictr_mm, name)(self.feature_map, **{**self.params, **SMALL[name], **options})
        move_weights(net, 0.05)
        return net.train()

    def rows(self) -> pa.Table:
        return pq.read_table(self.params["test_data"])

    def write(self, table: pa.Table, name: str = "rows.parquet", **options: Any) -> Path:
        path = self.folder / name
        pq.write_table(table, path, **options)
        return path

    def predict(self, data_path: str | Path, out: str = "out.parquet", model: Any = None, **options: Any) -> Prediction:
        model = self.model() if model is None else model
        feed = {"max_len": MAX_LEN, "trim": options.pop("trim", True)}
        return predict_file(Trained.of(model, self.feature_map, feed), data_path, self.folder / out, **options)

    def scores(self, data_path: str | Path, **options: Any) -> np.ndarray:
        return pq.read_table(self.predict(data_path, **options).path)["score"].to_numpy()

    def items(self, ids: list[int], like: list[int], **changes: Any) -> Path:
        """A file of new items, each a copy of a known one but for ``changes``."""
        known = pq.read_table(self.params["item_info"]).take([i - 1 for i in like]).to_pydict()
        return self.write(pa.table({**known, "item_id": ids, **changes}), "new_items.parquet")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("prediction")
    params = {**RUN_PARAMS, **write_cluster_dataset(folder, rows=600), "dataset_id": "clusters", "model_id": "mine"}
    params |= {"gpu": -1, "seed": 3, "model_root": str(folder / "checkpoints")}
    for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
        params[key] = str(folder / params[key])
    processor = fuxictr_mm.MultimodalFeatureProcessor(**params)
    build_dataset(processor, **params)
    feature_map = FeatureMap("clusters", processor.data_dir)
    feature_map.load(processor.json_file, params)
    return Setup(folder, params, feature_map)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, pa.array(values))
    return table.append_column(name, pa.array(values))


@pytest.mark.parametrize("batch_size", [1, 7, 150, 10_000])
@pytest.mark.parametrize("name", SMALL)
def test_scores_are_those_of_the_loader(
    setup: Setup, name: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "CHUNK_ROWS", 40)
    monkeypatch.setattr("fuxictr_mm.serve.prediction.CHUNK_ROWS", 40)
    net = setup.model(name)
    path = setup.params["test_data"]
    trim = name != "TransAct"  # the host's model wants first_k_cols positions, whatever the histories are
    loader = fuxictr_mm.MMCTRDataLoader(
        setup.feature_map, path, split="test", max_len=MAX_LEN, trim=trim, batch_size=64
    )
    expected = net.predict(loader)
    scores = setup.scores(path, model=net.train(), trim=trim, batch_size=batch_size)
    assert expected.std() > 0.02 and scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_trim_reaches_the_batches(setup: Setup) -> None:
    """With the published mask padding takes part, so its amount shows in the scores."""
    net = setup.model(padding_mask="as_published")
    path = setup.params["test_data"]
    loader = fuxictr_mm.MMCTRDataLoader(setup.feature_map, path, split="test", max_len=MAX_LEN, trim=False)
    whole = setup.scores(path, model=net, batch_size=1, trim=False)
    np.testing.assert_allclose(whole, net.predict(loader), rtol=0, atol=1e-6)
    assert np.abs(whole - setup.scores(path, model=net, batch_size=1)).max() > 1e-3


def test_columns_of_the_parquet(setup: Setup) -> None:
    rows = setup.rows()
    plain = setup.predict(setup.write(rows.drop_columns(["label"])), "plain.parquet")
    table = pq.read_table(plain.path)
    assert [(field.name, field.type) for field in table.schema] == [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("score", pa.float32()),
    ]
    assert table["item_id"].equals(rows["item_id"]) and table["user_id"].equals(rows["user_id"])
    assert (plain.rows, plain.metrics) == (150, {})
    assert plain.rows_without_history == sum(not history for history in rows["item_seq"].to_pylist()) > 0
    assert f"150 rows scored in {plain.seconds:.1f} s" in plain.to_text() and str(plain.path) in plain.to_text()

    users = [f"user {i % 7}" for i in range(150)]
    path = setup.write(
        with_column(with_column(rows.drop_columns(["label"]), "ID", [f"r{i}" for i in range(150)]), "user_id", users),
        row_group_size=20,
    )
    text = pq.read_table(setup.predict(path).path)
    assert text.column_names == ["ID", "user_id", "item_id", "score"]
    assert text["user_id"].to_pylist() == users and text["ID"].to_pylist()[:2] == ["r0", "r1"]
    assert text["score"].equals(table["score"])
    coded = pq.read_table(path)
    coded = coded.set_column(0, "user_id", coded["user_id"].dictionary_encode())
    again = pq.read_table(setup.predict(setup.write(coded, row_group_size=20)).path)
    assert again["user_id"].to_pylist() == users and again.schema.field("user_id").type == pa.string()
    without = pq.read_table(setup.predict(setup.write(rows.drop_columns(["label", "user_id"]))).path)
    assert without.column_names == ["item_id", "score"] and without["score"].equals(table["score"])


def test_the_challenges_file(setup: Setup) -> None:
    path = setup.write(with_column(setup.rows().drop_columns(["label"]), "ID", [7 * i for i in range(150)]))
    scores = setup.scores(path)
    archive = setup.predict(path, "answer.zip").path
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["prediction.csv"] and opened.testzip() is None
        content = opened.read("prediction.csv").decode()
    lines = content.splitlines()
    assert content.endswith("\n") and lines[0] == "ID,Task1" and len(lines) == 151
    read = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in read] == [str(7 * i) for i in range(150)]
    np.testing.assert_array_equal(np.array([row[1] for row in read], np.float32), scores)  # all digits
    assert setup.predict(path, "answer.csv").path.read_text() == content
    before = archive.read_bytes()
    assert setup.predict(path, "answer.zip").path.read_bytes() == before
    text = setup.write(with_column(setup.rows(), "ID", ['a,"b"', *[f"r{i}" for i in range(149)]]))
    assert setup.predict(text, "answer.csv").path.read_text().splitlines()[1].startswith('"a,""b""",0.')


def test_the_challenges_file_needs_ids(setup: Setup) -> None:
    for suffix in ("zip", "csv"):
        with pytest.raises(DataError, match=rf"\.{suffix} files hold ID,Task1; write \.parquet instead\.$") as refused:
            setup.predict(setup.params["test_data"], f"none.{suffix}")
        assert "column 'ID' is missing, found ['user_id', 'item_seq'" in str(refused.value)
        assert not (setup.folder / f"none.{suffix}").exists()


def test_metrics_are_those_of_evaluate(setup: Setup) -> None:
    net, metrics = setup.model(), ["AUC", "logloss", "gAUC"]
    loader = fuxictr_mm.MMCTRDataLoader(setup.feature_map, setup.params["test_data"], split="test", max_len=MAX_LEN)
    net.validation_metrics = metrics
    expected = net.evaluate(loader)
    numbers = setup.predict(setup.params["test_data"], model=net, metrics=metrics)
    assert numbers.metrics == pytest.approx(expected, abs=1e-6) and set(numbers.metrics) == set(metrics)
    assert f"AUC: {expected['AUC']:.6f}" in numbers.to_text()
    rows = setup.rows()
    text = setup.write(with_column(rows, "user_id", [f"u{user}" for user in rows["user_id"].to_pylist()]))
    assert setup.predict(text, model=net, metrics=metrics).metrics == pytest.approx(expected, abs=1e-6)
    no_user = setup.write(rows.drop_columns(["user_id"]))
    assert setup.predict(no_user, model=net, metrics=["AUC"]).metrics == pytest.approx(
        {"AUC": expected["AUC"]}, abs=1e-6
    )
    with pytest.raises(DataError, match=r"column 'user_id' is missing, .* the metrics .* need it"):
        setup.predict(no_user, model=net, metrics=metrics)
    with pytest.raises(
        DataError, match=r"column 'label' is missing, .* metrics need it; score the file without --metrics"
    ):
        setup.predict(setup.write(rows.drop_columns(["label"])), model=net, metrics=["AUC"])


def test_labels_are_not_looked_at_without_metrics(setup: Setup) -> None:
    path = setup.write(with_column(setup.rows(), "label", [None, *[5.0] * 149]))
    assert np.array_equal(setup.scores(path), setup.scores(setup.params["test_data"]))


def test_one_row_and_an_empty_history(setup: Setup) -> None:
    """Row 0 of the test split has no history."""
    first = setup.write(setup.rows().slice(0, 1).drop_columns(["label"]))
    whole = setup.predict(setup.params["test_data"], "whole.parquet")
    one = setup.predict(first)
    assert (one.rows, one.rows_without_history) == (1, 1)
    expected = pq.read_table(whole.path)["score"].to_numpy()[:1]
    np.testing.assert_allclose(pq.read_table(one.path)["score"].to_numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_new_item_is_a_known_one_without_its_id(setup: Setup, name: str) -> None:
    """Item 900 looks like item 8: if the id embedding of 8 were zero, the two would score alike, in every place."""
    net = setup.model(name)
    rows = setup.rows().slice(0, 40)

    def swapped(table: pa.Table) -> Path:
        histories = [[900 if i == 8 else i for i in history] for history in table["item_seq"].to_pylist()]
        targets = [900 if i == 8 else i for i in table["item_id"].to_pylist()]
        return setup.write(
            with_column(with_column(table, "item_seq", histories), "item_id", targets), "swapped.parquet"
        )

    assert 8 in rows["item_id"].to_pylist() and any(8 in history for history in rows["item_seq"].to_pylist())
    known = setup.scores(setup.write(rows), model=net)
    new = {"item_info": setup.items([900], like=[8])}
    unknown = setup.scores(swapped(rows), model=net, new_items=new)
    touched = np.array([8 in (*h, t) for h, t in zip(rows["item_seq"].to_pylist(), rows["item_id"].to_pylist())])
    # Rows that the item is not in, among them those with padding beside it, are as they were.
    np.testing.assert_allclose(unknown[~touched], known[~touched], rtol=0, atol=1e-6)
    assert np.abs(unknown[touched] - known[touched]).max() > 1e-3
    text = pq.read_table(setup.params["item_info"])["text"].to_pylist()
    other = {"item_info": setup.items([900], like=[8], text=[text[1]])}
    assert np.abs(setup.scores(swapped(rows), model=net, new_items=other) - unknown)[touched].max() > 1e-3
    ids = net.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    with torch.no_grad():
        ids[8] = 0
    np.testing.assert_allclose(setup.scores(setup.write(rows), model=net), unknown, rtol=0, atol=1e-6)


def test_rows_of_nothing_but_new_items(setup: Setup) -> None:
    """Their item id is that of padding, but they are not ignored: the mask tells padding."""
    table = setup.rows().slice(0, 3).drop_columns(["label"])
    scores = {}
    for case, history in {"some": [[900], [901, 900], [901]], "none": [[], [], []]}.items():
        rows = with_column(with_column(table, "item_seq", history), "item_id", [901, 901, 901])
        rows = with_column(rows, "item_seq", pa.array(history, pa.list_(pa.int64())))
        path = setup.write(rows)
        scores[case] = setup.scores(path, new_items={"item_info": setup.items([900, 901], like=[8, 3])})
    assert np.abs(scores["some"] - scores["none"]).min() > 1e-4


@pytest.mark.parametrize("place", ["item_id", "item_seq"])
def test_unknown_items_are_named_and_nothing_is_written(
    setup: Setup, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuxictr_mm.serve.prediction.CHUNK_ROWS", 10)
    values = setup.rows()[place].to_pylist()
    values[101] = 900 if place == "item_id" else [3, 900]
    path = setup.write(with_column(setup.rows(), place, values))
    with pytest.raises(DataError) as refused:
        setup.predict(path, "unknown.parquet", batch_size=10)
    assert f"rows.parquet: column '{place}', row 101 (counted from 0): found " in str(refused.value)
    assert "900" in str(refused.value) and "--item_feature FILE" in str(refused.value)
    assert not list(setup.folder.glob("*unknown.parquet*"))
    assert setup.predict(path, batch_size=10, new_items={"item_info": setup.items([900], like=[8])}).rows == 150


def test_damage_half_way_is_found_before_anything_is_scored(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    table = with_column(setup.rows().drop_columns(["label"]), "ID", list(range(150)))
    path = setup.write(table, row_group_size=50)
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)  # item_seq
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    out = setup.folder / "old.parquet"
    out.write_text("yesterday's")
    monkeypatch.setattr("fuxictr_mm.serve.prediction.CHUNK_ROWS", 50)
    net = setup.model()
    net.forward = lambda batch: pytest.fail("scored a row")
    with pytest.raises(DataError, match="damaged inside, cannot be decoded"):
        setup.predict(path, out.name, model=net, batch_size=50)
    assert out.read_text() == "yesterday's" and not list(setup.folder.glob(".*"))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "zip"])
def test_a_score_that_is_no_number_is_refused(setup: Setup, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only scoring shows it, so some rows are written already; the old output stays."""
    monkeypatch.setattr("fuxictr_mm.serve.prediction.CHUNK_ROWS", 1)
    net = setup.model()
    with torch.no_grad():
        net.embedding_layer.embedding_layer.embedding_layers["likes_level"].weight[3] = float("nan")
    row = setup.rows()["likes_level"].to_pylist().index(3)
    assert row > 0
    with pytest.raises(
        DataError, match=rf"test\.parquet: row {row} \(counted from 0\) has the score nan; a finite one"
    ):
        setup.predict(setup.params["test_data"], "nan.parquet", model=net, batch_size=1)
    assert not list(setup.folder.glob("*nan.parquet*"))


def refusals(setup: Setup) -> dict[str, tuple[Callable[[], Any], type[ValueError], str]]:
    test = setup.params["test_data"]
    (setup.folder / "folder.parquet").mkdir(exist_ok=True)
    copy = setup.write(setup.rows(), "copy.parquet")
    return {
        "suffix": (lambda: setup.predict(test, "out.txt"), ConfigError, r"the suffix '\.txt' is none of \['\.parquet'"),
        "itself": (
            lambda: setup.predict(copy, "copy.parquet"),
            ConfigError,
            "would replace the data they are computed",
        ),
        "items": (
            lambda: setup.predict(copy, "items.parquet", new_items={"item_info": setup.params["item_info"]}),
            ConfigError,
            "would replace the data",
        ),
        "folder": (lambda: setup.predict(test, "folder.parquet"), ConfigError, "no file can be written there"),
        "below a file": (
            lambda: setup.predict(test, "copy.parquet/x.csv"),
            ConfigError,
            "no file can be written there",
        ),
        "batch": (
            lambda: setup.predict(test, batch_size=0),
            ConfigError,
            "batch_size: found 0; at least 1 is expected",
        ),
        "missing": (lambda: setup.predict("nowhere.parquet"), DataError, r"nowhere\.parquet: file not found"),
        "no target": (
            lambda: setup.predict(setup.write(setup.rows().drop_columns(["item_id"]))),
            DataError,
            "column 'item_id' is missing",
        ),
        "empty": (lambda: setup.predict(setup.write(setup.rows().slice(0, 0))), DataError, "0 rows; a split needs"),
        "no table": (
            lambda: Trained.of(setup.model(), tiny_feature_map(), {}),
            ConfigError,
            "the feature map names no item table; build the features",
        ),
    }


@pytest.mark.parametrize("case", ["suffix", "itself", "items", "folder", "below a file", "batch", "missing",
                                  "no target", "empty", "no table"])  # fmt: skip
def test_refusals(setup: Setup, case: str) -> None:
    call, error, sentence = refusals(setup)[case]
    with pytest.raises(error, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert not list(setup.folder.rglob("*.tmp"))
