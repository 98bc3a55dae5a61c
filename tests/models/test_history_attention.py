"""The attention that models pay to the history, against computations by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.history_attention import (
    HistoryAttention,
    attention_summary,
    history_attention,
    uniform_attention_warning,
)
from tests.models.zoo import build
from tests.synthetic import tiny_challenge_batch, tiny_feature_map

TRANSFORMERS = (
    "Transformer_DCNv2",
    "Transformer_DCNv2 num_heads=2",
    "Transformer_DCNv2 target_concat=False",
    "Transformer_DCNv2 position=learned",
)
DINS = (
    "DIN_SE_MHTA",
    "DIN_SE_MHTA num_heads=1",
    "DIN_SE_MHTA attention=din",
    "DIN_SE_MHTA attention=din din_use_softmax=True",
)
HEADS = {"Transformer_DCNv2 num_heads=2": 2, "DIN_SE_MHTA": 4}
WIDTH = 6
# More rows than the encoder takes at once on a CPU, of all lengths, with empty histories among them.
MANY = tuple(length % (WIDTH + 1) for length in (3, 0, 6, 1, 5, 2, 4, 13, 9) for _ in range(8))


def batch_of(lengths: tuple[int, ...] = (4, 0, 6, 1), width: int = WIDTH, seed: int = 1) -> Any:
    return tiny_challenge_batch(tiny_feature_map(), lengths, width, seed)


def rows_of(batch: Any, rows: slice) -> Any:
    context, items, mask = batch
    count, width = mask.shape
    index = torch.arange(count * (width + 1)).view(count, width + 1)[rows].flatten()
    return (
        {name: values[rows] for name, values in context.items()},
        {name: values[index] for name, values in items.items()},
        mask[rows],
    )


def listened(module: torch.nn.Module, model: Any, batch: Any) -> tuple[tuple[Any, ...], Any]:
    """What a module of the model is given and gives while the batch is scored."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    with module.register_forward_hook(lambda _, args, output: calls.append((args, output))), torch.no_grad():
        model(batch)
    return calls[0]


