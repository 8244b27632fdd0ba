"""An epoch as numbers: everything once, the same number of steps everywhere, budgets held, entered anywhere."""

import time

import numpy as np
import pytest

from datamodules.batches import BLOCK, GROUP, NumberedBatches
from datamodules.language.buckets import bucket_ends

BUDGET = 60


def make(lengths: list[int], buckets: int, rank: int = 0, world: int = 1, shuffle: bool = True) -> NumberedBatches:
    ends = bucket_ends(lengths, buckets)
    sizes = [max(1, BUDGET // end) for end in ends]
    return NumberedBatches(lengths, ends, sizes, shuffle=shuffle, seed=3, rank=rank, world=world)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 511])
@pytest.mark.parametrize("most", [3, 30, 60])
def test_every_item_once_in_equal_steps_within_the_budget(world: int, count: int, most: int):
    generator = np.random.default_rng(count)
    lengths = generator.integers(1, most + 1, count).tolist()
    ranks = [make(lengths, 5, rank, world) for rank in range(world)]
    for epoch in range(3):
        for one in ranks:
            one.set_epoch(epoch)
        batches = [list(one) for one in ranks]
        assert {len(actual) for actual in batches} == {len(ranks[0])}
        seen = np.concatenate([numbers for actual in batches for numbers in actual])
        assert set(seen) == set(range(count))
        repeated = len(seen) - count
        assert repeated < world and (repeated == 0 or count < world or max(lengths) > BUDGET // 2)
        for numbers in (numbers for actual in batches for numbers in actual):
            assert len(numbers) and len(numbers) * max(lengths[n] for n in numbers) <= BUDGET


def test_an_epoch_is_entered_at_any_batch_and_is_another_each_time():
    lengths = np.random.default_rng(0).integers(1, 30, 300).tolist()
    batches, epochs = make(lengths, 5), []
    for epoch in range(3):
        batches.set_epoch(epoch)
        whole = [numbers.tolist() for numbers in batches]
        epochs.append(whole)
        for begin in (0, 1, len(whole) // 2, len(whole)):
            assert [numbers.tolist() for numbers in make_at(lengths, epoch).from_batch(begin)] == whole[begin:]
    assert epochs[0] != epochs[1] != epochs[2]
    assert sorted(map(sorted, epochs[0])) != sorted(map(sorted, epochs[1])), "who is together changes too"
    with pytest.raises(ValueError, match=f"cannot go on at batch 999 of epoch 2: it has {len(batches)}"):
        batches.from_batch(999)


def make_at(lengths: list[int], epoch: int) -> NumberedBatches:
    batches = make(lengths, 5)
    batches.set_epoch(epoch)
    return batches


@pytest.mark.parametrize("world", [1, 3])
def test_many_items_come_in_an_order_that_is_random_in_blocks(world: int):
    """Each once an epoch, entered anywhere; a batch is of many places, and few blocks are read at a time."""
    count = BLOCK * GROUP * 2 + 1234
    ranks = [
        NumberedBatches(np.ones(count, np.int8), [1], [256], shuffle=True, seed=1, rank=rank, world=world, local=True)
        for rank in range(world)
    ]
    orders = []
    for epoch in range(2):
        for one in ranks:
            one.set_epoch(epoch)
        orders.append([list(one) for one in ranks])
        seen = np.concatenate([numbers for batches in orders[-1] for numbers in batches])
        assert len(seen) == count and len(np.unique(seen)) == count
    assert any((one != other).any() for one, other in zip(orders[0][0][:9], orders[1][0][:9], strict=True))
    batches = orders[1][0]
    later = list(ranks[0].from_batch(len(batches) - 3))
    assert all((one == other).all() for one, other in zip(later, batches[-3:], strict=True))
    assert len(np.unique(batches[5] // BLOCK)) > GROUP / 2
    first = np.concatenate([numbers for rank in orders[1] for numbers in rank[: (GROUP - 1) * BLOCK // 256 // world]])
    assert len(np.unique(first // BLOCK)) <= GROUP


def test_without_shuffling_the_order_is_one_for_all_epochs_and_seeds():
    orders = []
    for seed in range(2):
        batches = NumberedBatches(
            [1] * 7, [1], [3], shuffle=False, seed=seed, rank=0, world=1, numbers=np.arange(10, 17)
        )
        for epoch in range(2):
            batches.set_epoch(epoch)
            orders.append([numbers.tolist() for numbers in batches])
    assert sorted(number for batch in orders[0] for number in batch) == list(range(10, 17)) and all(
        order == orders[0] for order in orders
    )


@pytest.mark.parametrize("world", [1, 2, 8])
def test_a_quarter_of_a_validation_is_of_all_lengths(world: int):
    """60,000 items of log-normal lengths, 16,384 tokens a batch, as captions have: the shortest are not the sample."""
    lengths = np.exp(np.random.default_rng(0).normal(5.2, 0.7, 60_000)).clip(20, 2048).astype(int)
    ends = bucket_ends(lengths, 10)
    sizes = [16384 // end for end in ends]
    ranks = [
        NumberedBatches(lengths, ends, sizes, shuffle=False, seed=0, rank=rank, world=world) for rank in range(world)
    ]
    seen = np.concatenate([batch for one in ranks for batch in list(one)[: len(one) // 4]])
    assert abs(lengths[seen].mean() / lengths.mean() - 1) < 0.1
    for share in (0.01, 0.99):
        assert (lengths[seen] <= np.quantile(lengths, share)).mean() == pytest.approx(share, abs=0.01)


def test_a_step_has_batches_of_one_bucket():
    """So that no process waits for another's long ones; what a bucket has left over is a step more at most."""
    lengths = [5] * 400 + [30] * 100
    ranks = [[list(batch) for batch in make(lengths, 2, rank, 4)] for rank in range(4)]
    mixed = sum(len({max(lengths[n] for n in batch) for batch in step}) > 1 for step in zip(*ranks, strict=True))
    assert mixed <= 1


def test_the_middle_of_an_epoch_of_millions_is_found_in_seconds():
    """3 million items; processor time, which a busy machine does not stretch."""
    lengths = np.random.default_rng(0).integers(20, 2000, 3_000_000)
    started = time.process_time()
    batches = NumberedBatches(lengths, range(100, 2001, 100), [16384 // n for n in range(100, 2001, 100)], shuffle=True, seed=0, rank=0, world=1)  # fmt: skip
    next(batches.from_batch(len(batches) // 2))
    assert time.process_time() - started < 10
