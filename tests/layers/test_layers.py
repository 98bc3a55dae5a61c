"""Each layer of ours against a loop, and its edges."""

import math

import pytest
import torch
from torch import nn

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import FieldExcitation, GatedAlignment, HistoryEncoder, LowRankCrossNet, MLPAlignment
from fuxictr_mm.layers.activations import checked_activations
from fuxictr_mm.layers.fusion import FUSIONS
from fuxictr_mm.layers.history import CPU_ROWS


def test_low_rank_cross_against_a_loop() -> None:
    layer = LowRankCrossNet(5, num_layers=3, rank=2)
    x = torch.randn(4, 5)
    expected = x.clone()
    for row in range(4):
        for v, u in layer.cross_layers:
            projected = u.weight @ (v.weight @ expected[row]) + u.bias
            expected[row] = torch.stack([x[row, d] * projected[d] + expected[row, d] for d in range(5)])
    torch.testing.assert_close(layer(x), expected)
    assert layer.out_dim == 5


def test_full_rank_low_rank_cross_equals_the_hosts() -> None:
    from fuxictr.pytorch.layers import CrossNetV2

    host, ours = CrossNetV2(5, 2), LowRankCrossNet(5, 2, rank=5)
    with torch.no_grad():
        for full, (v, u) in zip(host.cross_layers, ours.cross_layers, strict=True):
            v.weight.copy_(torch.eye(5))
            u.weight.copy_(full.weight)
            u.bias.copy_(full.bias)
    x = torch.randn(3, 5)
    torch.testing.assert_close(ours(x), host(x))


@pytest.mark.parametrize("rank", [0, 6])
def test_low_rank_cross_refuses_a_rank(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"cross_rank={rank} must be between 1 and the width of the cross network, 5"):
        LowRankCrossNet(5, 1, rank)


@pytest.mark.parametrize("activation", ["Sigmoid", "ReLU"])
def test_field_excitation_against_a_loop(activation: str) -> None:
    dims = (2, 1, 3)
    layer = FieldExcitation(dims, reduction_ratio=1.5, excitation_activation=activation)
    assert layer.out_dim == 6
    x = torch.randn(4, 6)
    w1, w2 = layer.excitation[0].weight, layer.excitation[2].weight
    assert w1.shape == (2, 3)
    answer = layer(x)
    for row in range(4):
        fields = [x[row, 0:2], x[row, 2:3], x[row, 3:6]]
        squeezed = torch.tensor([float(field.sum()) / len(field) for field in fields])
        excited = w2 @ torch.clamp(w1 @ squeezed, min=0)
        excited = torch.clamp(excited, min=0) if activation == "ReLU" else 1 / (1 + torch.exp(-excited))
        expected = torch.cat([field * excited[i] for i, field in enumerate(fields)])
        torch.testing.assert_close(answer[row], expected)


