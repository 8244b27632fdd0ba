"""A run that goes on from any checkpoint sees the batches that the undisturbed run saw, in their order."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import DynamicBucketingSampler, SimpleCutSampler
from lhotse.dataset.sampling.base import CutSampler, TokenConstraint
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.sampler import ResumableDataModule, ResumableSampler, hash_ids

ITEMS = 37  # of 5 to 23 tokens
QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "use_distributed_sampler": False, "num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "max_epochs": -1,
}  # fmt: skip


def items(count: int = ITEMS) -> list[MonoCut]:
    lengths = [5 + (7 * number) % 19 for number in range(count)]
    return [MonoCut(f"cut-{n}", 0, length, 0, custom={"num_tokens": length}) for n, length in enumerate(lengths)]


class Ids(torch.utils.data.Dataset):
    def __getitem__(self, cuts: CutSet) -> list[str]:
        return [cut.id for cut in cuts]


class Data(ResumableDataModule):
    def __init__(self, bucketing: bool, num_workers: int, seed: int = 0, count: int = ITEMS) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.bucketing, self.items, self.dataset = bucketing, items(count), Ids()

    def train_sampler(self, rank: int, world: int) -> CutSampler:
        common = {"shuffle": True, "seed": self.seed, "rank": rank, "world_size": world}
        if self.bucketing:
            budget = TokenConstraint(max_tokens=50)
            return DynamicBucketingSampler(
                CutSet.from_cuts(self.items), constraint=budget, duration_bins=[10, 16], **common
            )
        return SimpleCutSampler(CutSet.from_cuts(self.items), max_cuts=4, **common)

    def validation_sampler(self, rank: int, world: int) -> CutSampler | None:
        return SimpleCutSampler(
            CutSet.from_cuts(self.items[:3]), max_cuts=2, shuffle=False, rank=rank, world_size=world
        )

    def fingerprint(self) -> str:
        return hash_ids(self.items)


class Listener(L.LightningModule):
    """Writes down the ids of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch: list[str], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.weight.sum()

    def validation_step(self, batch: list[str], batch_idx: int) -> None:
        assert batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    data: Data, folder: Path, steps: int, checkpoint: Path | None = None, **arguments: Any
) -> list[tuple[int, list[str]]]:
    """(epoch, ids) of every batch; without a checkpoint to start from, one is kept at every optimizer step."""
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = L.Trainer(
        **QUIET, max_steps=steps, default_root_dir=folder, val_check_interval=3, **arguments,
        callbacks=[] if checkpoint else [saving], enable_checkpointing=checkpoint is None,
    )  # fmt: skip
    module = Listener()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module.seen


def batches_of_an_epoch(bucketing: bool) -> int:
    return len(list(Data(bucketing, 0).train_sampler(0, 1)))


