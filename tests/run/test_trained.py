"""A trained model is asked as it was fed: with the history that training kept, whatever the rows hold."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.run import Trained, run_experiment
from fuxictr_mm.serve.export import export_onnx
from fuxictr_mm.serve.prediction import predict_file
from fuxictr_mm.serve.ranking import Ranker
from tests.run.test_resume import config  # noqa: F401
from tests.run.test_run import load


@pytest.mark.parametrize("expid", ["transformer", "din"])
def test_histories_longer_than_training_kept(expid: str, config: Path) -> None:  # noqa: F811
    experiment = load(expid, config, max_len=2, epochs=1)
    run_experiment(experiment)
    trained = Trained.open(experiment)
    assert trained.schema.max_len == 2 and not trained.model.training
    rows = pq.read_table(experiment["test_data"]).to_pylist()
    assert sum(sum(item != 0 for item in row["item_seq"]) > 2 for row in rows) > 20
    loader = MMCTRDataLoader(trained.feature_map, experiment["test_data"], batch_size=50, max_len=2, split="test")
    expected = trained.model.predict(loader)

    filed = predict_file(trained, experiment["test_data"], config / "out.parquet")
    np.testing.assert_allclose(pq.read_table(filed.path)["score"].to_numpy(), expected, rtol=0, atol=1e-6)

    ranker, context = Ranker(trained), [column.name for column in trained.schema.context_columns]
    ranked = [ranker.score(row["item_seq"], [row["item_id"]], {name: row[name] for name in context})[0] for row in rows]
    np.testing.assert_allclose(ranked, expected, rtol=0, atol=1e-6)

    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(trained.model, config / "model.onnx")
    session = onnxruntime.InferenceSession(str(config / "model.onnx"), providers=["CPUExecutionProvider"])
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
    scores = []
    for batch in loader:
        columns = {**batch.context, **batch.items, "item_index": batch.item_index, "is_real": batch.is_real_BL}
        inputs = {entry.name: columns[entry.name].numpy().astype(kinds[entry.type]) for entry in session.get_inputs()}
        scores.append(session.run(["y_pred"], inputs)[0].ravel())
    np.testing.assert_allclose(np.concatenate(scores), expected, rtol=0, atol=1e-6)


def test_a_script_of_ones_own_puts_it_together(config: Path) -> None:  # noqa: F811
    experiment = load("din", config, epochs=1)
    run_experiment(experiment)
    opened = Trained.open(experiment)
    made = Trained.of(opened.model.train(), opened.feature_map, {"max_len": 3, "trim": False})
    assert (made.schema.max_len, made.trim, made.model.training) == (3, False, False)
    assert made.schema.item_col == "item_id" and list(made.table.columns) == list(opened.table.columns)
