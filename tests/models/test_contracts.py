"""Each promise of a ranking model, written once and run over every registered model and all their switches."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import FieldExcitation, GatedAlignment, MLPAlignment
from fuxictr_mm.models import MultimodalRankModel
from fuxictr_mm.models.history_attention import history_attention
from tests.models.zoo import MODELS, VARIANTS, build, scores
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

# The published mask ignores what is real on purpose.
PROMISING = [variant for variant in VARIANTS if not variant.endswith("padding_mask=as_published")]


@pytest.fixture(params=PROMISING)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> MultimodalRankModel:
    return build(request.param, tmp_path)


def with_item(batch: Any, row: int, position: int, donor: int) -> Any:
    """The batch with the item at one position of a row replaced by the item row ``donor``."""
    context, items, mask = batch
    at = row * (mask.shape[1] + 1) + position
    changed = {name: value.clone() for name, value in items.items()}
    for value in changed.values():
        value[at] = value[donor].clone()
    return context, changed, mask


def test_output_is_a_probability_per_row(model: MultimodalRankModel) -> None:
    y_pred = scores(model, tiny_challenge_batch(model.feature_map))
    assert y_pred.shape == (4, 1)
    assert ((y_pred > 0) & (y_pred < 1)).all()


def test_padding_contents_change_nothing(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    before = scores(model, batch)
    context, items, mask = batch
    filled = {name: value.clone() for name, value in items.items()}
    is_padding = torch.cat([mask == 0, torch.zeros(len(mask), 1, dtype=torch.bool)], dim=1).flatten()
    for value in filled.values():
        value[is_padding] = value[-1].clone()
    torch.testing.assert_close(scores(model, (context, filled, mask)), before, rtol=0, atol=1e-6)


def test_a_real_history_item_changes_the_output(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    before = scores(model, batch)
    after = scores(model, with_item(batch, row=2, position=5, donor=6))
    assert (after[2] - before[2]).abs() > 1e-6
    torch.testing.assert_close(after[[0, 1, 3]], before[[0, 1, 3]], rtol=0, atol=1e-6)


def test_the_target_changes_the_output(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    after = scores(model, with_item(batch, row=1, position=6, donor=6))
    assert (after[1] - scores(model, batch)[1]).abs() > 1e-6


def test_a_row_does_not_depend_on_its_neighbours(model: MultimodalRankModel) -> None:
    together = scores(model, tiny_challenge_batch(model.feature_map))
    context, items, mask = tiny_challenge_batch(model.feature_map)
    for row in range(4):
        positions = slice(row * 7, row * 7 + 7)
        alone = (
            {name: value[row : row + 1] for name, value in context.items()},
            {name: value[positions] for name, value in items.items()},
            mask[row : row + 1],
        )
        torch.testing.assert_close(scores(model, alone), together[row : row + 1], rtol=0, atol=1e-6)


def test_trimming_padding_changes_nothing(model: MultimodalRankModel) -> None:
    lengths = (2, 0, 1, 2)
    wide = tiny_challenge_batch(model.feature_map, lengths, width=6)
    narrow = tiny_challenge_batch(model.feature_map, lengths, width=2)
    torch.testing.assert_close(scores(model, wide), scores(model, narrow), rtol=0, atol=1e-6)


def test_a_batch_without_any_history_is_scored(model: MultimodalRankModel) -> None:
    empty = tiny_challenge_batch(model.feature_map, (0, 0), width=0)
    padded = tiny_challenge_batch(model.feature_map, (0, 0), width=3)
    assert torch.isfinite(scores(model, empty)).all()
    torch.testing.assert_close(scores(model, empty), scores(model, padded), rtol=0, atol=1e-6)


def test_distinct_items_give_the_same_answer(model: MultimodalRankModel) -> None:
    context, items, mask = tiny_challenge_batch(model.feature_map)
    ids = items["item_id"].view(len(mask), -1)
    batch = MultimodalBatch.from_ids(context, ids, mask.bool(), items_by_id(items))
    assert len(batch.items["item_id"]) < len(items["item_id"])
    torch.testing.assert_close(scores(model, batch), scores(model, (context, items, mask)), rtol=0, atol=1e-6)


def items_by_id(items: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The item table that holds what the rows of a challenge batch say."""
    size = int(items["item_id"].max()) + 1
    table = {name: value.new_zeros(size, *value.shape[1:]) for name, value in items.items()}
    for name, value in items.items():
        table[name][items["item_id"]] = value
    return table


