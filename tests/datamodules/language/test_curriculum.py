"""The entries of a curriculum come one after the other, each for its batches, and go on exactly from any checkpoint."""

from pathlib import Path

import pytest

from datamodules.language.curriculum import CurriculumBatches
from tests.datamodules.training import ITEMS, NumberedData, fours, train

BATCHES = [7, 5, 30]  # of 10, 3 and 10 batches an epoch


class Curriculum(NumberedData):
    """Three entries: all items, the first nine, all items in another order."""

    def train_sampler(self, rank: int, world: int) -> CurriculumBatches:
        counts = (self.count, 9, self.count)
        return CurriculumBatches([fours(count, seed, rank, world) for seed, count in enumerate(counts)], BATCHES)

    def names(self, rank: int = 0, world: int = 1) -> list[list[str]]:
        return [self.dataset[numbers] for numbers in self.train_sampler(rank, world)]


def numbered(count: int) -> list[str]:
    return [f"item-{number}" for number in range(count)]


def test_each_entry_has_its_batches_and_its_own_items():
    data = Curriculum(0)
    batches = data.names()
    assert len(batches) == sum(BATCHES)
    first, second, third = batches[:7], batches[7:12], batches[12:]
    assert sorted(name for batch in second[:3] for name in batch) == numbered(9), "an epoch of it"
    assert {name for batch in second for name in batch} == set(numbered(9))
    assert sorted(name for batch in third[:10] for name in batch) == sorted(numbered(ITEMS))
    assert third[:10] != third[10:20] and first != third[:7], "every epoch and every entry has an order of its own"
    again = Curriculum(0).train_sampler(0, 1)
    next(iter(again))
    assert [data.dataset[numbers] for numbers in again] == batches, "an iterator begins anew"
    for position in (0, 3, 7, 9, 12, 25, 42):
        assert [data.dataset[numbers] for numbers in again.from_batch(position)] == batches[position:]


@pytest.mark.parametrize(("num_workers", "accumulate"), [(0, 1), (0, 2), (2, 1)])
def test_every_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path, num_workers: int, accumulate: int):
    """In the middle of an entry, at its end, in a later epoch of it."""
    steps = sum(BATCHES) // accumulate
    whole = train(Curriculum(num_workers), tmp_path, steps, accumulate_grad_batches=accumulate)
    assert len(whole) == sum(BATCHES)
    for step in (1, 3, 4, 6) if accumulate == 2 else (3, 7, 10, 12, 25) if not num_workers else (9,):
        checkpoint = tmp_path / f"step={step}.ckpt"
        rest = train(Curriculum(num_workers), tmp_path, steps, checkpoint, accumulate_grad_batches=accumulate)
        assert rest == whole[step * accumulate :], f"step {step}"


def test_two_ranks_are_in_the_same_entry_all_the_time():
    ranks = [Curriculum(0).names(rank, 2) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == sum(BATCHES)
    for rank in ranks:
        assert {name for batch in rank[7:12] for name in batch} <= set(numbered(9))


def test_an_entry_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="entry 1 of the curriculum gives a process no batch"):
        list(CurriculumBatches([fours(0, 0)], [2]))
