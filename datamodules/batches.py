"""The order of an epoch as numbers: which items make which batch. In numpy, for millions; starts at any batch."""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from datamodules.errors import DataError

SAMPLE = 20_011  # seed of the one order of validation
BLOCK, GROUP = 4096, 32  # items that lie side by side, and blocks whose items are shuffled together, of a local order

T = TypeVar("T")


class Batches(Generic[T]):
    """An epoch as batches of what a dataset takes: the same for the same (seed, epoch), and entered anywhere."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[T]:
        return self.from_batch(0)

    def from_batch(self, batch: int) -> Iterator[T]:
        """The batches from that one on. Raises DataError for one beyond the end."""
        raise NotImplementedError


class NumberedBatches(Batches[np.ndarray]):
    """Items in buckets of similar length, the batches of a bucket of equal size. Deterministic in (seed, epoch).

    shuffle: anew each epoch. Else every epoch has one order, that of the constant SAMPLE whatever the seed, in which the
    first batches are a random sample of the items: what a limited validation sees.

    Every item comes once an epoch. The processes (ranks) have the same number of batches, those of one step of one
    bucket: what a bucket has left is dealt evenly, or goes up to the next. Only where there are fewer items than
    processes, or batches of one, does an item come twice.

    local: the order is random in blocks where there are many items. Blocks of neighbours come in a random order, and GROUP
    of them are shuffled together: what is read is near what was just read, and a batch is of as many places.

    lengths: of the items; ends: greatest length of each bucket, ascending; sizes: items that a batch of it holds at
    most. numbers: what the items are called, 0, 1, ... where it is None.
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
        local: bool = False,
    ) -> None:
        self.shuffle, self.seed, self.rank, self.world, self.numbers = shuffle, seed, rank, world, numbers
        self.local = local and shuffle and len(lengths) > BLOCK * GROUP
        self.bucket = np.searchsorted(ends, lengths).astype(np.uint16)
        self.edges, self.repeated = _edges(np.bincount(self.bucket, minlength=len(ends)), sizes, world)

    def __len__(self) -> int:
        """Batches of a rank in an epoch."""
        return len(self.edges)

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        """The numbers (B) of each batch."""
        require_batch(batch, len(self), self.epoch)
        generator = np.random.default_rng([self.seed, self.epoch] if self.shuffle else SAMPLE)
        count, steps = len(self.bucket), np.arange(len(self))
        order = _local_order(generator, count) if self.local else generator.permutation(count)
        order = order[np.argsort(self.bucket[order], kind="stable")]
        order = np.concatenate([order, np.resize(order, self.repeated)])
        order = order if self.numbers is None else self.numbers[order]
        if not self.local:
            generator.shuffle(steps)
        return (order[begin:end] for begin, end in self.edges[steps[batch:], self.rank])


def in_groups(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """So many items each, the last group the rest."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _local_order(generator: np.random.Generator, count: int) -> np.ndarray:
    """0, 1, ... count - 1, random in blocks."""
    blocks = generator.permutation(-(-count // BLOCK))
    groups = np.split(blocks, range(GROUP, len(blocks), GROUP))
    inside = ((group[:, None] * BLOCK + np.arange(BLOCK)).ravel() for group in groups)
    return np.concatenate([generator.permutation(items[items < count]) for items in inside])


def require_batch(batch: int, count: int, epoch: int) -> None:
    """Raises DataError where an epoch of `count` batches cannot be entered at `batch`."""
    if batch > count:
        raise DataError(f"cannot go on at batch {batch} of epoch {epoch}: it has {count}. The data changed")


def _edges(counts: np.ndarray, sizes: Sequence[int], world: int) -> tuple[np.ndarray, int]:
    """(steps, world, 2): where each batch begins and ends among the items in the order of their buckets; and how many
    of the first items are repeated behind the last.

    counts: items of each bucket; sizes: items that a batch of it holds at most.
    """
    steps: list[np.ndarray] = []  # (world + 1) edges each
    begin = end = 0
    for count, size in zip(counts, sizes, strict=True):
        end += int(count)
        whole = (end - begin) // (world * size)
        starts = begin + np.arange(whole)[:, None] * world * size
        steps += list(starts + np.arange(world + 1) * size)
        begin += whole * world * size
        if end - begin >= world:
            steps.append(_split_evenly(begin, end, world))
            begin = end
    repeated = 0
    if end > begin:  # fewer than processes are left
        first = int(steps[-1][0]) if steps else begin
        more = -(-(end - first) // (world * sizes[-1])) if steps else 0
        if steps and end - first >= more * world:  # dealt together with the step before
            steps.pop()
            edges = _split_evenly(first, end, more * world)
            steps += [edges[step * world : (step + 1) * world + 1] for step in range(more)]
        else:
            repeated = world - (end - begin)
            steps.append(np.arange(begin, begin + world + 1))
    edges = np.array(steps, dtype=np.int64).reshape(-1, world + 1)
    return np.stack([edges[:, :-1], edges[:, 1:]], axis=2), repeated


def _split_evenly(begin: int, end: int, parts: int) -> np.ndarray:
    """(parts + 1) edges."""
    return begin + np.arange(parts + 1) * (end - begin) // parts
