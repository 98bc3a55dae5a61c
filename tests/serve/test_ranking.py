"""Scores of candidates against ``model.predict`` on the same rows, how often items are embedded, and refusals."""

import copy
import re
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
from fuxictr_mm.compat import find_model
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.run import Trained
from fuxictr_mm.serve.ranking import Ranker
from tests.models.zoo import BIASED, MODELS, small
from tests.synthetic import RUN_PARAMS, move_weights, tiny_feature_map, write_cluster_dataset

SMALL: dict[str, dict[str, Any]] = {name: small(model_class) for name, model_class in MODELS.items()}
MAX_LEN = 5
HISTORIES = {"long": [3, 9, 40, 1, 7, 7, 22, 15], "short": [12, 5], "one": [8], "padded": [0, 0, 12, 5], "empty": []}
RNG = np.random.default_rng(0)
CANDIDATES = np.concatenate([RNG.permutation(40) + 1, [7, 7, 12]])  # every item; some twice, some in the history
LIKES = RNG.integers(0, 11, len(CANDIDATES))


class Setup:
    """A dataset of 40 items and models on it whose weights are large enough for scores to differ."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = {**RUN_PARAMS, **write_cluster_dataset(folder, rows=200), "dataset_id": "clusters"}
        self.params |= {"model_id": "mine", "gpu": -1, "seed": 3, "model_root": str(folder / "checkpoints")}
        for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
            self.params[key] = str(folder / self.params[key])
        items = pq.read_table(folder / "items.parquet").to_pydict()
        items["text"][6] = items["image"][6] = items["image"][11] = None  # item 7 has no vectors, item 12 one
        pq.write_table(pa.table(items), folder / "items.parquet")
        self.params["feature_cols"].append(
            {"name": "clicks", "active": True, "dtype": "float", "type": "meta", "source": "item"}
            | {"pca": {"text": 3, "image": 3}, "clicks": 5}
        )
        self.params["feature_cols"].append({**self.params["feature_cols"][-1], "name": "peers", "pca": None})
        self.params["feature_cols"].append({"name": "price", "active": True, "dtype": "float", "type": "numeric"})
        for split in ("train", "valid", "test"):
            rows = pq.read_table(folder / f"{split}.parquet")
            pq.write_table(rows.append_column("price", pa.array(np.ones(len(rows)))), folder / f"{split}.parquet")
        processor = fuxictr_mm.MultimodalFeatureProcessor(**self.params, similarity=["clicks", "peers"])
        build_dataset(processor, **self.params)
        self.feature_map = FeatureMap("clusters", processor.data_dir)
        self.feature_map.load(processor.json_file, self.params)

    def model(self, name: str, **options: Any) -> Any:
        torch.manual_seed(5)
        options = {"feature_map": self.feature_map, **self.params, **SMALL[name], **options}
        net = find_model(fuxictr_mm, name)(**options)
        move_weights(net, 0.03)
        return net.train()

    def expected(
        self, model: Any, history: list[int], candidates: np.ndarray, likes: Any, price: Any, trim: bool = True
    ) -> np.ndarray:
        """The same rows as a file, through the loader and ``model.predict``."""
        n = len(candidates)
        columns = {"user_id": [1] * n, "item_seq": [history] * n, "item_id": candidates.tolist()}
        columns |= {"likes_level": np.broadcast_to(likes, n).tolist(), "price": np.broadcast_to(price, n).tolist()}
        filler = {"user_id": [2], "item_seq": [[1]], "item_id": [1], "likes_level": [1], "price": [0.0]}
        path = self.folder / "rows.parquet"
        lists = pa.array([*columns["item_seq"], *filler["item_seq"]], pa.list_(pa.int64()))
        table = pa.table({name: [*columns[name], *filler[name]] for name in columns if name != "item_seq"})
        pq.write_table(table.append_column("item_seq", lists), path)  # a split must have one history at least
        options = {"max_len": MAX_LEN, "batch_size": 16, "similarity": model.vectors.compared, "trim": trim}
        loader = fuxictr_mm.MMCTRDataLoader(model.feature_map, path, split="test", **options)
        return model.predict(loader)[:n]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("ranking"))


@pytest.fixture(params=list(SMALL))
def model(request: pytest.FixtureRequest, setup: Setup) -> Any:
    return setup.model(request.param)


@pytest.mark.parametrize("batch_size", [1, 7, len(CANDIDATES), 1000])
@pytest.mark.parametrize("history", list(HISTORIES.values()), ids=list(HISTORIES))
def test_scores_are_those_of_predict(setup: Setup, model: Any, history: list[int], batch_size: int) -> None:
    price = np.linspace(-1, 1, len(CANDIDATES))
    expected = setup.expected(model, history, CANDIDATES, LIKES, price)
    model.train()  # the ranker has to leave dropout out
    ranker = Ranker(Trained.of(model, setup.feature_map, {"max_len": MAX_LEN}), batch_size=batch_size)
    scores = ranker.score(history, CANDIDATES, {"likes_level": LIKES, "price": price})
    assert scores.dtype == np.float32 and scores.shape == CANDIDATES.shape
    assert expected.std() > 0.015
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"target_concat": False}, {"use_transformer": False}, {"position": "learned"}, {"padding_mask": "as_published"}],
    ids=str,
)
def test_switches_of_the_transformer(setup: Setup, options: dict[str, Any]) -> None:
    net = setup.model("Transformer_DCNv2", **options)
    # One length: with the published mask other rows' padding would take part in the loader's batch.
    expected = setup.expected(net, [4], CANDIDATES, 3, 0.5)
    scores = Ranker(Trained.of(net, setup.feature_map, {"max_len": MAX_LEN})).score(
        [4], CANDIDATES, {"likes_level": 3, "price": 0.5}
    )
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("history", list(HISTORIES.values()), ids=list(HISTORIES))
def test_a_model_that_was_fed_untrimmed_batches_is_asked_with_such(setup: Setup, history: list[int]) -> None:
    """With the published mask padding takes part, so its amount shows in the scores."""
    net = setup.model("Transformer_DCNv2", padding_mask="as_published", similarity=["item_emb"])
    expected = setup.expected(net, history, CANDIDATES, 3, 0.5, trim=False)
    context = {"likes_level": 3, "price": 0.5}
    scores = {
        trim: Ranker(Trained.of(net, setup.feature_map, {"max_len": MAX_LEN, "trim": trim})).score(
            history, CANDIDATES, context
        )
        for trim in (True, False)
    }
    np.testing.assert_allclose(scores[False], expected, rtol=0, atol=1e-6)
    assert len(history) >= MAX_LEN or np.abs(scores[True] - expected).max() > 1e-4


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("history", list(HISTORIES.values()), ids=list(HISTORIES))
def test_vectors_that_are_compared(setup: Setup, name: str, history: list[int]) -> None:
    is_biased = any(variant.startswith(name) for variant in BIASED)
    net = setup.model(name, similarity=["clicks", "item_emb", "peers"], similarity_bias=is_biased)
    net.similarity.n_M.fill_(100)
    net.similarity.mean_M.fill_(0.1)
    net.similarity.squares_M.copy_(torch.tensor([400.0, 25.0, 25.0, 400.0]))  # deviations of 2 and 0.5
    if is_biased:
        net.similarity.weight_M.data.copy_(torch.tensor([-0.5, 0.7, -0.4, 0.2]))
    expected = setup.expected(net, history, CANDIDATES, 3, 0.5)
    ranker = Ranker(Trained.of(net, setup.feature_map, {"max_len": MAX_LEN}), batch_size=7)
    scores = ranker.score(history, CANDIDATES, {"likes_level": 3, "price": 0.5})
    assert expected.std() > 0.015
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(SMALL))
def test_vectors_that_are_trained(setup: Setup, name: str) -> None:
    columns = copy.deepcopy(setup.feature_map)
    columns.features["item_emb"] |= {"freeze_emb": False, "vocab_size": 41}
    del columns.features["item_id"]  # then the id is needed for nothing else
    net = setup.model(name, feature_map=columns)
    torch.nn.init.normal_(net.embedding_layer.embedding_layer.offsets["item_emb"].weight[1:])
    expected = setup.expected(net, HISTORIES["long"], CANDIDATES, 3, 0.5)
    ranker = Ranker(Trained.of(net, columns, {"max_len": MAX_LEN}))
    scores = ranker.score(HISTORIES["long"], CANDIDATES, {"likes_level": 3, "price": 0.5})
    assert expected.std() > 0.015
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_one_candidate_and_none(setup: Setup, model: Any) -> None:
    ranker = Ranker(Trained.of(model, setup.feature_map, {"max_len": MAX_LEN}))
    context = {"likes_level": 3, "price": 0}
    expected = setup.expected(model, [1, 2], np.array([5]), 3, 0.0)
    np.testing.assert_allclose(ranker.score([1, 2], [5], context), expected, rtol=0, atol=1e-6)
    assert ranker.score([1, 2], [], context).shape == (0,)


def test_every_part_of_a_request_matters(setup: Setup, model: Any) -> None:
    ranker = Ranker(Trained.of(model, setup.feature_map, {"max_len": MAX_LEN}))
    base = ranker.score([3, 9, 1], [5, 6], {"likes_level": 3, "price": 1.0})
    others = [
        ranker.score([3, 9, 2], [5, 6], {"likes_level": 3, "price": 1.0}),
        ranker.score([3, 9, 1], [6, 5], {"likes_level": 3, "price": 1.0}),
        ranker.score([3, 9, 1], [5, 6], {"likes_level": 4, "price": 1.0}),
        ranker.score([3, 9, 1], [5, 6], {"likes_level": 3, "price": -1.0}),
    ]
    assert all(np.abs(base - other).min() > 1e-6 for other in others)


def test_each_distinct_item_is_embedded_once(setup: Setup, model: Any) -> None:
    rows: list[list[int]] = []
    model.embedding_layer.register_forward_pre_hook(lambda _, args: rows.append(args[0]["item_id"].tolist()))
    ranker = Ranker(Trained.of(model, setup.feature_map, {"max_len": MAX_LEN}), batch_size=2)
    ranker.score([3, 9, 9, 2], [5, 6, 5, 9, 9, 30, 5], {"likes_level": 3, "price": 1.0})
    assert rows == [[2, 3, 5, 6, 9, 30]]


@pytest.mark.parametrize(
    ("history", "candidates", "context", "sentence"),
    [
        ([3, 77], [5], {}, "history: the item table has no id 77; leave it out, or add the item."),
        ([3], [5, 41], {}, "candidates: the item table has no id 41; leave it out, or add the item."),
        ([3], [5, -1], {}, "candidates: the item table has no id -1; leave it out, or add the item."),
        ([3], [5, 0], {}, "candidates: 0 is the padding item and cannot be scored; leave it out."),
        ([3], [[5, 6]], {}, "candidates: found int64 of shape (1, 2); one list of whole item ids is expected."),
        ([3.5], [5], {}, "history: found float64 of shape (1,); one list of whole item ids is expected."),
        ([3], [5], {"likes_level": 11}, "context column 'likes_level': found 11; an id in 0..10 is expected."),
        ([3], [5, 6], {"likes_level": [1, -2]}, "context column 'likes_level': found -2; an id in 0..10 is expected."),
        ([3], [5], {"likes_level": 1.0}, "context column 'likes_level': found float64; whole numbers in 0..10"),
        ([3], [5, 6], {"likes_level": [1]}, "'likes_level': found the shape (1,); one value, or one for each of 2"),
        ([3], [5], {"price": float("nan")}, "context column 'price': found nan; finite numbers are expected."),
        ([3], [5], {"price": "dear"}, "context column 'price': found 'dear'; finite numbers are expected."),
        ([3], [5], {"lkes": 1}, "found the columns ['likes_level', 'lkes', 'price'], but the model reads"),
    ],
)
def test_refuses_what_it_cannot_score(
    setup: Setup, history: Any, candidates: Any, context: dict[str, Any], sentence: str
) -> None:
    ranker = Ranker(Trained.of(setup.model("DIN_SE_MHTA"), setup.feature_map, {"max_len": MAX_LEN}))
    with pytest.raises(DataError, match=re.escape(sentence)):
        ranker.score(history, candidates, {"likes_level": 1, "price": 1.0, **context})


def test_refuses_a_missing_context_column_and_a_score_that_is_not_finite(setup: Setup) -> None:
    net = setup.model("DIN_SE_MHTA")
    ranker = Ranker(Trained.of(net, setup.feature_map, {"max_len": MAX_LEN}))
    with pytest.raises(DataError, match=re.escape("found the columns ['price'], but the model reads ['likes_level'")):
        ranker.score([3], [5], {"price": 1.0})
    with torch.no_grad():
        net.embedding_layer.embedding_layer.embedding_layers["item_id"].weight[6] = float("nan")
    with pytest.raises(DataError, match="candidates: id 6 has the score nan; a finite one is expected"):
        ranker.score([3], [5, 6], {"likes_level": 1, "price": 1.0})


def test_refuses_models_and_settings_it_cannot_use(setup: Setup, tmp_path: Path) -> None:
    net = setup.model("DIN_SE_MHTA")
    with pytest.raises(ConfigError, match="batch_size: found 0; at least 1 is expected"):
        Ranker(Trained.of(net, setup.feature_map, {}), batch_size=0)
    with pytest.raises(ConfigError, match="model=Linear: a Ranker embeds the history apart from the candidates"):
        Ranker(Trained.of(torch.nn.Linear(1, 1), setup.feature_map, {}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Ranker takes a Trained, which knows how its model was fed; found DIN_SE_M"):
        Ranker(net)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the feature map names no item table"):
        Trained.of(net, tiny_feature_map(tmp_path), {})