def test_field_excitation_of_one_field() -> None:
    assert FieldExcitation((4,))(torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_states_its_width(name: str) -> None:
    layer = FUSIONS[name]((2, 1, 3))
    assert layer(torch.randn(4, 6)).shape == (4, layer.out_dim)


@pytest.mark.parametrize("given", ["relu", "Dice", "PReLU", "GELU", ["Tanh", "dice"]])
def test_activations_that_the_host_can_build(given: str | list[str]) -> None:
    from fuxictr.pytorch.layers import MLP_Block

    assert checked_activations("key", given, (4, 3)) == given
    assert MLP_Block(5, [4, 3], given)(torch.randn(2, 5)).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("Rellu", "key 'x': found 'Rellu'; the name of an activation is expected"),
        ("Linear", "found 'Linear'"),
        (["ReLU", "Rellu"], "found 'Rellu'"),
        (["ReLU"], "key 'x': found 1 activations for 2 hidden layers; give one for each"),
    ],
    ids=str,
)
def test_activations_that_it_cannot(given: str | list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        checked_activations("x", given, (4, 3))


def test_a_history_encoder_checks_its_arguments() -> None:
    with pytest.raises(ConfigError, match="key 'position': found 'sinus'; one of 'none' or 'learned' is expected"):
        HistoryEncoder(2, max_len=3, position="sinus")
    with pytest.raises(ConfigError, match="key 'transformer_layers': found 0; at least 1 is expected"):
        HistoryEncoder(2, max_len=3, transformer_layers=0)


def test_alignments_against_a_loop() -> None:
    x = torch.randn(3, 4)
    gated, mlp = GatedAlignment(4, 2), MLPAlignment(4, 2)
    for row in range(3):
        gate = 1 / (1 + torch.exp(-(gated.gate.weight @ x[row] + gated.gate.bias)))
        torch.testing.assert_close(gated(x)[row], gate * (gated.value.weight @ x[row]))
        hidden = torch.clamp(mlp.hidden.weight @ x[row] + mlp.hidden.bias, min=0)
        torch.testing.assert_close(mlp(x)[row], mlp.output.weight @ hidden)
    assert gated.out_dim == mlp.out_dim == 2


def encoder_layer_by_hand(layer: nn.TransformerEncoderLayer, tokens: torch.Tensor, ignored: list[bool]) -> torch.Tensor:
    """One post-norm, one-head encoder layer over the tokens (L, T) of one row, position by position."""
    width = tokens.shape[1]
    weight_q, weight_k, weight_v = layer.self_attn.in_proj_weight.split(width)
    bias_q, bias_k, bias_v = layer.self_attn.in_proj_bias.split(width)
    outputs = []
    for token in tokens:
        seen = [other for other, skip in zip(tokens, ignored, strict=True) if not skip]
        query = weight_q @ token + bias_q
        logits = torch.stack([query @ (weight_k @ other + bias_k) / math.sqrt(width) for other in seen])
        weights = torch.exp(logits - logits.max())
        weights = weights / weights.sum()
        mixed = sum(w * (weight_v @ other + bias_v) for w, other in zip(weights, seen, strict=True))
        attended = layer.self_attn.out_proj.weight @ mixed + layer.self_attn.out_proj.bias
        hidden = layer.norm1(token + attended)
        forward = layer.linear2(torch.clamp(layer.linear1(hidden), min=0))
        outputs.append(layer.norm2(hidden + forward))
    return torch.stack(outputs)


@pytest.mark.parametrize("padding_mask", ["correct", "as_published"])
@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("target_concat", [True, False])
def test_history_encoder_against_a_loop(padding_mask: str, position: str, target_concat: bool) -> None:
    encoder = HistoryEncoder(
        3,
        max_len=7,
        transformer_layers=2,
        dim_feedforward=5,
        first_k_cols=2,
        padding_mask=padding_mask,
        position=position,
        target_concat=target_concat,
    ).eval()
    with torch.no_grad():  # biases and norms are trivial at first
        for parameter in encoder.parameters():
            parameter.normal_(std=0.7)
    lengths, length = (5, 0, 3, 1), 5
    is_real = torch.tensor([[position >= length - n for position in range(length)] for n in lengths])
    history = torch.randn(4, length, 3) * is_real.unsqueeze(-1)
    target = torch.randn(4, 3)
    answer = encoder(target, history, is_real)
    assert answer.shape == (4, encoder.out_dim)
    for row in range(4):
        tokens = [torch.cat([item, target[row]]) if target_concat else item for item in history[row]]
        if encoder.position is not None:
            tokens = [token + encoder.position[length - 1 - i] for i, token in enumerate(tokens)]
        ignored = [bool(real) == (padding_mask == "as_published") for real in is_real[row]]
        if all(ignored):
            ignored[-1] = False
        encoded = torch.stack(tokens)
        for layer in encoder.transformer_encoder.layers:
            encoded = encoder_layer_by_hand(layer, encoded, ignored)
        latest = [torch.zeros_like(e) if skip else e for e, skip in zip(encoded, ignored, strict=True)][-2:]
        seen = torch.stack([e for e, skip in zip(encoded, ignored, strict=True) if not skip])
        expected = torch.cat([*latest, encoder.out_linear(seen.max(dim=0).values)])
        torch.testing.assert_close(answer[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["none", "learned"])
def test_encoding_rows_by_length_changes_nothing(position: str) -> None:
    encoder = HistoryEncoder(3, max_len=9, position=position, first_k_cols=3).eval()
    rows = 2 * CPU_ROWS + 5
    is_real = torch.arange(9) >= torch.randint(0, 10, (rows, 1))  # lengths 0 to 9
    is_real[0] = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)  # padding elsewhere than on the left
    history, target = torch.randn(rows, 9, 3) * is_real.unsqueeze(-1), torch.randn(rows, 3)
    together = encoder.encode(target, history, is_real)
    torch.testing.assert_close(encoder(target, history, is_real), together, rtol=0, atol=1e-5)


def test_history_encoder_without_transformer_keeps_tokens() -> None:
    encoder = HistoryEncoder(2, max_len=4, use_transformer=False, concat_max_pool=False, first_k_cols=3)
    history, target = torch.randn(1, 2, 2), torch.randn(1, 2)
    answer = encoder(target, history, torch.tensor([[True, True]])).view(3, 4)
    assert torch.equal(answer[0], torch.zeros(4))  # the absent, oldest slot
    assert torch.equal(answer[1:, :2], history[0])
    assert torch.equal(answer[1:, 2:], target.expand(2, 2))


def test_a_history_beyond_the_positions_is_refused() -> None:
    encoder = HistoryEncoder(2, max_len=2, position="learned")
    with pytest.raises(ConfigError, match="a history of 3 items meets position: learned with max_len=2"):
        encoder(torch.randn(1, 2), torch.randn(1, 3, 2), torch.ones(1, 3, dtype=torch.bool))


def test_eval_mode_gives_what_train_mode_gives() -> None:
    """torch's fused inference path must not change the answer."""
    encoder = HistoryEncoder(4, max_len=6, transformer_dropout=0.0)
    is_real = torch.tensor([[False, False, True, True], [False] * 4, [True] * 4])
    history = torch.randn(3, 4, 4) * is_real.unsqueeze(-1)
    target = torch.randn(3, 4)
    trained = encoder.train()(target, history, is_real)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(target, history, is_real), trained, rtol=0, atol=1e-5)
