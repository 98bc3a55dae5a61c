"""Layers that skip absent slots, against those that do not."""

import copy

import pytest
import torch
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn

from fuxictr_mm.layers import LowRankCrossNet, SlotCrossNet, Slots, slots

BEFORE, SLOT, SLOTS, AFTER = 5, 3, 6, 4


class Network(nn.Module):
    """A cross network and a linear layer over slots, or over all columns."""

    def __init__(self, cross: nn.Module, width: int, before: int, *, skips: bool) -> None:
        super().__init__()
        self.cross = cross
        self.narrow = nn.Linear(width, 7)
        self.slots = Slots(width, first=before, slot_width=SLOT, count=SLOTS)
        self.skips = skips

    def forward(self, x: torch.Tensor, present_B: torch.Tensor) -> torch.Tensor:
        rows = self.slots.sort(x, present_B) if self.skips else None
        if rows is None:
            return torch.cat([self.cross(x), self.narrow(x)], dim=1)
        x = x[rows.order_B]
        return torch.cat([self.cross(x, rows), rows.linear(x, self.narrow, inputs=True)], dim=1)[rows.inverse_B]


@pytest.fixture(autouse=True)
def skips_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MIN_WIDTH", 0)


def networks(cross: str = "full", before: int = BEFORE, after: int = AFTER) -> tuple[Network, Network]:
    torch.manual_seed(0)
    width = before + SLOT * SLOTS + after
    ours = SlotCrossNet(width, 3) if cross == "full" else LowRankCrossNet(width, 3, 4)
    host = CrossNetV2(width, 3) if cross == "full" else copy.deepcopy(ours)
    skipping, dense = Network(ours, width, before, skips=True), Network(host, width, before, skips=False)
    dense.load_state_dict(skipping.state_dict())
    return skipping, dense


def batch(present: tuple[int, ...], before: int = BEFORE, after: int = AFTER) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(present), before + SLOT * SLOTS + after)
    for row, count in enumerate(present):
        x[row, before : before + SLOT * (SLOTS - count)] = 0
    return x.requires_grad_(), torch.tensor(present)


def assert_gradients_equal(ours: Network, theirs: Network) -> None:
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("cross", ["full", "low_rank"])
@pytest.mark.parametrize("levels", [1, 4, 6, 9])
@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), (0, AFTER), (BEFORE, 0), (0, 0)])
@pytest.mark.parametrize("present", [(3, 0, 6, 1, 1, 2, 5), (0,), (6,), (2, 2), (0, 0, 0)])
def test_the_same_answer_and_gradients(
    present: tuple[int, ...], before: int, after: int, levels: int, cross: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LEVELS", levels)
    ours, dense = networks(cross, before, after)
    x, present_B = batch(present, before, after)
    other = x.detach().clone().requires_grad_()
    answer, expected = ours(x, present_B), dense(other, present_B)
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=5e-6)
    weights = torch.randn_like(answer)
    (answer * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_gradients_equal(ours, dense)
    is_real = x != 0  # absent slots are constants: what their gradient is does not matter
    torch.testing.assert_close(x.grad[is_real], other.grad[is_real], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("cross", ["full", "low_rank"])
def test_no_weight_of_an_absent_slot_is_touched(cross: str) -> None:
    ours, _ = networks(cross)
    width = ours.narrow.in_features
    with torch.no_grad():
        for weight in ours.parameters():
            for axis, size in enumerate(weight.shape):
                if size == width and weight.ndim == 2:
                    weight.narrow(axis, BEFORE, SLOT).fill_(torch.nan)  # of the oldest slot, which no row has
    x, present_B = batch((2, 0, 1))
    assert torch.isfinite(ours(x, present_B)).all()
    assert not torch.isfinite(ours(x, torch.full_like(present_B, SLOTS))).all()


def test_gradients_use_the_memory_of_the_last_ones() -> None:
    ours, dense = networks()
    place = []
    for present in ((6, 1, 3), (2, 0, 1)):  # the second time, blocks of absent slots hold old numbers
        ours.slots.recycle_gradients()
        assert all(layer.weight.grad is None for layer in ours.cross.cross_layers)
        ours.zero_grad()
        dense.zero_grad()
        x, present_B = batch(present)
        ours(x, present_B).sum().backward()
        dense(x, present_B).sum().backward()
        assert_gradients_equal(ours, dense)
        place.append([layer.weight.grad.data_ptr() for layer in ours.cross.cross_layers])
    assert place[0] == place[1]


def test_gradients_add_up_over_batches() -> None:
    ours, dense = networks()
    for present in ((6, 1, 3), (2, 0, 1)):
        x, present_B = batch(present)
        ours(x, present_B).sum().backward()
        dense(x, present_B).sum().backward()
    assert_gradients_equal(ours, dense)


def test_where_it_would_not_pay_nothing_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = networks()
    x, present_B = batch((2, 0, 1))
    assert ours.slots.sort(x, None) is None
    assert ours.slots.sort(x.to("meta"), present_B) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.slots.sort(x, present_B) is None
    assert ours.slots.sort(x, present_B) is not None
    monkeypatch.setattr(slots, "MIN_WIDTH", x.shape[1] + 1)
    assert ours.slots.sort(x, present_B) is None


def test_without_slots_nothing_is_sorted() -> None:
    assert Slots(9, first=9, slot_width=3, count=0).sort(torch.randn(2, 9), torch.tensor([0, 0])) is None


def test_a_copied_module_keeps_its_own_memory() -> None:
    ours, _ = networks()
    x, present_B = batch((2, 0, 1))
    ours(x, present_B).sum().backward()
    twin = copy.deepcopy(ours)
    twin.slots.recycle_gradients()
    assert all(layer.weight.grad is None for layer in twin.cross.cross_layers)
    assert all(layer.weight.grad is not None for layer in ours.cross.cross_layers)
