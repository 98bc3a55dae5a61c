"""In which order rows come: known numbers, and what batches of equal lengths promise."""

import numpy as np
import pytest

from fuxictr_mm.data import order as order_module
from fuxictr_mm.data.order import EpochOrder

RNG = np.random.default_rng(5)
LENGTHS = RNG.integers(0, 64, 1003).astype(np.uint8)


def test_the_default_order_is_numpys_permutation() -> None:
    for epoch in range(3):
        expected = np.random.default_rng((7, epoch)).permutation(1003)
        np.testing.assert_array_equal(EpochOrder(10, (7, epoch)).of_rows(LENGTHS), expected)
    assert EpochOrder(2, (20242025, 0)).of_rows(np.zeros(10, np.uint8)).tolist() == [6, 5, 3, 7, 8, 4, 1, 9, 0, 2]
    np.testing.assert_array_equal(EpochOrder(10, None, by_length=True).of_rows(LENGTHS), np.arange(1003))


def test_windows_have_orders_of_their_own() -> None:
    orders = [EpochOrder(10, (7, 0)).of_rows(LENGTHS, window) for window in (None, 0, 1)]
    assert all((np.sort(order) == np.arange(1003)).all() for order in orders)
    assert not any((a == b).all() for a, b in zip(orders, [*orders[1:], orders[0]]))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1003, 2000])
def test_batches_of_equal_lengths(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "BUCKET_BATCHES", 20)
    order = EpochOrder(batch_size, (7, 0), by_length=True).of_rows(LENGTHS)
    assert np.sort(order).tolist() == list(range(1003))  # every row once
    np.testing.assert_array_equal(order, EpochOrder(batch_size, (7, 0), by_length=True).of_rows(LENGTHS))
    assert not (order == EpochOrder(batch_size, (7, 1), by_length=True).of_rows(LENGTHS)).all()
    if batch_size == 7:
        plain = np.random.default_rng((7, 0)).permutation(1003)
        for start in range(0, 1003, 140):  # a bucket has the rows that it has without sorting
            assert set(order[start : start + 140]) == set(plain[start : start + 140])
        spread = [np.ptp(LENGTHS[order[start : start + 7]]) for start in range(0, 980, 7)]
        assert np.median(spread) <= 4 and max(spread) < 20
        longest = [int(LENGTHS[order[start : start + 7]].max()) for start in range(0, 140, 7)]
        assert longest != sorted(longest)  # batches are shuffled


def test_rows_of_one_length_stay_in_random_order() -> None:
    lengths = np.zeros(100, np.uint8)
    order = EpochOrder(10, (7, 0), by_length=True).of_rows(lengths)
    plain = EpochOrder(10, (7, 0)).of_rows(lengths)
    assert {tuple(batch) for batch in order.reshape(10, 10)} == {tuple(batch) for batch in plain.reshape(10, 10)}
