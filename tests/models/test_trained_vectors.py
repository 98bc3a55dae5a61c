"""Vectors that go on training (``freeze_emb: False``): where they begin, what moves them, and who may not have them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import MultimodalRankModel
from tests.models.zoo import MODELS, build, scores
from tests.synthetic import N_ITEMS, tiny_challenge_batch, tiny_feature_map

EVERY = pytest.mark.parametrize("variant", MODELS)
OFFSETS = "embedding_layer.embedding_layer.offsets.item_emb.weight"


def feature_map(folder: Path, *, with_ids: bool = True) -> Any:
    result = tiny_feature_map(folder)
    result.features["item_emb"] |= {"freeze_emb": False, "vocab_size": N_ITEMS + 1}
    if not with_ids:
        del result.features["item_id"]
    return result


def offsets_of(model: MultimodalRankModel) -> torch.Tensor:
    return model.state_dict()[OFFSETS]


@EVERY
def test_training_begins_at_the_stored_vectors(variant: str, tmp_path: Path) -> None:
    frozen = build(variant, tmp_path)
    model = build(variant, tmp_path, feature_map=feature_map(tmp_path))
    assert set(model.state_dict()) - set(frozen.state_dict()) == {OFFSETS}
    assert offsets_of(model).shape == (N_ITEMS + 1, 7) and not offsets_of(model).any()
    model.load_state_dict(frozen.state_dict(), strict=False)
    batch = tiny_challenge_batch(tiny_feature_map(tmp_path))
    torch.testing.assert_close(scores(model, batch), scores(frozen, batch))


@EVERY
@pytest.mark.parametrize("lengths", [(4, 0, 6, 1), (3,), (0, 0)], ids=["rows", "one row", "no history"])
def test_a_step_moves_the_vectors_of_the_batch_alone(variant: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    model = build(variant, tmp_path, feature_map=feature_map(tmp_path)).train()
    batch = tiny_challenge_batch(tiny_feature_map(tmp_path), lengths)
    model.compute_loss(model(batch), model.get_labels(batch)).backward()
    model.optimizer.step()
    moved = set(offsets_of(model).any(1).nonzero().flatten().tolist())
    assert moved == set(batch[1]["item_id"].tolist()) - {0}


@EVERY
def test_an_offset_is_added_to_the_vector_of_its_item(variant: str, tmp_path: Path) -> None:
    model = build(variant, tmp_path, feature_map=feature_map(tmp_path, with_ids=False))  # nothing else knows the id
    batch = tiny_challenge_batch(tiny_feature_map(tmp_path))
    ids = batch[1]["item_id"]
    item = int(ids[-1])
    change = torch.linspace(-1, 1, 7)
    with torch.no_grad():
        model.get_parameter(OFFSETS)[item] = change
    after = scores(model, batch)
    moved = {**batch[1], "item_emb": batch[1]["item_emb"] + change * (ids == item).unsqueeze(1)}
    with torch.no_grad():
        model.get_parameter(OFFSETS)[item] = 0
    assert not torch.allclose(scores(model, batch), after)
    torch.testing.assert_close(scores(model, (batch[0], moved, batch[2])), after)


def test_a_new_item_has_its_stored_vector(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path, feature_map=feature_map(tmp_path))
    batch = tiny_challenge_batch(tiny_feature_map(tmp_path))
    new = {**batch[1], "item_id": torch.zeros_like(batch[1]["item_id"])}  # as ItemTable.with_items gives them
    before = scores(model, (batch[0], new, batch[2]))
    with torch.no_grad():
        model.get_parameter(OFFSETS)[1:] = 1.0
    torch.testing.assert_close(scores(model, (batch[0], new, batch[2])), before)
    assert not torch.allclose(scores(model, batch), before)


def test_the_embedding_regularizer_pulls_back_to_the_stored_vectors(tmp_path: Path) -> None:
    model = build(
        "DIN_SE_MHTA", tmp_path, feature_map=feature_map(tmp_path), embedding_regularizer=0.1, net_regularizer=5.0
    )
    before = model.regularization_loss().item()
    with torch.no_grad():
        model.get_parameter(OFFSETS)[1:] = 1.0
    assert model.regularization_loss().item() - before == pytest.approx(0.1 / 2 * N_ITEMS * 7, rel=1e-3)


def test_id_dropout_leaves_out_what_was_trained(tmp_path: Path) -> None:
    columns = feature_map(tmp_path, with_ids=False)
    model = build("DIN_SE_MHTA", tmp_path, feature_map=columns, id_dropout=0.5, alignment="none").train()
    with torch.no_grad():
        model.get_parameter(OFFSETS)[1:] = 1.0
    inputs = tiny_challenge_batch(tiny_feature_map(tmp_path))
    items, encoder = inputs[1], model.embedding_layer
    batch, is_known_U1 = encoder.drop(MultimodalBatch.from_inputs(inputs))
    fields = encoder(batch.items, is_known_U1).split(list(model.item_field_dims.values()), dim=-1)
    added = fields[-1] - items["item_emb"]
    is_real = items["item_id"] > 0
    assert set(added[is_real].round(decimals=4).mean(1).tolist()) == {0.0, 1.0}
    assert not added[~is_real].any()


def test_a_batch_without_ids_is_refused(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path, feature_map=feature_map(tmp_path, with_ids=False))
    context, items, mask = tiny_challenge_batch(tiny_feature_map(tmp_path))
    del items["item_id"]
    with pytest.raises(ConfigError, match="no item column 'item_id'"):
        scores(model, (context, items, mask))


def test_the_hosts_own_word_at_an_id_column_makes_no_vectors(tmp_path: Path) -> None:
    columns = tiny_feature_map(tmp_path)
    columns.features["item_id"]["freeze_emb"] = False
    assert build("DIN_SE_MHTA", tmp_path, feature_map=columns).embedding_layer.trained_vectors == []