def test_the_batch_is_not_mutated(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    before = copy.deepcopy(batch)
    model.train()
    model(batch)
    for part, original in zip(batch[:2], before[:2], strict=True):
        assert list(part) == list(original)
        assert all(torch.equal(part[name], original[name]) for name in part)
    assert torch.equal(batch[2], before[2])


def test_saving_and_loading_keeps_predictions(model: MultimodalRankModel, tmp_path: Path) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    before = scores(model, batch)
    checkpoint = tmp_path / "folder" / "weights.model"
    model.save_weights(str(checkpoint))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert not torch.allclose(scores(model, batch), before)
    model.load_weights(str(checkpoint))
    assert torch.equal(scores(model, batch), before)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["weights.model"]


def test_every_parameter_gets_a_gradient(model: MultimodalRankModel) -> None:
    # The same for the ReLUs that are not configurable.
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, torch.nn.LeakyReLU(0.3))
    batch = tiny_challenge_batch(model.feature_map, (4, 0, 6, 3))
    model(batch)["y_pred"].sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    if getattr(getattr(model, "attention_layer", None), "use_softmax", False):
        # A softmax forgets a number that is added to all of its logits: its gradient is 0, or as good as that.
        without = [name for name in without if name != "attention_layer.attention_layer.mlp.4.bias"]
    assert not without


