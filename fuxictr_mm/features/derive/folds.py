"""Which users' clicks a training row is compared without: those of its own user's fold, and of a second one.

A row with label 1 is itself one of the clicks. Without its user, the target has as many as it would have, were the row
not in the training split: so what is compared carries in training what it carries in scoring, where the row is not in
it. Users are left out by folds.

The fold of the user alone would do for that, but not for a model that knows single items by their ids. Of an item with
one clicker, nothing is known where that user's fold is left out: in every row that is a click, and in a fifth of the
others, so that for this item "nothing is known" means "clicked". With a second fold left out, which is drawn anew for
every row whatever its label, it is so in two fifths of the others, and now and then for items with more clickers.

The functions work on numpy arrays and on torch tensors alike, so that the table and the batch cannot disagree.
"""

from itertools import combinations
from typing import Any

__all__ = ["FOLDS", "PAIRS", "fold_of", "view_of_fold", "view_of_pair"]

FOLDS = 5
# What each view of own clicks leaves out, in the order in which they follow that of all users.
PAIRS = list(combinations(range(FOLDS), 2))


def fold_of(users: Any) -> Any:
    """Users' ids, (n,) int64 -> folds, (n,) int64, 0 to ``FOLDS`` - 1.

    Hashed first (the finalizer of SplitMix64: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number
    Generators"), because ids may have a pattern: those of a tenth of the users are often the multiples of ten.
    """
    mixed = users
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        # On signed numbers: a shift is masked to be that of an unsigned one, a factor is taken modulo 2^64.
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * (factor - (1 << 64))
    return ((mixed ^ ((mixed >> 31) & ((1 << 33) - 1))) & ((1 << 63) - 1)) % FOLDS


def view_of_fold(fold: Any) -> Any:
    """The view of expected clicks that a fold of users has no part in; view 0 is that of all users."""
    return 1 + fold


def view_of_pair(fold: Any, distance: Any) -> Any:
    """The view of own clicks that two folds have no part in; view 0 is that of all users.

    Args:
        fold: the first.
        distance: from it to the second, going round: 1 to ``FOLDS`` - 1.
    """
    other = (fold + distance) % FOLDS
    is_lower = fold < other
    low, high = is_lower * fold + ~is_lower * other, is_lower * other + ~is_lower * fold
    return low * (2 * FOLDS - 1 - low) // 2 + high - low