@pytest.mark.parametrize("lengths", [(4, 0, 6, 1), MANY])
@pytest.mark.parametrize("variant", [*TRANSFORMERS, *DINS])
def test_shares_sum_to_one_over_real_positions(variant: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    seen = history_attention(build(variant, tmp_path), batch_of(lengths))
    heads = HEADS.get(variant, 1)
    assert len(seen.shares()) == (2 if variant in TRANSFORMERS else 1)
    expected = torch.tensor([float(length > 0) for length in lengths], dtype=torch.float64)
    for shares in seen.shares():
        assert shares.shape == (len(lengths), heads, WIDTH)
        torch.testing.assert_close(shares.sum(dim=-1), expected[:, None].expand(-1, heads), rtol=0, atol=1e-6)
        on_padding = shares.transpose(1, 2)[~seen.is_real_BL]
        assert len(on_padding) and (on_padding == 0).all()
        assert (shares.transpose(1, 2)[seen.is_real_BL] > 0).all()


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_transformer_by_hand(variant: str, tmp_path: Path) -> None:
    """softmax(Q K^T / sqrt(d)) of both layers, position by position."""
    model = build(variant, tmp_path)
    batch = batch_of()
    seen = history_attention(model, batch)
    encoder = model.transformer_encoder
    (target, history, is_real, *_), _ = listened(encoder, model, batch)
    tokens = encoder.tokens(target, history)
    with torch.no_grad():
        for layer, weights, shares in zip(encoder.transformer_encoder.layers, seen.weights, seen.shares()):
            attention = layer.self_attn
            heads, d = attention.num_heads, attention.head_dim
            for row, length in enumerate((4, 0, 6, 1)):
                real = range(WIDTH - length, WIDTH)
                query, key, _ = (tokens[row] @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
                for head in range(heads):
                    at = slice(head * d, (head + 1) * d)
                    received = torch.zeros(WIDTH, dtype=torch.float64)
                    for q in real:
                        exps = {k: math.exp(float(query[q, at] @ key[k, at]) / math.sqrt(d)) for k in real}
                        for k in real:
                            expected = exps[k] / sum(exps.values())
                            assert float(weights[row, head, q, k]) == pytest.approx(expected, abs=1e-6)
                            received[k] += expected / length
                    torch.testing.assert_close(shares[row, head], received, rtol=0, atol=1e-6)
            tokens = layer(tokens, src_key_padding_mask=encoder.ignored_positions(is_real))


@pytest.mark.parametrize("variant", ["DIN_SE_MHTA", "DIN_SE_MHTA num_heads=1"])
def test_mhta_by_hand(variant: str, tmp_path: Path) -> None:
    model = build(variant, tmp_path)
    batch = batch_of()
    (shares,) = history_attention(model, batch).shares()
    layer = model.attention_layer
    (target, history, *_), _ = listened(layer, model, batch)
    d = layer.head_dim
    with torch.no_grad():
        for row, length in enumerate((4, 0, 6, 1)):
            real = range(WIDTH - length, WIDTH)
            query, keys = layer.W_q(target[row]), layer.W_k(history[row])
            for head in range(layer.num_heads):
                at = slice(head * d, (head + 1) * d)
                exps = {k: math.exp(float(query[at] @ keys[k, at]) / math.sqrt(d)) for k in real}
                for k in real:
                    assert float(shares[row, head, k]) == pytest.approx(exps[k] / sum(exps.values()), abs=1e-6)


@pytest.mark.parametrize("variant", ["DIN_SE_MHTA attention=din", "DIN_SE_MHTA attention=din din_use_softmax=True"])
def test_din_by_hand(variant: str, tmp_path: Path) -> None:
    """With a softmax its weights; without, shares of the absolute scores, which have both signs."""
    model = build(variant, tmp_path)
    batch = batch_of()
    layer = model.attention_layer
    last = layer.attention_layer.mlp[-1]
    with torch.no_grad():
        last.bias -= listened(last, model, batch)[1].view(4, WIDTH)[batch[2].bool()].median()
    (shares,) = history_attention(model, batch).shares()
    (target, history, *_), interest = listened(layer, model, batch)
    signs = set()
    with torch.no_grad():
        for row, length in enumerate((4, 0, 6, 1)):
            real = list(range(WIDTH - length, WIDTH))
            t = target[row]
            scores = [float(layer.attention_layer(torch.cat([t, h, t - h, t * h])[None])) for h in history[row, real]]
            signs |= {score > 0 for score in scores}
            shown = [math.exp(score) if layer.use_softmax else abs(score) for score in scores]
            expected = [value / sum(shown) for value in shown]
            assert shares[row, 0, real].tolist() == pytest.approx(expected, abs=1e-6)
            weights = torch.tensor(expected if layer.use_softmax else scores)
            torch.testing.assert_close(weights @ history[row, real], interest[row], rtol=0, atol=1e-5)
    assert signs == {True, False}


@pytest.mark.parametrize("variant", [*TRANSFORMERS, *DINS])
def test_rows_are_in_the_order_of_the_batch(variant: str, tmp_path: Path) -> None:
    """Many rows of different lengths at once, or one by one: the same, and the scores are those of the model."""
    model = build(variant, tmp_path)
    batch = batch_of(MANY)
    seen = history_attention(model, batch)
    with torch.no_grad():
        expected = model(batch)["y_pred"].double().reshape(-1)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(seen.score_B, expected, rtol=0, atol=1e-6)
    for row in range(len(MANY)):
        alone = history_attention(model, rows_of(batch, slice(row, row + 1)))
        for one, many in zip(alone.shares(), seen.shares()):
            torch.testing.assert_close(one[0], many[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [0, WIDTH])
@pytest.mark.parametrize(
    "variant",
    ["Transformer_DCNv2", "DIN_SE_MHTA", "DIN_SE_MHTA attention=din", "DIN_SE_MHTA attention=din din_use_softmax=True"],
)
def test_a_row_without_history(variant: str, width: int, tmp_path: Path) -> None:
    model = build(variant, tmp_path)
    batch = batch_of((0,), width)
    seen = history_attention(model, batch)
    for shares, entropy in zip(seen.shares(), seen.entropy()):
        assert shares.shape[-1] == max(width, 1)
        assert (shares == 0).all() and (entropy == 0).all()
    assert attention_summary(model, [batch]) == []


@pytest.mark.parametrize("variant", [*TRANSFORMERS, "DIN_SE_MHTA", "DIN_SE_MHTA attention=din"])
def test_the_model_is_left_as_it_was(variant: str, tmp_path: Path) -> None:
    model = build(variant, tmp_path)
    batch = batch_of(MANY)
    names = {id(module): set(vars(module)) for module in model.modules()}
    with torch.no_grad():
        before = model(batch)["y_pred"]
        history_attention(model, batch)
        model.register_module("dnn" if variant in DINS else "mlp", None)  # the score fails, behind the attention
        with pytest.raises(TypeError):
            history_attention(model, batch)
        other = build(variant, tmp_path)
        history_attention(other, batch)
        assert torch.equal(other(batch)["y_pred"], before)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert set(vars(module)) == names[id(module)]
    assert torch.backends.mha.get_fastpath_enabled()


def test_torchs_fast_path_is_off_meanwhile(tmp_path: Path) -> None:
    """Versions of torch differ in whether a hook alone keeps it from being taken."""
    model = build("Transformer_DCNv2 num_heads=2", tmp_path)
    seen = []
    model.mlp.register_forward_hook(lambda *_: seen.append(torch.backends.mha.get_fastpath_enabled()))
    history_attention(model, batch_of())
    assert seen == [False] and torch.backends.mha.get_fastpath_enabled()


def test_a_compiled_model_is_read_without_its_graph(tmp_path: Path) -> None:
    """Hooks do not reach into a compiled graph, which stands in the model as an attribute."""
    model = build("Transformer_DCNv2", tmp_path)
    compiled = lambda *_: pytest.fail("asked the graph")  # noqa: E731
    model.score = compiled
    assert len(history_attention(model, batch_of()).weights) == 2
    assert model.score is compiled


def hand_made(*weights: list[list[float]]) -> HistoryAttention:
    """One layer, one head; a row per argument: (Q, L) weights, all queries and positions real."""
    values = torch.tensor(weights, dtype=torch.float64)[:, None]
    is_real = torch.ones(len(weights), values.shape[-1], dtype=torch.bool)
    is_query = torch.ones(len(weights), values.shape[-2], dtype=torch.bool)
    return HistoryAttention((values,), is_query, is_real, torch.zeros(len(weights)))


def test_entropy_is_that_of_queries_and_not_of_the_shares_they_leave() -> None:
    """Queries that each look at one item, at different ones, are not uniform attention, though all shares are equal."""
    seen = hand_made([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]])
    assert seen.entropy()[0][:, 0].tolist() == pytest.approx([0.0, math.log(2), math.log(2) / 2])
    assert seen.shares()[0][:, 0].tolist() == [[0.5, 0.5], [0.5, 0.5], [0.75, 0.25]]


def test_distance() -> None:
    one = hand_made([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]])
    other = hand_made([[0.0, 1.0], [0.0, 1.0]], [[0.5, 0.5], [0.4, 0.6]])
    assert one.distance(other)[0][:, 0].tolist() == pytest.approx([0.5, 0.05])
    assert one.distance(one)[0].tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("variant", ["Transformer_DCNv2 num_heads=2", "DIN_SE_MHTA"])
def test_summary_is_the_mean_over_rows_with_a_history(variant: str, tmp_path: Path) -> None:
    """Batches of different sizes weigh by their rows; padding has no share."""
    model = build(variant, tmp_path)
    batches = [batch_of((4, 0, 6, 1)), batch_of((3, 5), seed=2)]
    summary = attention_summary(model, batches)
    layers = 2 if variant == "Transformer_DCNv2 num_heads=2" else 1
    assert [(head["layer"], head["head"]) for head in summary] == [
        (n, h) for n in range(layers) for h in range(HEADS[variant])
    ]
    lengths = (4, 6, 1, 3, 5)
    for head in summary:
        assert head["rows"] == 5
        assert head["entropy_uniform"] == pytest.approx(sum(map(math.log, lengths)) / 5)
        entropies = [
            float(value)
            for batch in batches
            for value in history_attention(model, batch).entropy()[head["layer"]][:, head["head"]]
        ]
        assert head["entropy"] == pytest.approx(sum(entropies) / 5)
        assert 0 < head["entropy"] < head["entropy_uniform"] + 1e-9
        assert head["share_on_padding"] == 0.0


def test_the_published_mask_looks_at_padding(tmp_path: Path) -> None:
    """It ignores what is real; only a row without padding keeps its last position, which is real."""
    model = build("Transformer_DCNv2", tmp_path, padding_mask="as_published")
    for head in attention_summary(model, [batch_of((4, 0, WIDTH, 1))]):
        assert head["share_on_padding"] == pytest.approx(2 / 3, abs=1e-6)


def test_how_much_the_target_moves_the_attention(tmp_path: Path) -> None:
    """Tokens that do not hold the target cannot attend by it; all others can."""
    batch = batch_of(MANY)
    for variant in (*TRANSFORMERS, *DINS):
        for head in attention_summary(build(variant, tmp_path), [batch]):
            if variant == "Transformer_DCNv2 target_concat=False":
                assert head["moved_by_target"] == 0.0
            else:
                assert 1e-3 < head["moved_by_target"] < 1


@pytest.mark.parametrize(
    "variant",
    [
        "Transformer_DCNv2 similarity=['item_emb'] similarity_bias=True",
        "DIN_SE_MHTA similarity=['item_emb'] similarity_bias=True",
    ],
)
def test_similarities_in_the_logits_are_part_of_the_attention(variant: str, tmp_path: Path) -> None:
    """They bring the target into attention whose tokens do not hold it, and leave padding alone."""
    changes = {"target_concat": False} if variant.startswith("Transformer_DCNv2") else {}
    model = build(variant, tmp_path, **changes)
    batch = batch_of(MANY)
    without = attention_summary(model, [batch])
    with torch.no_grad():
        model.similarity.weight_M.fill_(3.0)
    for before, after in zip(without, attention_summary(model, [batch]), strict=True):
        if changes:
            assert before["moved_by_target"] == 0.0
        assert after["moved_by_target"] > before["moved_by_target"] + 0.05
        assert before["share_on_padding"] == after["share_on_padding"] == 0.0
        assert after["entropy"] < before["entropy"]


def test_moved_by_target_by_hand(tmp_path: Path) -> None:
    """Row i gets the target of row i - 1; a row with the same target, or without history, says nothing."""
    model = build("DIN_SE_MHTA num_heads=1", tmp_path)
    context, items, mask = batch_of((4, 0, 6, 5, 3))
    by_row = {name: values.view(5, WIDTH + 1, *values.shape[1:]).clone() for name, values in items.items()}
    for values in by_row.values():
        values[4, -1] = values[3, -1]  # rows 3 and 4 have the same target
    one = (context, {name: values.flatten(0, 1).clone() for name, values in by_row.items()}, mask)
    for values in by_row.values():
        values[:, -1] = values[:, -1].roll(1, dims=0)
    two = (context, {name: values.flatten(0, 1) for name, values in by_row.items()}, mask)
    (before,), (after,) = (history_attention(model, batch).shares() for batch in (one, two))
    expected = ((before - after).abs().sum(dim=-1)[:, 0] / 2)[[0, 2, 3]]
    assert float(expected.min()) > 1e-3
    (head,) = attention_summary(model, [one])
    assert head["moved_by_target"] == pytest.approx(float(expected.mean())) and head["rows"] == 4
    (alone,) = attention_summary(model, [batch_of((4,))])
    assert alone["moved_by_target"] is None and alone["rows"] == 1


@pytest.mark.parametrize(
    "variant", ["Transformer_DCNv2 num_heads=2", "DIN_SE_MHTA", "DIN_SE_MHTA attention=din din_use_softmax=True"]
)
def test_uniform_attention_is_told(variant: str, tmp_path: Path) -> None:
    model = build(variant, tmp_path)
    batches = [batch_of((4, 6, 3))]
    summary = attention_summary(model, batches)
    assert uniform_attention_warning(summary) is None
    with torch.no_grad():
        if variant == "Transformer_DCNv2 num_heads=2":
            for layer in model.transformer_encoder.transformer_encoder.layers:
                layer.self_attn.in_proj_weight.mul_(0.01)
        elif variant == "DIN_SE_MHTA":
            model.attention_layer.W_q.weight.mul_(0.01)
        else:
            model.attention_layer.attention_layer.mlp[-1].weight.mul_(0.01)
    warning = uniform_attention_warning(attention_summary(model, batches))
    assert warning is not None and "\n" not in warning
    assert "within 1 % of that of equal shares in every layer and head" in warning and "nats" in warning


def test_what_is_no_uniform_attention() -> None:
    def head(entropy: float, uniform: float = 2.0) -> dict[str, Any]:
        return {"layer": 0, "head": 0, "entropy": entropy, "entropy_uniform": uniform}

    assert uniform_attention_warning([head(1.99), head(2.0)]) is not None
    assert uniform_attention_warning([head(1.99), head(1.97)]) is None  # one head looks
    assert uniform_attention_warning([head(0.0, uniform=0.0)]) is None  # histories of one item
    assert uniform_attention_warning([]) is None


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use_transformer: False: this Transformer_DCNv2 has no attention"):
        history_attention(build("Transformer_DCNv2 use_transformer=False", tmp_path), batch_of())
    with pytest.raises(ConfigError, match="model Linear: attention can be read from DIN_SE_MHTA and Transformer_DCNv2"):
        attention_summary(torch.nn.Linear(1, 1), iter([batch_of()]))
