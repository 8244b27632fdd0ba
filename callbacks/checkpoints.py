"""The newest checkpoints of a stage, by step alone.

Lightning's ModelCheckpoint puts a save off to the next validation where it watches a value, so a killed run would lose more than `every_n_steps`.
"""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class NewestCheckpoints(Checkpoint):
    """Saves step-00000120.ckpt every `every_n_steps` optimizer steps, right after the step, and keeps the last `keep`: the old goes after the new is whole."""

    def __init__(self, folder: Path, every_n_steps: int, keep: int) -> None:
        self.folder, self.every_n_steps, self.keep = folder, every_n_steps, keep
        self.saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """At an optimizer step, by every rank; nothing where this step is saved already."""
        step = trainer.global_step
        if step == self.saved:
            return
        self.saved = step
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()
