"""Compared vectors and the two dropouts of items: what they change, and when they must not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.folds import FOLDS, PAIRS, fold_of
from fuxictr_mm.models import MultimodalRankModel
from fuxictr_mm.models.item_vectors import ItemVectors
from tests.models.zoo import BIASED, MODELS, build, scores
from tests.synthetic import tiny_challenge_batch, tiny_feature_map, tiny_item_table

VIEWS = 1 + len(PAIRS)
OWN_CLICKS = {"modalities": [["raw", 3 * VIEWS]], "pretrain_dim": 3 * VIEWS, "click_vectors": "own", "click_width": 3}
EVERY = pytest.mark.parametrize("variant", MODELS)


def feature_map(folder: Path) -> Any:
    """Two modalities side by side in the field, and again in a column that is compared only."""
    result = tiny_feature_map(folder)
    result.features["item_emb"]["modalities"] = [["text", 4], ["image", 3]]
    result.features["raw"] = {
        "type": "meta", "source": "item", "pretrain_dim": 9, "modalities": [["image", 3], ["text", 6]],
    }  # fmt: skip
    return result


def item_table(columns: Any) -> dict[str, torch.Tensor]:
    table = tiny_item_table(columns)
    width = columns.features["raw"]["pretrain_dim"]
    table["raw"] = torch.randn(len(table["item_id"]), width, generator=torch.Generator().manual_seed(4))
    table["raw"][0] = 0
    return table


def batch_of(columns: Any, table: dict[str, torch.Tensor], lengths: tuple[int, ...] = (4, 0, 6, 1)) -> MultimodalBatch:
    context, items, mask = tiny_challenge_batch(columns, lengths)
    return MultimodalBatch.from_ids(context, items["item_id"].view(len(mask), -1), mask.bool(), table)


@EVERY
def test_a_compared_column_changes_the_score_and_is_no_field(variant: str, tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    table = item_table(columns)
    plain = build(variant, tmp_path, feature_map=columns)
    model = build(variant, tmp_path, feature_map=columns, similarity=["raw"])
    assert model.item_field_dims == plain.item_field_dims
    assert model.context_dim == plain.context_dim + 4
    before = scores(model, batch_of(columns, table))
    turned = {**table, "raw": table["raw"].flip(1)}
    torch.testing.assert_close(scores(plain, batch_of(columns, turned)), scores(plain, batch_of(columns, table)))
    after = scores(model, batch_of(columns, turned))
    changed = (after - before).abs().squeeze(1) > 1e-6
    assert changed.tolist() == [True, False, True, True]  # the second row has no history to compare with


def users_of(batch: MultimodalBatch) -> torch.Tensor:
    """Give the rows of a batch users, one per fold at first."""
    users = torch.arange(1000)
    first = torch.stack([users[fold_of(users) == fold][0] for fold in range(FOLDS)])
    batch.context["user_id"] = first.repeat(len(batch.is_real_BL) // FOLDS + 1)[: len(batch.is_real_BL)]
    return fold_of(batch.context["user_id"])


@pytest.mark.parametrize("training", [False, True])
def test_expected_clicks_differ_between_target_and_history(training: bool, tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    width = (1 + FOLDS) * 8
    columns.features["raw"] |= {"modalities": [["raw", width]], "pretrain_dim": width}
    columns.features["raw"] |= {"click_vectors": "expected", "click_width": 4}
    table = item_table(columns)
    views = table["raw"].view(-1, 1 + FOLDS, 2, 4)
    views[5, :, 0] = 0  # known in a history only
    views[6, :, 1] = 0  # known as a target only
    batch = batch_of(columns, table, (4, 0, 6, 1, 5, 5))
    view = 1 + users_of(batch) if training else torch.zeros(6, dtype=torch.long)
    vectors = ItemVectors(columns, ["raw"], "item_id")
    cosine_BL1, is_known_BL1 = vectors.compare(batch, training)
    ids = batch.items["item_id"][batch.item_index]
    units = torch.nn.functional.normalize(views, dim=-1)
    for row in range(len(ids)):
        target = int(ids[row, -1])
        assert vectors.known_targets(batch, training)[row, 0] == (target != 5)
        for position in range(ids.shape[1] - 1):
            other = int(ids[row, position])
            is_known = bool(batch.is_real_BL[row, position]) and other not in (6, target) and target != 5
            assert is_known_BL1[row, position, 0] == is_known
            if is_known:
                expected = float(units[target, view[row], 0] @ units[other, view[row], 1])
                assert cosine_BL1[row, position, 0] == pytest.approx(expected, abs=1e-6)


def test_own_clicks_are_compared_without_those_of_the_rows_user(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    columns.features["raw"] |= OWN_CLICKS
    table = item_table(columns)
    batch = batch_of(columns, table, (4, 0, 6, 1) * 8)
    folds = users_of(batch).tolist()
    vectors = ItemVectors(columns, ["raw"], "item_id")
    units = torch.nn.functional.normalize(table["raw"].view(-1, VIEWS, 3), dim=-1)
    ids = batch.items["item_id"][batch.item_index]
    is_known = batch.is_real_BL & (ids[:, :-1] != ids[:, -1:])
    drawn = set()
    for training in (False, True):
        cosine_BL1, is_known_BL1 = vectors.compare(batch, training)
        assert is_known_BL1[..., 0].tolist() == is_known.tolist()
        for row in is_known.any(dim=1).nonzero().squeeze(1).tolist():
            expected_VL = torch.einsum("lvw,vw->vl", units[ids[row, :-1]], units[ids[row, -1]])
            distance_V = ((expected_VL - cosine_BL1[row, :, 0]).abs() * is_known[row]).sum(dim=1)
            view = int(distance_V.argmin())
            assert distance_V[view] < 1e-5
            assert (folds[row] in PAIRS[view - 1]) if training else view == 0
            drawn.add(view)
    assert len(drawn) > 5, "the second fold is drawn anew for every row"
    del batch.context["user_id"]
    vectors.compare(batch)
    with pytest.raises(ConfigError, match=r"training needs the user of each row, group_id='user_id'"):
        vectors.compare(batch, True)


def test_training_and_scoring_take_their_own_views(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    columns.features["raw"] |= OWN_CLICKS
    model = build("DIN_SE_MHTA", tmp_path, feature_map=columns, similarity=["raw"], net_dropout=0.0)
    table = item_table(columns)
    other = {**table, "raw": torch.cat([table["raw"][:, :3].exp(), table["raw"][:, 3:]], dim=1)}
    before, after = (batch_of(columns, t) for t in (table, other))
    for batch in (before, after):
        users_of(batch)
    assert not torch.equal(scores(model, before), scores(model, after))
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    trained = scores(model, before)
    model.load_state_dict(state)
    torch.manual_seed(1)
    torch.testing.assert_close(scores(model, after), trained)


@pytest.mark.parametrize("variant", BIASED)
@pytest.mark.parametrize("lengths", [(3,), (0, 0)], ids=["one row", "no history at all"])
def test_edges(variant: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    model = build(variant, tmp_path, feature_map=columns, similarity=["raw", "item_emb"], similarity_bias=True)
    batch = batch_of(columns, item_table(columns), lengths)
    answer = scores(model, batch)
    assert answer.shape == (len(lengths), 1) and answer.isfinite().all()
    if not any(lengths):
        bare = MultimodalBatch(batch.context, batch.items, batch.item_index[:, -1:], batch.is_real_BL[:, :0])
        torch.testing.assert_close(scores(model, bare), answer)
    model.train()
    model.compute_loss(model(batch), model.get_labels(batch)).backward()
    assert model.similarity is not None and model.similarity.weight_M is not None
    assert model.similarity.weight_M.grad is not None and model.similarity.weight_M.grad.isfinite().all()
    assert model.similarity.n_M.tolist() == [float(sum(lengths))] * 4


def test_unknown_are_padding_and_missing_vectors(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    table = item_table(columns)
    table["raw"][5, 3:] = 0  # item 5 has an image and no text
    vectors = ItemVectors(columns, ["raw"], "item_id")
    ids = torch.tensor([[0, 5, 3, 2], [0, 3, 2, 5]])
    is_real = ids[:, :-1] > 0
    cosine, is_known = vectors.compare(MultimodalBatch.from_ids({}, ids, is_real, table))
    assert vectors.count == 2 and cosine.shape == (2, 3, 2)
    assert is_known[..., 0].tolist() == [[False, True, True], [False, True, True]]
    assert is_known[..., 1].tolist() == [[False, False, True], [False, False, False]]
    expected = torch.cosine_similarity(table["raw"][3, 3:], table["raw"][2, 3:], dim=0)
    torch.testing.assert_close(cosine[0, 2, 1], expected)


def test_an_item_is_not_compared_with_itself(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    table, vectors = item_table(columns), ItemVectors(columns, ["raw"], "item_id")
    ids = torch.tensor([[2, 5, 2], [3, 5, 2]])
    expected = [[False, True], [True, True]]
    is_real = torch.ones(2, 2, dtype=torch.bool)
    _, is_known = vectors.compare(MultimodalBatch.from_ids({}, ids, is_real, table))
    assert is_known[..., 0].tolist() == expected
    # The challenge's batch has a row of items for each position.
    flat = {name: column[ids.flatten()] for name, column in table.items()}
    _, is_known = vectors.compare(MultimodalBatch.from_inputs(({}, flat, is_real)))
    assert is_known[..., 0].tolist() == expected
    flat["item_id"] = torch.zeros_like(flat["item_id"])  # items that training did not know: all have the id 0
    _, is_known = vectors.compare(MultimodalBatch.from_inputs(({}, flat, is_real)))
    assert is_known.all()


@pytest.mark.parametrize("variant", BIASED)
def test_the_bias_draws_attention_to_what_is_alike(variant: str, tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    model = build(variant, tmp_path, feature_map=columns, similarity=["raw"], similarity_bias=True)
    batch = batch_of(columns, item_table(columns))
    start = scores(model, batch)
    without = build(variant, tmp_path, feature_map=columns, similarity=["raw"], similarity_bias=False)
    without.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(scores(without, batch), start)  # weights of 0 are no bias
    assert model.similarity is not None and model.similarity.weight_M is not None
    with torch.no_grad():
        model.similarity.weight_M.fill_(2.0)
    changed = (scores(model, batch) - start).abs().squeeze(1) > 1e-6
    assert changed.tolist() == [True, False, True, False]  # no history, and one item that has all attention anyway


def test_dropped_modalities_are_the_same_items_in_every_column(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    batch = batch_of(columns, item_table(columns), (6, 5, 6, 6, 6, 6))
    torch.manual_seed(0)
    items = ItemVectors(columns, [], "item_id").drop(batch, 0.5).items
    text = [items["item_emb"][:, :4], items["raw"][:, 3:]]
    image = [items["item_emb"][:, 4:], items["raw"][:, :3]]
    gone = [[(block == 0).all(1) for block in blocks] for blocks in (text, image)]
    assert torch.equal(gone[0][0], gone[0][1]) and torch.equal(gone[1][0], gone[1][1])
    assert not torch.equal(gone[0][0], gone[1][0])
    for name in ("item_emb", "raw"):
        is_kept = items[name] != 0
        assert torch.equal(items[name][is_kept], batch.items[name][is_kept])
    for name in ("item_id", "item_tags"):
        assert torch.equal(items[name], batch.items[name])


@EVERY
def test_dropouts_of_items_act_in_training_only(variant: str, tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    plain = build(variant, tmp_path, feature_map=columns, net_dropout=0, transformer_dropout=0)
    batch = batch_of(columns, item_table(columns))
    for switch in ("id_dropout", "modality_dropout"):
        model = build(variant, tmp_path, feature_map=columns, net_dropout=0, transformer_dropout=0, **{switch: 0.9})
        torch.testing.assert_close(scores(model, batch), scores(plain, batch))
        model.train()
        assert not torch.allclose(scores(model, batch), scores(plain, batch))


@EVERY
def test_a_dropped_id_is_a_zero_embedding_of_that_item_everywhere(variant: str, tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    model = build(variant, tmp_path, feature_map=columns, id_dropout=0.5).train()
    batch = batch_of(columns, item_table(columns), (6, 6, 6))
    torch.manual_seed(1)
    with torch.no_grad():
        target, history = model.embedding_layer.embed(*model.embedding_layer.drop(batch))
    width = model.item_field_dims["item_id"]
    everywhere = torch.cat([history, target.unsqueeze(1)], dim=1)
    gone = (everywhere[..., :width] == 0).all(-1)
    ids = batch.items["item_id"][batch.item_index]
    share = {item: gone[ids == item].float().mean().item() for item in ids.unique().tolist()}
    assert set(share.values()) == {0.0, 1.0}
    assert (everywhere[..., width:] != 0).any(-1).all()  # the other fields stay


@EVERY
def test_an_item_without_id_is_trained_as_scoring_will_see_it(variant: str, tmp_path: Path) -> None:
    """A new item has the zero row of the id embedding and no clicks: id dropout has to leave out both of an item."""
    columns = feature_map(tmp_path)
    columns.features["raw"] |= OWN_CLICKS
    switches = {"net_dropout": 0, "transformer_dropout": 0, "similarity": ["raw", "item_emb"], "id_dropout": 0.5}
    model = build(variant, tmp_path, feature_map=columns, **switches).train()
    table = item_table(columns)
    batch = batch_of(columns, table, (6, 6, 6))
    batch.context["user_id"] = torch.tensor([0, 1, 2])
    seen: dict[str, Any] = {}
    embed, compare = model.embedding_layer.forward, model.vectors.compare

    def embed_items(items: Any, is_known_U1: Any) -> torch.Tensor:
        seen["known"], seen["fields"] = is_known_U1, embed(items, is_known_U1)
        return seen["fields"]

    def compared(batch: Any, training: bool) -> Any:
        seen["items"] = batch.items
        return compare(batch, training)

    model.embedding_layer.forward, model.vectors.compare = embed_items, compared  # type: ignore[method-assign, assignment]
    torch.manual_seed(1)
    scores(model, batch)
    gone = ~seen["known"].squeeze(1)
    is_item = batch.items["item_id"] > 0
    assert 0 < gone[is_item].sum() < is_item.sum()
    assert not seen["items"]["raw"][gone].any()
    assert torch.equal(seen["items"]["raw"][~gone], batch.items["raw"][~gone])
    assert torch.equal(seen["items"]["item_emb"], batch.items["item_emb"])  # what an item's vectors say stays
    ids = seen["fields"][:, : model.item_field_dims["item_id"]]
    assert torch.equal((ids == 0).all(1), gone | ~is_item)


def test_id_dropout_needs_no_id_field_where_own_clicks_are_compared(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    columns.features["raw"] |= OWN_CLICKS
    build("DIN_SE_MHTA", tmp_path, feature_map=columns, similarity=["raw"], id_dropout=0.1, item_col="video")


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        (
            {"similarity": ["item_id"]},
            r"similarity=\['item_id'\] must be a list of item columns.*found \['item_emb', 'raw'\]",
        ),
        ({"similarity": "raw"}, "key 'similarity': found 'raw'; a list, not text, is expected"),
        ({"similarity_bias": True}, "needs 'similarity'"),
        ({"id_dropout": 1.0}, "key 'id_dropout': found 1.0; less than 1"),
        ({"modality_dropout": -0.1}, "key 'modality_dropout': found -0.1; at least 0"),
        ({"id_dropout": 0.1, "item_col": "video"}, "item id 'video' is no item field; found"),
    ],
    ids=str,
)
def test_refusals(switches: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build("DIN_SE_MHTA", tmp_path, feature_map=feature_map(tmp_path), **switches)


def test_dins_own_attention_has_no_logits(tmp_path: Path) -> None:
    switches = {"similarity": ["raw"], "similarity_bias": True}
    with pytest.raises(ConfigError, match="similarity_bias: True needs attention: mhta"):
        build("DIN_SE_MHTA attention=din", tmp_path, feature_map=feature_map(tmp_path), **switches)


def test_a_batch_without_the_compared_column(tmp_path: Path) -> None:
    columns = feature_map(tmp_path)
    model: MultimodalRankModel = build("DIN_SE_MHTA", tmp_path, feature_map=columns, similarity=["raw"])
    context, items, mask = tiny_challenge_batch(columns)
    del items["raw"]
    with pytest.raises(ConfigError, match="no item column 'raw', which is compared"):
        scores(model, (context, items, mask))
