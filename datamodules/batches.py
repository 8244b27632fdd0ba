"""The order of an epoch as numbers: which items make which batch, found in numpy for millions, and entered anywhere."""

from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.errors import DataError


class NumberedBatches:
    """Items in buckets of like length, a bucket's batches of equal size: the numbers of each batch's items. Deterministic in (seed, epoch).

    Every item comes once an epoch. The processes (ranks) have the same number of batches, each step's of one bucket: what a bucket has left is dealt
    evenly, or goes up to the next. Only where there are fewer items than processes, or batches of one, does an item come twice.

    lengths: of the items; ends: greatest length of each bucket, ascending; sizes: items that a batch of it holds at most. numbers: what the items are
    called, 0, 1, ... where it is None.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        ends: Sequence[int],
        sizes: Sequence[int],
        *,
        shuffle: bool,
        seed: int,
        rank: int,
        world: int,
        numbers: np.ndarray | None = None,
    ) -> None:
        self.shuffle, self.seed, self.rank, self.world, self.numbers = shuffle, seed, rank, world, numbers
        self.bucket = np.searchsorted(ends, lengths).astype(np.uint16)
        self.edges, self.repeated = _edges(np.bincount(self.bucket, minlength=len(ends)), sizes, world)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of a rank in an epoch."""
        return len(self.edges)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.from_batch(0)

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        """The epoch's batches from that one on. Raises DataError for one beyond the epoch's end."""
        if batch > len(self):
            raise DataError(
                f"cannot go on at batch {batch} of epoch {self.epoch}: it has {len(self)}. The data changed"
            )
        generator = np.random.default_rng([self.seed, self.epoch])
        count, steps = len(self.bucket), np.arange(len(self))
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        order = order[np.argsort(self.bucket[order], kind="stable")]
        order = np.concatenate([order, np.resize(order, self.repeated)])
        order = order if self.numbers is None else self.numbers[order]
        if self.shuffle:
            generator.shuffle(steps)
        return (order[begin:end] for begin, end in self.edges[steps[batch:], self.rank])


def _edges(counts: np.ndarray, sizes: Sequence[int], world: int) -> tuple[np.ndarray, int]:
    """(steps, world, 2): where each batch begins and ends among the items in the order of their buckets; and how many of the first items are
    repeated behind the last."""
    found: list[np.ndarray] = []  # the edges of a step's batches: (world + 1)
    begin = end = 0
    for count, size in zip(counts, sizes, strict=True):
        end += int(count)
        whole = (end - begin) // (world * size)
        starts = begin + np.arange(whole)[:, None] * world * size
        found += list(starts + np.arange(world + 1) * size)
        begin += whole * world * size
        if end - begin >= world:
            found.append(_even(begin, end, world))
            begin = end
    repeated = 0
    if end > begin:  # fewer than processes
        steps = -(-(end - found[-1][0]) // (world * sizes[-1])) if found else 0
        if found and end - found[-1][0] >= steps * world:  # dealt with the step before
            edges = _even(found.pop()[0], end, steps * world)
            found += [edges[step * world : (step + 1) * world + 1] for step in range(steps)]
        else:
            repeated = world - (end - begin)
            found.append(np.arange(begin, begin + world + 1))
    edges = np.array(found, dtype=np.int64).reshape(-1, world + 1)
    return np.stack([edges[:, :-1], edges[:, 1:]], axis=2), repeated


def _even(begin: int, end: int, parts: int) -> np.ndarray:
    return begin + np.arange(parts + 1) * (end - begin) // parts
