"""Buckets of similar length with the least padding that their number allows."""

from collections.abc import Sequence

import numpy as np

RESOLUTION = 2048  # different lengths that are distinguished


def bucket_ends(lengths: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """The greatest length of each of at most `count` buckets, ascending; the last is the greatest of all.

    The sum over all items of (end of its bucket - its length) is least: exact, by dynamic programming over the
    different lengths (Bellman 1961), which are rounded up to 1/RESOLUTION of the greatest. Quantiles of the lengths
    would leave one wide bucket to a long tail.
    """
    lengths = np.asarray(lengths)
    longest = int(lengths.max())
    unit = -(-longest // RESOLUTION)
    rounded = np.minimum(-(-lengths // unit) * unit, longest)
    values, numbers = np.unique(rounded, return_counts=True)
    size, count = len(values), min(count, len(values))
    items = np.concatenate([[0], np.cumsum(numbers)])  # of the first n lengths
    least = np.array([0.0] + [np.inf] * size)  # padded length of the first n lengths in the buckets so far
    begins = np.zeros((count, size + 1), dtype=int)
    for bucket in range(count):
        before, least = least, np.full(size + 1, np.inf)
        for end in range(1, size + 1):
            padded = before[:end] + values[end - 1] * (items[end] - items[:end])
            begins[bucket, end] = padded.argmin()
            least[end] = padded[begins[bucket, end]]
    ends: list[int] = []
    end = size
    for bucket in reversed(range(count)):
        ends.append(int(values[end - 1]))
        end = int(begins[bucket, end])
    assert end == 0
    return ends[::-1]
