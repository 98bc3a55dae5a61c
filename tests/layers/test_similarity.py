"""Similarities of target and history against loops, and what is unknown."""

import pytest
import torch
from fuxictr.pytorch.layers import ScaledDotProductAttention

from fuxictr_mm.layers import BiasedDotProductAttention, HistorySimilarity, cosines, similarity, unit_rows


def test_cosines_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(9, 5)
    index = torch.randint(0, 9, (7, 4))
    unit, is_known = unit_rows(vectors)
    assert is_known.all()
    expected = torch.zeros(7, 3)
    for row in range(7):
        for position in range(3):
            pair = vectors[index[row, position]], vectors[index[row, -1]]
            expected[row, position] = torch.cosine_similarity(*pair, dim=0)
    torch.testing.assert_close(cosines(unit, unit, index), expected)
    monkeypatch.setattr(similarity, "PRODUCTS_PER_GATHERED", 0)
    torch.testing.assert_close(cosines(unit, unit, index), expected)
    monkeypatch.setattr(similarity, "CHUNK_BYTES", 1)  # one row at a time
    torch.testing.assert_close(cosines(unit, unit, index), expected)


def test_cosines_without_history() -> None:
    assert cosines(torch.randn(3, 2), torch.randn(3, 2), torch.tensor([[0], [2]])).shape == (2, 0)


def test_a_missing_vector_is_unknown_and_stays_zero() -> None:
    unit, is_known = unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert unit.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert is_known.tolist() == [False, True]


def test_standardised_with_all_that_training_has_seen() -> None:
    layer = HistorySimilarity(2)
    batches = [(torch.randn(n, 4, 2) * torch.tensor([1.0, 0.01]) + 0.9, torch.rand(n, 4, 2) < 0.7) for n in (1, 8, 50)]
    for cosine, is_known in batches:
        layer.standardise(cosine, is_known)
    seen = [torch.cat([cosine[..., m][is_known[..., m]] for cosine, is_known in batches]) for m in range(2)]
    torch.testing.assert_close(layer.mean_M, torch.stack([values.double().mean() for values in seen]))
    variance = torch.stack([values.double().var(correction=0) for values in seen])
    torch.testing.assert_close(layer.squares_M / layer.n_M, variance)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    cosine, is_known = batches[1]
    z = layer.eval().standardise(cosine, is_known)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())  # eval takes nothing in
    expected = (cosine.double() - layer.mean_M) / variance.sqrt()
    torch.testing.assert_close(z[is_known], expected.float()[is_known])
    assert (z[~is_known] == 0).all()


@pytest.mark.parametrize("is_known", [True, False], ids=["equal", "unknown"])
def test_cosines_that_never_differ_are_not_divided_by_zero(is_known: bool) -> None:
    layer = HistorySimilarity(1)
    z = layer.standardise(torch.full((3, 2, 1), 0.4), torch.full((3, 2, 1), is_known))
    torch.testing.assert_close(z, torch.zeros(3, 2, 1))


def test_mean_and_top_k_against_a_loop() -> None:
    layer = HistorySimilarity(2, top_k=3)
    assert layer.out_dim == 4
    z, is_known = torch.randn(6, 5, 2), torch.rand(6, 5, 2) < 0.6
    is_known[0], is_known[1] = True, False
    z = z.masked_fill(~is_known, 0.0)
    answer = layer(z, is_known)
    for row in range(6):
        for m in range(2):
            known = sorted(z[row, :, m][is_known[row, :, m]].tolist(), reverse=True)
            assert answer[row, m].item() == pytest.approx(sum(known) / len(known) if known else 0.0, abs=1e-6)
            top = known[:3]
            assert answer[row, 2 + m].item() == pytest.approx(sum(top) / len(top) if top else 0.0, abs=1e-6)


def test_shorter_than_top_k() -> None:
    answer = HistorySimilarity(1, top_k=3)(torch.tensor([[[2.0], [1.0]]]), torch.ones(1, 2, 1, dtype=torch.bool))
    assert answer.tolist() == [[1.5, 1.5]]


def test_the_bias_starts_at_zero_and_is_learned() -> None:
    assert HistorySimilarity(2).bias(torch.randn(1, 3, 2)) is None
    layer, z = HistorySimilarity(2, bias=True), torch.randn(4, 3, 2)
    bias = layer.bias(z)
    assert bias is not None and bias.shape == (4, 3) and (bias == 0).all()
    bias[0, 1].backward()
    assert layer.weight_M is not None
    torch.testing.assert_close(layer.weight_M.grad, z[0, 1])


def test_attention_with_a_bias_of_zero_is_the_hosts() -> None:
    q, k, v = (torch.randn(3, 2, n, 4) for n in (1, 5, 5))
    mask = (torch.rand(3, 2, 1, 5) < 0.6).float()
    mask[0] = 0  # an empty history
    bias = torch.zeros_like(mask).masked_fill(mask == 0, -1e9)
    expected = ScaledDotProductAttention()(q, k, v, scale=2.0, mask=mask)
    for ours, host in zip(BiasedDotProductAttention()(q, k, v, scale=2.0, mask=bias), expected, strict=True):
        torch.testing.assert_close(ours, host)
    bias[1, 0, 0, 3] += 5
    moved = BiasedDotProductAttention()(q, k, v, scale=2.0, mask=bias)[1]
    logits = q[1, 0, 0] @ k[1, 0].T / 2 + bias[1, 0, 0]
    torch.testing.assert_close(moved[1, 0, 0], logits.softmax(-1))