@pytest.mark.parametrize(("num_workers", "accumulate"), [(0, 1), (0, 2), (2, 1)])
@pytest.mark.parametrize("bucketing", [False, True])
def test_every_checkpoint_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, bucketing: bool, num_workers: int, accumulate: int
):
    """Checkpoints inside an epoch, at its end and beyond it, and beside a validation."""
    epoch = batches_of_an_epoch(bucketing)
    steps = -(-(2 * epoch + 3) // accumulate)
    whole = train(Data(bucketing, num_workers), tmp_path, steps, accumulate_grad_batches=accumulate)
    per_epoch = -(-epoch // accumulate)  # optimizer steps: the rest of an epoch makes one
    chosen = [1, 2, 3, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch]
    for step in sorted(set(chosen if num_workers == 0 else [2, per_epoch])):
        done = step // per_epoch * epoch + step % per_epoch * accumulate
        rest = train(
            Data(bucketing, num_workers),
            tmp_path,
            steps,
            tmp_path / f"step={step}.ckpt",
            accumulate_grad_batches=accumulate,
        )
        assert rest == whole[done:], f"step {step}"


@pytest.mark.parametrize("bucketing", [False, True])
def test_an_epoch_holds_everything_once_and_the_next_is_another_order(bucketing: bool):
    sampler = ResumableSampler(Data(bucketing, 0).train_sampler(0, 1))
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append([cut.id for batch in sampler for cut in batch])
    wanted = {cut.id for cut in items()}
    assert all(set(ids) == wanted and len(ids) == ITEMS for ids in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    sampler.set_epoch(1)
    assert [cut.id for batch in sampler for cut in batch] == epochs[1]


def test_a_sought_position_holds_until_the_epoch_changes():
    """Lightning makes an iterator before it names the epoch: what is fetched by a first one is not lost to a second."""
    sampler = ResumableSampler(Data(False, 0).train_sampler(0, 1))
    sampler.set_epoch(1)
    second = [[cut.id for cut in batch] for batch in sampler]
    sampler.seek(1, 4)
    next(iter(sampler))
    sampler.set_epoch(1)
    assert [[cut.id for cut in batch] for batch in sampler] == second[4:]
    sampler.set_epoch(2)
    sampler.set_epoch(1)
    assert [[cut.id for cut in batch] for batch in sampler] == second


@pytest.mark.parametrize("bucketing", [False, True])
@pytest.mark.parametrize("count", [ITEMS, 9, 3])
def test_two_ranks_share_an_epoch_in_equal_steps(bucketing: bool, count: int):
    ranks = [
        [[cut.id for cut in batch] for batch in Data(bucketing, 0, count=count).train_sampler(rank, 2)]
        for rank in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1])
    seen = [name for rank in ranks for batch in rank for name in batch if "_dup" not in name]
    assert sorted(seen) == sorted(cut.id for cut in items(count))


def test_token_budget_holds():
    for batch in Data(True, 0).train_sampler(0, 1):
        assert len(batch) * max(cut.duration for cut in batch) <= 50


def test_a_position_beyond_the_epoch_is_refused():
    sampler = ResumableSampler(Data(False, 0).train_sampler(0, 1))
    sampler.seek(0, 99)
    with pytest.raises(ValueError, match="cannot go on at batch 99 of epoch 0: it has 10"):
        list(sampler)


def test_other_data_another_seed_and_another_world_are_refused(tmp_path: Path):
    train(Data(False, 0), tmp_path, 2)
    checkpoint = tmp_path / "step=2.ckpt"
    with pytest.raises(ValueError, match="other data"):
        train(Data(False, 0, count=ITEMS - 1), tmp_path, 4, checkpoint)
    with pytest.raises(ValueError, match="seed 0, and 1 is given"):
        train(Data(False, 0, seed=1), tmp_path, 4, checkpoint)
    stored = torch.load(checkpoint, weights_only=True)
    stored["Data"]["world"] = 2
    torch.save(stored, checkpoint)
    with pytest.raises(ValueError, match="trained by 2 processes"):
        train(Data(False, 0), tmp_path, 4, checkpoint)


def test_the_hash_knows_order_groups_and_lengths():
    first, second = items(2)
    hashes = [hash_ids([first, second]), hash_ids([second, first]), hash_ids([first], [second])]
    hashes.append(hash_ids([first, MonoCut(second.id, 0, second.duration + 1, 0)]))
    assert len(set(hashes)) == 4


HELD = """
from torch.utils.data import DataLoader
from datamodules.sampler import heedless
held = iter(DataLoader(range(8), num_workers=2, worker_init_fn=heedless))
print(next(held))
"""


@pytest.mark.slow
def test_python_ends_though_a_loader_is_held_whose_workers_pay_no_heed_to_its_signal():
    run = subprocess.run([sys.executable, "-c", HELD], cwd=Path(__file__).parents[2], timeout=120, capture_output=True)
    assert (run.returncode, run.stdout) == (0, b"tensor([0])\n")
