"""The cross network that skips absent slots, against the host's, which does not."""

import pytest
import torch
from fuxictr.pytorch.layers import CrossNetV2

from fuxictr_mm.layers import SlotCrossNet, cross

BEFORE, SLOT, SLOTS, AFTER = 5, 3, 6, 4
WIDTH = BEFORE + SLOT * SLOTS + AFTER


@pytest.fixture(autouse=True)
def skips_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "MIN_WIDTH", 0)


def networks(before: int = BEFORE, after: int = AFTER) -> tuple[SlotCrossNet, CrossNetV2]:
    torch.manual_seed(0)
    width = before + SLOT * SLOTS + after
    ours = SlotCrossNet(width, 3, first_slot=before, slot_width=SLOT, n_slots=SLOTS)
    host = CrossNetV2(width, 3)
    host.load_state_dict(ours.state_dict())
    return ours, host


def rows(present: torch.Tensor, before: int = BEFORE, after: int = AFTER) -> torch.Tensor:
    x = torch.randn(len(present), before + SLOT * SLOTS + after)
    for row, count in enumerate(present.tolist()):
        x[row, before : before + SLOT * (SLOTS - count)] = 0
    return x.requires_grad_()


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("levels", [1, 2, 4, 6, 9])
@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), (0, AFTER), (BEFORE, 0), (0, 0)])
@pytest.mark.parametrize("present", [(3, 0, 6, 1, 1, 2, 5), (0,), (6,), (2, 2), (0, 0, 0)])
def test_the_hosts_answer_and_gradients(
    present: tuple[int, ...], before: int, after: int, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross, "LEVELS", levels)
    ours, host = networks(before, after)
    present_B = torch.tensor(present)
    x = rows(present_B, before, after)
    other = x.detach().clone().requires_grad_()
    weights = torch.randn_like(x)
    answer, expected = ours(x, present_B), host(other)
    torch.testing.assert_close(answer, expected, rtol=0, atol=2e-6)
    (answer * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(gradients(ours), gradients(host), rtol=1e-5, atol=1e-5)
    is_real = x != 0  # absent slots are constants: what their gradient is does not matter
    torch.testing.assert_close(x.grad[is_real], other.grad[is_real], rtol=1e-5, atol=1e-5)


def test_no_weight_of_an_absent_slot_is_touched() -> None:
    ours, _ = networks()
    with torch.no_grad():
        for layer in ours.cross_layers:
            layer.weight[:, BEFORE : BEFORE + SLOT] = torch.nan  # of the oldest slot, which no row has
            layer.weight[BEFORE : BEFORE + SLOT] = torch.nan
    present_B = torch.tensor([2, 0, 1])
    assert torch.isfinite(ours(rows(present_B), present_B)).all()
    assert not torch.isfinite(ours(rows(present_B))).all()  # without the counts, all weights take part


def test_gradients_use_the_memory_of_the_last_ones() -> None:
    ours, host = networks()
    place = []
    for present in ((6, 1, 3), (2, 0, 1)):  # the second time, blocks of absent slots hold old numbers
        present_B = torch.tensor(present)
        x = rows(present_B)
        ours.recycle_gradients()
        assert all(layer.weight.grad is None for layer in ours.cross_layers)
        ours.zero_grad()
        host.zero_grad()
        ours(x, present_B).sum().backward()
        host(x).sum().backward()
        torch.testing.assert_close(gradients(ours), gradients(host), rtol=1e-5, atol=1e-5)
        place.append([layer.weight.grad.data_ptr() for layer in ours.cross_layers])
    assert place[0] == place[1]


def test_gradients_add_up_over_batches() -> None:
    ours, host = networks()
    for present in ((6, 1, 3), (2, 0, 1)):
        present_B = torch.tensor(present)
        x = rows(present_B)
        ours(x, present_B).sum().backward()
        host(x).sum().backward()
    torch.testing.assert_close(gradients(ours), gradients(host), rtol=1e-5, atol=1e-5)


def test_a_narrow_input_takes_the_hosts_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "MIN_WIDTH", WIDTH + 1)
    ours, host = networks()
    present_B = torch.tensor([2, 0, 1])
    x = rows(present_B)
    assert torch.equal(ours(x, present_B), host(x))
