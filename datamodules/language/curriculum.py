"""A curriculum as one epoch: the batches of its entries, one entry after the other, each for a number of batches."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np

from datamodules.batches import Batches, NumberedBatches
from datamodules.errors import DataError


class CurriculumBatches(Batches[np.ndarray]):
    """Each entry starts at its own epoch 0 and goes through as many epochs as its batches take, so that a position is
    one number: batches since the beginning. Raises DataError where an entry has no batch for this rank.
    """

    def __init__(self, entries: Sequence[NumberedBatches], batches: Sequence[int]) -> None:
        assert len(entries) == len(batches)
        self.entries, self.batches = entries, batches

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        if batch > sum(self.batches):
            raise DataError(f"cannot go on at batch {batch}: the curriculum has {sum(self.batches)}. It changed")
        for number, (entry, batches) in enumerate(zip(self.entries, self.batches, strict=True)):
            if batch < batches:
                yield from islice(self._endless(entry, number, batch), batches - batch)
            batch = max(0, batch - batches)

    @staticmethod
    def _endless(entry: NumberedBatches, number: int, batch: int) -> Iterator[np.ndarray]:
        """The batches of an entry without end, from that one on, counted since its epoch 0."""
        if not len(entry):
            raise DataError(f"entry {number + 1} of the curriculum gives a process no batch: it has no item")
        first, skip = divmod(batch, len(entry))
        for epoch in count(first):
            entry.set_epoch(epoch)
            yield from entry.from_batch(skip if epoch == first else 0)
