"""A run that goes on from any checkpoint sees the batches that the undisturbed run saw, in their order."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.sampler import ResumableSampler
from tests.datamodules.training import ITEMS, NumberedData, train


def names(sampler: ResumableSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


@pytest.mark.parametrize(("num_workers", "accumulate"), [(0, 1), (0, 2), (2, 1)])
def test_every_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path, num_workers: int, accumulate: int):
    """Checkpoints inside an epoch, at its end and beyond it, and beside a validation."""
    epoch = -(-ITEMS // 4)
    steps = -(-(2 * epoch + 3) // accumulate)
    whole = train(NumberedData(num_workers), tmp_path, steps, accumulate_grad_batches=accumulate)
    per_epoch = -(-epoch // accumulate)  # optimizer steps: the rest of an epoch makes one
    chosen = [1, 2, 3, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch]
    for step in sorted(set(chosen if num_workers == 0 else [2, per_epoch])):
        done = step // per_epoch * epoch + step % per_epoch * accumulate
        checkpoint = tmp_path / f"step={step}.ckpt"
        rest = train(NumberedData(num_workers), tmp_path, steps, checkpoint, accumulate_grad_batches=accumulate)
        assert rest == whole[done:], f"step {step}"


def test_an_epoch_holds_everything_once_and_the_next_is_another_order():
    sampler = ResumableSampler(NumberedData(0).train_sampler(0, 1))
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append([name for batch in names(sampler) for name in batch])
    assert all(sorted(epoch) == list(range(ITEMS)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    sampler.set_epoch(1)
    assert [name for batch in names(sampler) for name in batch] == epochs[1]


def test_a_sought_position_stays_until_the_epoch_changes():
    """Lightning makes an iterator before it names the epoch: what is fetched by a first one is not lost to a second."""
    sampler = ResumableSampler(NumberedData(0).train_sampler(0, 1))
    sampler.set_epoch(1)
    second = names(sampler)
    sampler.seek(1, 4)
    next(iter(sampler))
    sampler.set_epoch(1)
    assert names(sampler) == second[4:]
    sampler.set_epoch(2)
    sampler.set_epoch(1)
    assert names(sampler) == second


def test_a_position_beyond_the_epoch_is_refused():
    sampler = ResumableSampler(NumberedData(0).train_sampler(0, 1))
    sampler.seek(0, 99)
    with pytest.raises(ValueError, match="cannot go on at batch 99 of epoch 0: it has 10"):
        list(sampler)


def test_other_data_another_seed_and_another_world_are_refused(tmp_path: Path):
    train(NumberedData(0), tmp_path, 2)
    checkpoint = tmp_path / "step=2.ckpt"
    with pytest.raises(ValueError, match="other data"):
        train(NumberedData(0, count=ITEMS - 1), tmp_path, 4, checkpoint)
    with pytest.raises(ValueError, match="seed 0, and 1 is given"):
        train(NumberedData(0, seed=1), tmp_path, 4, checkpoint)
    stored = torch.load(checkpoint, weights_only=True)
    stored["NumberedData"]["world"] = 2
    torch.save(stored, checkpoint)
    with pytest.raises(ValueError, match="trained by 2 processes"):
        train(NumberedData(0), tmp_path, 4, checkpoint)


LEFT_OPEN = """
from torch.utils.data import DataLoader
from datamodules.sampler import ignore_signals
batches = iter(DataLoader(range(8), num_workers=2, worker_init_fn=ignore_signals))
print(next(batches))
"""


@pytest.mark.slow
def test_python_ends_though_a_loader_is_open_whose_workers_ignore_its_signal():
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", LEFT_OPEN], cwd=root, timeout=120, capture_output=True)
    assert (run.returncode, run.stdout) == (0, b"tensor([0])\n")