def test_a_training_step_moves_the_loss(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    model._max_gradient_norm, model._batch_index, model._steps_per_epoch = 10.0, 0, 1
    model.train()
    first = model.train_step(batch)
    for _ in range(30):
        last = model.train_step(batch)
    assert last < first
    assert not first.requires_grad


def test_attention_is_paid_to_the_real_history_or_cannot_be_read(model: MultimodalRankModel) -> None:
    batch = tiny_challenge_batch(model.feature_map)
    before = scores(model, batch)
    try:
        seen = history_attention(model, batch)
    except ConfigError as err:
        assert "attention" in str(err)
        return
    torch.testing.assert_close(seen.score_B, before.double().reshape(-1), rtol=0, atol=1e-6)
    assert torch.equal(seen.is_real_BL, batch[2].bool())
    for shares_BHL in seen.shares():
        expected = seen.is_real_BL.any(dim=1, keepdim=True).double()
        torch.testing.assert_close(shares_BHL.sum(dim=-1), expected.expand(shares_BHL.shape[:2]), rtol=0, atol=1e-6)
        assert not shares_BHL.transpose(1, 2)[~seen.is_real_BL].any()
    assert torch.equal(scores(model, batch), before)


@pytest.mark.parametrize("vectors", [False, True])
def test_fields_follow_the_feature_map(vectors: bool, tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path, vectors=vectors, second_vector=vectors)
    for name in MODELS:
        model = build(name, tmp_path, feature_map=feature_map)
        assert model.item_dim == 4 + 4 + (5 + 3 if vectors else 0)
        assert scores(model, tiny_challenge_batch(feature_map)).shape == (4, 1)


@pytest.mark.parametrize("name", MODELS)
def test_items_that_are_nothing_but_stored_vectors(name: str, tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    for column in ("likes_level", "views_level", "item_id", "item_tags"):
        del feature_map.features[column]
    model = build(name, tmp_path, feature_map=feature_map, alignment="none")
    assert not list(model.embedding_layer.parameters()) and not list(model.embedding_layer.state_dict())
    assert scores(model, tiny_challenge_batch(feature_map)).shape == (4, 1)


def test_the_product_of_target_and_interest_is_a_field(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA interest_product=True use_se=False", tmp_path)
    seen = []
    model.dnn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores(model, tiny_challenge_batch(model.feature_map))
    target_BD, interest_BD, product_BD = seen[0][:, model.context_dim :].chunk(3, dim=-1)
    assert target_BD.shape[1] == model.item_dim and product_BD.abs().max() > 1e-3
    torch.testing.assert_close(product_BD, target_BD * interest_BD)


@pytest.mark.parametrize("std", [1e-4, 0.05])
def test_spread_of_embeddings_before_training(std: float, tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    feature_map.features["item_id"]["vocab_size"] = 400
    model = MODELS["DIN_SE_MHTA"](feature_map, model_root=str(tmp_path), embedding_std=std, **MODEL_KWARGS)
    weight = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight.detach()
    assert not weight[0].any()
    assert float(weight[1:].std()) == pytest.approx(std, rel=0.2)


def test_accumulated_gradients_equal_one_large_batch(tmp_path: Path) -> None:
    rows = (4, 0, 6, 1)
    whole = tiny_challenge_batch(tiny_feature_map(tmp_path), rows)
    context, items, mask = whole
    halves = [
        (
            {name: value[half] for name, value in context.items()},
            {name: value[half.start * 7 : half.stop * 7] for name, value in items.items()},
            mask[half],
        )
        for half in (slice(0, 2), slice(2, 4))
    ]
    at_once = build("Transformer_DCNv2", tmp_path, optimizer="SGD", transformer_dropout=0.0, net_dropout=0.0)
    in_steps = build(
        "Transformer_DCNv2", tmp_path, optimizer="SGD", transformer_dropout=0.0, net_dropout=0.0, accumulation_steps=8
    )
    for model, batches in ((at_once, [whole]), (in_steps, halves)):
        model._max_gradient_norm, model._steps_per_epoch = 10.0, len(batches)
        for model._batch_index, batch in enumerate(batches):
            model.train_step(batch)
    for one, other in zip(at_once.parameters(), in_steps.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


class Batches(list):
    """Five times the same batch, as a loader."""

    def __init__(self, feature_map: Any) -> None:
        super().__init__([tiny_challenge_batch(feature_map)] * 5)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("none", [0.1] * 10), ("linear", [0.1 - 0.01 * i for i in range(10)])]
)
def test_the_learning_rate_falls_to_zero_over_all_epochs(schedule: str, expected: list[float], tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path, learning_rate=0.1, optimizer="SGD", lr_schedule=schedule)
    seen: list[float] = []
    step = model.optimizer.step
    model.optimizer.step = lambda: (seen.append(model.optimizer.param_groups[0]["lr"]), step())[1]
    model.evaluate = lambda *_, **__: {"AUC": float(len(seen))}  # always better: no plateau
    batches = Batches(model.feature_map)
    model.fit(batches, epochs=2, validation_data=batches)
    assert seen == pytest.approx(expected)


def test_a_linear_schedule_does_not_fall_on_plateaus_as_well(tmp_path: Path) -> None:
    model = build(
        "DIN_SE_MHTA", tmp_path, learning_rate=0.1, optimizer="SGD", lr_schedule="linear", early_stop_patience=9
    )
    model.evaluate = lambda *_, **__: {"AUC": 0.5}
    batches = Batches(model.feature_map)
    model.fit(batches, epochs=3, validation_data=batches)
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 15)


def test_parameter_names_are_the_published_ones(tmp_path: Path) -> None:
    names = set(build("Transformer_DCNv2", tmp_path).state_dict())
    for expected in (
        "embedding_layer.embedding_layer.embedding_layers.item_id.weight",
        "embedding_layer.embedding_layer.feature_encoders.item_emb.weight",
        "transformer_encoder.transformer_encoder.layers.1.self_attn.in_proj_weight",
        "transformer_encoder.out_linear.weight",
        "crossnet.cross_layers.1.weight",
        "parallel_dnn.mlp.0.weight",
        "mlp.mlp.0.weight",
    ):
        assert expected in names


@pytest.mark.parametrize(
    ("variant", "change", "sentence"),
    [
        ("Transformer_DCNv2", {"cross": "wide"}, "key 'cross': found 'wide'; one of 'full', 'low_rank' or 'none' is"),
        ("Transformer_DCNv2", {"cross": "low_rank", "cross_rank": 1000}, "cross_rank=1000 must be between 1 and"),
        ("Transformer_DCNv2", {"padding_mask": "inverted"}, "key 'padding_mask': found 'inverted'; one of"),
        ("Transformer_DCNv2", {"position": "sinus"}, "key 'position': found 'sinus'; one of"),
        ("Transformer_DCNv2", {"num_heads": 7}, "num_heads=7 must divide the width of a history token, 26"),
        ("Transformer_DCNv2", {"first_k_cols": 0, "concat_max_pool": False}, "leaves nothing of the history"),
        ("Transformer_DCNv2", {"dcn_hidden_units": []}, r"key 'dcn_hidden_units': found \[\]; a list of at least 1"),
        ("Transformer_DCNv2", {"mlp_hidden_units": [8, 0]}, r"found \[8, 0\]; at least 1 at place 1 is expected"),
        ("Transformer_DCNv2", {"hidden_activations": "Rellu"}, "key 'hidden_activations': found 'Rellu'; the name of"),
        (
            "Transformer_DCNv2",
            {"alignment": "deep"},
            "key 'alignment': found 'deep'; one of 'none', 'linear', 'mlp' or",
        ),
        ("Transformer_DCNv2", {"embedding_dim": "8"}, "key 'embedding_dim': found '8'; a whole number is expected"),
        ("Transformer_DCNv2", {"net_dropout": 1.5}, "key 'net_dropout': found 1.5; less than 1"),
        ("Transformer_DCNv2", {"lr_schedule": "cosine"}, "key 'lr_schedule': found 'cosine'; one of"),
        ("DIN_SE_MHTA", {"attention": "self"}, "key 'attention': found 'self'; one of 'mhta' or 'din' is expected"),
        ("DIN_SE_MHTA", {"attention_dim": 7, "num_heads": 2}, "num_heads=2 must divide attention_dim=7"),
        ("DIN_SE_MHTA", {"dnn_activations": ["ReLU"]}, "'dnn_activations': found 1 activations for 2 hidden layers"),
        ("DIN_SE_MHTA", {"use_se": "no"}, "key 'use_se': found 'no'; True or False is expected"),
        ("DIN_SE_MHTA", {"fusion": "sum"}, "key 'fusion': found 'sum'; one of 'none' or 'se'"),
        ("DIN_SE_MHTA", {"fusion": "se", "use_se": False}, "fusion: se and use_se: False contradict each other"),
        ("DIN_SE_MHTA", {"fusion": "none", "use_se": True}, "fusion: none and use_se: True contradict each other"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(variant: str, change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(variant, tmp_path, **change)


def test_a_list_gives_each_hidden_layer_its_activation(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path, dnn_activations=["Tanh", "PReLU"], net_dropout=0)
    assert [type(layer).__name__ for layer in model.dnn.mlp] == [
        "Linear",
        "Tanh",
        "Linear",
        "PReLU",
        "Linear",
        "Sigmoid",
    ]


def test_the_older_word_for_no_fusion(tmp_path: Path) -> None:
    for variant in ("DIN_SE_MHTA use_se=False", "DIN_SE_MHTA fusion=none"):
        assert build(variant, tmp_path).field_excitation is None
    for variant in ("DIN_SE_MHTA", "DIN_SE_MHTA use_se=True", "DIN_SE_MHTA fusion=se"):
        assert isinstance(build(variant, tmp_path).field_excitation, FieldExcitation)


def test_a_sequence_without_pooling_is_refused(tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    del feature_map.features["item_tags"]["feature_encoder"]
    with pytest.raises(ConfigError, match=r"item_tags.*feature_encoder: layers.MaskedAveragePooling"):
        build("DIN_SE_MHTA", tmp_path, feature_map=feature_map)


def test_a_column_of_its_own_encoder_is_left_alone(tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    feature_map.features["item_emb"].update(feature_encoder="nn.Identity()", embedding_dim=7)
    model = build("DIN_SE_MHTA", tmp_path, feature_map=feature_map, alignment="gated")
    encoders = model.embedding_layer.embedding_layer.feature_encoders
    assert isinstance(encoders["item_emb"], torch.nn.Identity)


@pytest.mark.parametrize(("alignment", "expected"), [("mlp", MLPAlignment), ("gated", GatedAlignment)])
def test_alignment_takes_its_place(alignment: str, expected: type, tmp_path: Path) -> None:
    model = build("Transformer_DCNv2", tmp_path, alignment=alignment)
    assert isinstance(model.embedding_layer.embedding_layer.feature_encoders["item_emb"], expected)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path)
    context, items, mask = tiny_challenge_batch(model.feature_map)
    del items["item_tags"]
    with pytest.raises(ConfigError, match=r"no item column 'item_tags'"):
        model((context, items, mask))


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = build("DIN_SE_MHTA", tmp_path)
    context, items, mask = tiny_challenge_batch(model.feature_map)
    with pytest.raises(ValueError, match=r"item_dict holds 28 rows but mask \(4, 5\) asks for"):
        model((context, items, mask[:, 1:]))


def test_published_mask_ignores_the_real_history(tmp_path: Path) -> None:
    model = build("Transformer_DCNv2", tmp_path, padding_mask="as_published")
    batch = tiny_challenge_batch(model.feature_map)
    after = scores(model, with_item(batch, row=0, position=3, donor=6))
    torch.testing.assert_close(after, scores(model, batch), rtol=0, atol=1e-6)


def test_a_batch_unpacks_into_the_challenge_form(tmp_path: Path) -> None:
    challenge = tiny_challenge_batch(tiny_feature_map(tmp_path))
    batch = MultimodalBatch.from_inputs(challenge)
    context, items, mask = batch
    assert torch.equal(mask, challenge[2])
    assert all(torch.equal(items[name], challenge[1][name]) for name in items)
    assert batch[0] is challenge[0] and torch.equal(batch[2], mask) and len(batch) == 3
    assert context == batch.context
