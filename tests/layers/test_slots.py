"""Layers that skip absent slots, against those that do not."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fuxictr_mm.layers import LowRankCrossNet, Slots, slots

BEFORE, SLOT, SLOTS, AFTER = 5, 3, 6, 4


class Network(nn.Module):
    """A cross network and an MLP over slots, or over all columns."""

    def __init__(self, cross: nn.Module, width: int, before: int, min_width: float) -> None:
        super().__init__()
        self.cross = cross
        self.mlp = nn.Sequential(nn.Linear(width, 7), nn.ReLU(), nn.Linear(7, 2))
        self.slots = Slots(width, first=before, slot_width=SLOT, count=SLOTS, min_width=min_width)

    def forward(self, x: torch.Tensor, present_B: torch.Tensor | None) -> torch.Tensor:
        crossed, deep = self.slots(x, present_B, self.cross, self.mlp)
        return torch.cat([crossed, deep], dim=1)

    @property
    def layer(self) -> nn.Linear:
        return self.cross.cross_layers[0]


def networks(cross: str = "full", before: int = BEFORE, after: int = AFTER) -> tuple[Network, Network]:
    """One that skips, and a dense one with the same weights."""
    torch.manual_seed(0)
    width = before + SLOT * SLOTS + after
    layers = CrossNetV2(width, 3) if cross == "full" else LowRankCrossNet(width, 3, 4)
    skipping = Network(layers, width, before, min_width=0)
    dense = copy.deepcopy(skipping)
    dense.slots.min_width = math.inf
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
    width = ours.slots.width
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
    for present in ((6, 1, 3), (2, 0, 1), (0, 0, 4)):  # from the second on, blocks of absent slots hold old numbers
        ours.zero_grad()
        dense.zero_grad()
        x, present_B = batch(present)
        ours(x, present_B).sum().backward()
        dense(x, present_B).sum().backward()
        assert_gradients_equal(ours, dense)
        place.append([layer.weight.grad.data_ptr() for layer in ours.cross.cross_layers])
    assert place[0] == place[1] == place[2]


def test_gradients_add_up_over_batches() -> None:
    ours, dense = networks()
    for _ in range(2):  # the second time there is memory to be used again
        ours.zero_grad()
        dense.zero_grad()
        for present in ((6, 1, 3), (2, 0, 1), (4, 4, 0)):
            x, present_B = batch(present)
            ours(x, present_B).sum().backward()
            dense(x, present_B).sum().backward()
            assert_gradients_equal(ours, dense)


def test_gradients_of_several_uses_add_up() -> None:
    """One backward pass through two uses of the same weights: both gradients exist at once."""
    ours, dense = networks()
    for _ in range(2):
        for network in (ours, dense):
            torch.manual_seed(1)
            network.zero_grad()
            (network(*batch((6, 1, 3))).sum() + network(*batch((2, 0, 1))).sum()).backward()
        assert_gradients_equal(ours, dense)


def test_frozen_and_computed_weights() -> None:
    ours, dense = networks()
    for network in (ours, dense):
        network.layer.weight.requires_grad_(False)
        nn.utils.parametrizations.weight_norm(network.mlp[0])
        torch.manual_seed(1)
        network(*batch((2, 0, 1))).sum().backward()
    assert ours.layer.weight.grad is None
    for one, other in zip(ours.parameters(), dense.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("gradient_as_bucket_view", [False, True])
def test_under_distributed_data_parallel(gradient_as_bucket_view: bool, tmp_path: Path) -> None:
    """The reducer's hooks see every gradient, whether it keeps gradients in memory of its own or not."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        losses = []
        for network in networks():
            parallel = DistributedDataParallel(network, gradient_as_bucket_view=gradient_as_bucket_view)
            optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
            torch.manual_seed(1)
            losses.append([])
            for present in ((6, 1, 3), (2, 0, 1), (0, 0, 4), (5, 6, 6)):
                optimizer.zero_grad()
                loss = parallel(*batch(present)).square().mean()
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.item())
    finally:
        dist.destroy_process_group()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def skips(network: Network, x: torch.Tensor, present_B: torch.Tensor | None) -> bool:
    """Weights of the oldest slot are not read."""
    with torch.no_grad():
        network.layer.weight[:, BEFORE : BEFORE + SLOT] = torch.nan
        return bool(torch.isfinite(network(x, present_B)).all())


def test_where_it_would_not_pay_nothing_is_skipped() -> None:
    ours, dense = networks()
    x, present_B = batch((2, 0, 1))
    assert skips(ours, x, present_B)
    assert not skips(ours, x, None)
    assert not skips(dense, x, present_B)
    with torch.autocast("cpu", torch.bfloat16):
        assert not skips(ours, x, present_B)
    ours.slots.min_width = x.shape[1] + 1
    assert not skips(ours, x, present_B)


def test_on_another_device_nothing_is_skipped() -> None:
    ours, _ = networks()
    x, present_B = batch((2, 0, 1))
    assert ours.to("meta")(x.to("meta"), present_B).device.type == "meta"


def test_without_slots_or_cross_network() -> None:
    mlp = nn.Sequential(nn.Linear(9, 2))
    x = torch.randn(2, 9)
    for count, first in ((0, 9), (2, 3)):
        slots = Slots(9, first=first, slot_width=3, count=count, min_width=0)
        crossed, deep = slots(x, torch.tensor([2, 2]), None, mlp)
        assert crossed is None
        torch.testing.assert_close(deep, mlp(x))


def test_a_copied_module_keeps_its_own_memory() -> None:
    ours, dense = networks()
    x, present_B = batch((2, 0, 1))
    ours(x, present_B).sum().backward()
    twin = copy.deepcopy(ours)
    for network in (ours, twin):
        network.zero_grad()
        network(x, present_B).sum().backward()
    dense(x, present_B).sum().backward()
    assert_gradients_equal(twin, dense)
    assert_gradients_equal(ours, dense)
    assert twin.layer.weight.grad.data_ptr() != ours.layer.weight.grad.data_ptr()
