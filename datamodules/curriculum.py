"""A curriculum as one epoch: the samplers of its lessons, one after the other, each for a number of batches."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

from lhotse import CutSet
from lhotse.dataset.sampling.base import CutSampler


class Lessons:
    """Quacks like a CutSampler to `ResumableSampler`. Each sampler starts at its own epoch 0 and goes through as many as its batches take.

    So that a position in it is one number: batches since the beginning. Raises ValueError where a lesson has no batch for this rank.
    """

    def __init__(self, samplers: Sequence[CutSampler], batches: Sequence[int]) -> None:
        assert len(samplers) == len(batches)
        self.samplers, self.batches, self.epoch = samplers, batches, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[CutSet]:
        for number, (sampler, batches) in enumerate(zip(self.samplers, self.batches, strict=True)):
            yield from islice(self._endless(sampler, number), batches)

    @staticmethod
    def _endless(sampler: CutSampler, number: int) -> Iterator[CutSet]:
        for epoch in count():
            sampler.set_epoch(epoch)
            batches = iter(sampler)
            batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"entry {number + 1} of the curriculum gives a process no batch: it has fewer than there are processes"
                )
            while batch is not None:
                yield batch
                batch = next(batches, None)
