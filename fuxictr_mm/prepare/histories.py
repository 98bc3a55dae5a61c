"""Who had clicked what before a row, which rows go where, and what a user was not shown: arrays in, arrays out.

Axis letters: N rows of the log, C clicks among them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Clicks", "cold_items", "last_of_users", "negatives", "pairs", "session_starts", "split_by_time"]

ROUNDS = 200  # draws for one negative, after which a user has clicked all that is likely


@dataclass(frozen=True)
class Clicks:
    """The clicks of a log, sorted by user and time.

    Attributes:
        key: (C,) int64, user and rank of the time in one number.
        item: (C,) int32.
        times: distinct times, sorted.
    """

    key: np.ndarray
    item: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> "Clicks":
        """Of rows in any order; equal times of a user stay in the order of the rows."""
        times = np.sort(time)  # numpy 2.3's unique goes by hashes, which takes ten times as long
        times = times[np.append(True, times[1:] != times[:-1])]
        key = _key(user, np.searchsorted(times, time), len(times))
        order = np.argsort(key, kind="stable")
        return cls(key[order], item[order].astype(np.int32), times)

    def before(
        self, user: np.ndarray, time: np.ndarray, max_len: int, since: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the histories of rows lie in :attr:`item`: first and end, (N,) int64 each.

        A history is what the user has clicked strictly before the row, the latest ``max_len`` clicks, oldest first.

        Args:
            user, time: (N,) of the rows.
            max_len: most items of a history.
            since: (N,) times before which clicks do not count, that of the row's session; ``None``: none.
        """
        rank = np.searchsorted(self.times, time)
        end = np.searchsorted(self.key, _key(user, rank, len(self.times)), "left")
        earliest = np.zeros_like(rank) if since is None else np.searchsorted(self.times, since)
        first = np.searchsorted(self.key, _key(user, earliest, len(self.times)), "left")
        return np.maximum(first, end - max_len), end

    def lists(self, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The histories themselves: offsets (N + 1,) int64 and their items, one after the other."""
        lengths = end - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        return offsets, self.item[at]


def _key(user: np.ndarray, rank: np.ndarray, n_times: int) -> np.ndarray:
    return user.astype(np.int64) * (n_times + 1) + rank


def session_starts(user: np.ndarray, time: np.ndarray, gap: float) -> np.ndarray:
    """(N,) time at which each row's session began: a user's session ends where nothing follows within ``gap``."""
    order = np.lexsort((time, user))
    sorted_user, sorted_time = user[order], time[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (sorted_user[1:] != sorted_user[:-1]) | (sorted_time[1:] - sorted_time[:-1] > gap)
    starts = np.empty(len(order), time.dtype)
    starts[order] = sorted_time[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return starts


def split_by_time(time: np.ndarray, valid: float, test: float) -> tuple[np.ndarray, list[float]]:
    """Split (N,) of 0 train, 1 valid, 2 test by time, and the first time of valid and of test.

    Rows of one time stay together, so shares are as near as the times allow.
    """
    order = np.sort(time)
    bounds = [order[min(int(len(order) * share), len(order) - 1)] for share in (1 - valid - test, 1 - test)]
    return (time >= bounds[0]).astype(np.int8) + (time >= bounds[1]), [float(bound) for bound in bounds]


def last_of_users(user: np.ndarray, time: np.ndarray, is_click: np.ndarray, count: int) -> np.ndarray:
    """Split (N,): each user's last ``count`` clicks are test, those before valid; other rows go by their time."""
    order = np.lexsort((np.arange(len(user)), time, user))
    clicks = is_click[order].astype(np.int64)
    # Clicks of the same user from this row on.
    behind = np.cumsum(clicks[::-1])[::-1]
    last = np.flatnonzero(np.append(user[order][1:] != user[order][:-1], True))
    of_user = np.searchsorted(last, np.arange(len(order)))
    after_user = np.append(behind, 0)[last[of_user] + 1]
    left = behind - after_user
    split = np.empty(len(user), np.int8)
    split[order] = np.where(left <= count, 2, np.where(left <= 2 * count, 1, 0))
    return split


def cold_items(n_items: int, share: float, seed: int) -> np.ndarray:
    """(n_items + 1,) bool: the items that training never sees."""
    cold = np.zeros(n_items + 1, bool)
    drawn = np.random.default_rng(seed).permutation(n_items)[: round(share * n_items)]
    cold[1 + drawn] = True
    return cold


def pairs(user: np.ndarray, item: np.ndarray, n_items: int) -> np.ndarray:
    """Users and items of clicks as sorted numbers, as :func:`negatives` looks them up."""
    return np.sort(user.astype(np.int64) * (n_items + 1) + item)


def negatives(
    user: np.ndarray, known: np.ndarray, weights: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Items that the user of a row has clicked at no time, drawn in proportion to weights.

    Args:
        user: (N,) of the rows.
        known: :func:`pairs` of all clicks of the log.
        weights: (n_items + 1,), 0 for padding and for items that are never drawn.
        count: per row.
        seed: of the draws.

    Returns:
        Row numbers and items, (N * count,) at most: a user who has clicked nearly everything gets fewer.
    """
    rng = np.random.default_rng(seed)
    share = np.cumsum(weights / weights.sum())
    n_items = len(weights)
    rows, items = [], []
    # By user, so that neighbours look up neighbouring pairs: several times as fast on a long log.
    by_user = np.argsort(user, kind="stable")
    for part in _parts(len(user), 1 << 20):
        row = np.repeat(by_user[part.start : part.stop], count)
        found = np.zeros(len(row), np.int32)
        left = np.arange(len(row))
        for _ in range(ROUNDS):
            drawn = np.minimum(np.searchsorted(share, rng.random(len(left)), "right"), n_items - 1)
            pair = user[row[left]].astype(np.int64) * n_items + drawn
            at = np.minimum(np.searchsorted(known, pair), len(known) - 1)
            is_new = known[at] != pair
            found[left[is_new]] = drawn[is_new]
            left = left[~is_new]
            if not len(left):
                break
        rows.append(row[found > 0])
        items.append(found[found > 0])
    return np.concatenate(rows), np.concatenate(items)


def _parts(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
