"""Random numbers that depend on the position in training alone, so that a resumed run draws what the undisturbed one
drew.

Lightning stores no generator state; seeding each batch anew makes that state unnecessary (dropout, augmentation,
noise).
"""

import lightning as L
import torch


def position_seed(seed: int, batch: int, rank: int) -> int:
    """A seed for the `batch`-th training batch of a rank: distinct for neighbours, the same on every run."""
    return (seed * 1_000_003 + batch * 4_099 + rank * 7_919) % (1 << 62)


class StepSeed(L.Callback):
    """Seeds torch before each training batch with (seed, number of batches processed, rank)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        torch.manual_seed(position_seed(self.seed, trainer.fit_loop.epoch_loop.total_batch_idx, trainer.global_rank))
