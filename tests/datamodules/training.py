"""A small training over numbered items that writes down which batches it saw."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.batches import NumberedBatches
from datamodules.sampler import ResumableDataModule

ITEMS = 37
QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "use_distributed_sampler": False, "num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "max_epochs": -1,
}  # fmt: skip


def fours(count: int, seed: int, rank: int = 0, world: int = 1, shuffle: bool = True) -> NumberedBatches:
    """Items 0 to count - 1, four a batch."""
    return NumberedBatches([1] * count, [1], [4], shuffle=shuffle, seed=seed, rank=rank, world=world)


class Names(torch.utils.data.Dataset[list[str]]):
    def __getitem__(self, numbers: np.ndarray) -> list[str]:
        return [f"item-{number}" for number in numbers]


class NumberedData(ResumableDataModule):
    def __init__(self, num_workers: int, seed: int = 0, count: int = ITEMS) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.count, self.dataset = count, Names()

    def train_sampler(self, rank: int, world: int) -> NumberedBatches:
        return fours(self.count, self.seed, rank, world)

    def validation_sampler(self, rank: int, world: int) -> NumberedBatches | None:
        return fours(3, 0, rank, world, shuffle=False)

    def fingerprint(self) -> str:
        return f"{self.count} items"


class Listener(L.LightningModule):
    """Writes down the names of every training batch."""

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
    data: ResumableDataModule, folder: Path, steps: int, checkpoint: Path | None = None, **arguments: Any
) -> list[tuple[int, list[str]]]:
    """(epoch, names) of every batch; without a checkpoint to start from, one is kept at every optimizer step."""
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = L.Trainer(
        **QUIET, max_steps=steps, default_root_dir=folder, val_check_interval=3, **arguments,
        callbacks=[] if checkpoint else [saving], enable_checkpointing=checkpoint is None,
    )  # fmt: skip
    module = Listener()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module.seen
