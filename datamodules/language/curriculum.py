"""A curriculum as one epoch: the samplers of its lessons, one after the other, each for a number of batches."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np

from datamodules.batches import NumberedBatches
from datamodules.errors import DataError


class CurriculumBatches:
    """Quacks like NumberedBatches to `ResumableSampler`. Each sampler starts at its own epoch 0 and goes through as many as its batches take.

    So that a position in it is one number: batches since the beginning. Raises DataError where a lesson has no batch for this rank.
    """

    def __init__(self, samplers: Sequence[NumberedBatches], batches: Sequence[int]) -> None:
        assert len(samplers) == len(batches)
        self.samplers, self.batches, self.epoch = samplers, batches, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.from_batch(0)

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        if batch > sum(self.batches):
            raise DataError(f"cannot go on at batch {batch}: the curriculum has {sum(self.batches)}. It changed")
        for number, (sampler, batches) in enumerate(zip(self.samplers, self.batches, strict=True)):
            if batch < batches:
                yield from islice(self._endless(sampler, number, batch), batches - batch)
            batch = max(0, batch - batches)

    @staticmethod
    def _endless(sampler: NumberedBatches, number: int, batch: int) -> Iterator[np.ndarray]:
        """From that batch on, counted since the sampler's epoch 0."""
        if not len(sampler):
            raise DataError(f"entry {number + 1} of the curriculum gives a process no batch: it has no item")
        first, skip = divmod(batch, len(sampler))
        for epoch in count(first):
            sampler.set_epoch(epoch)
            yield from sampler.from_batch(skip if epoch == first else 0)
