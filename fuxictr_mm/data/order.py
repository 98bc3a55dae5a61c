"""The order of the rows of an epoch. It follows from the seed and the epoch alone, before a row is read."""

from dataclasses import dataclass

import numpy as np

__all__ = ["BUCKET_BATCHES", "EpochOrder"]

# Batches whose rows are sorted by length together: few lengths in each, and yet drawn from many rows.
BUCKET_BATCHES = 100


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch.

    Attributes:
        batch_size: rows per batch.
        key: ``(seed, epoch)``, or ``None`` for the order of the file.
        by_length: batches of rows whose histories are about equally long, see :meth:`of_rows`; needs a ``key``.
    """

    batch_size: int
    key: tuple[int, int] | None
    by_length: bool = False

    def of_blocks(self, n_blocks: int) -> np.ndarray:
        """Return (n_blocks,) int: which block of the file comes when."""
        return np.arange(n_blocks) if self.key is None else np.random.default_rng(self.key).permutation(n_blocks)

    def of_rows(self, lengths: np.ndarray, window: int | None = None) -> np.ndarray:
        """Return (N,) int row numbers, of all rows or of a window of them.

        With ``by_length``, the rows of each :data:`BUCKET_BATCHES` batches of a random order are sorted by length
        (equal lengths stay in random order) and cut into batches, and these come in random order. A last batch of
        fewer rows is of any lengths.

        Args:
            lengths: (N,) history lengths.
            window: which window of the epoch these rows are, counted from 0.
        """
        numbers = np.arange(len(lengths), dtype=np.int32 if len(lengths) < 2**31 else np.int64)
        if self.key is None:
            return numbers
        # Counted from 1, because numpy takes (a, b) and (a, b, 0) for one seed.
        rng = np.random.default_rng(self.key if window is None else (*self.key, 1 + window))
        order = rng.permutation(numbers)
        if self.by_length:
            size = self.batch_size
            for start in range(0, len(order), BUCKET_BATCHES * size):
                bucket = order[start : start + BUCKET_BATCHES * size]
                bucket = bucket[: len(bucket) // size * size]
                by_length = bucket[np.argsort(lengths[bucket], kind="stable")]
                bucket[:] = rng.permutation(by_length.reshape(-1, size)).ravel()
        return order
