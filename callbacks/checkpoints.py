"""The newest checkpoints of a stage, by step alone, each written whole or not at all.

Lightning's ModelCheckpoint delays a save to the next validation where it watches a value, so a killed run would lose
more than `every_n_steps`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from callbacks.errors import TrainingError


class NewestCheckpoints(Checkpoint):
    """Saves step-00000120.ckpt every `every_n_steps` optimizer steps, right after the step, and keeps the last
    `keep`: an old one goes after the new one is whole. Saves and keeps that of step `kept` beside them; None: no step.
    """

    def __init__(self, folder: Path, every_n_steps: int, keep: int, kept: int | None = None) -> None:
        self.folder, self.every_n_steps, self.keep, self.kept = folder, every_n_steps, keep, kept
        self.saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            # of a run that was killed in a save
            for part in self.folder.glob(".part-*"):
                part.unlink()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == self.kept:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """At an optimizer step, by every rank; nothing where this step is saved already."""
        step = trainer.global_step
        if step == self.saved:
            return
        self.saved = step
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            newest = f"step-{step:08d}.ckpt"
            # not of those with more steps, which a run that goes on from an earlier one could not read
            known = sorted(path for path in self.folder.glob("step-*.ckpt") if path.name <= newest)
            for old in known[: -self.keep]:
                if self.kept is None or old.name != f"step-{self.kept:08d}.ckpt":
                    old.unlink()


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a file in the same folder, to the disk, and renames it: a kill, a power cut or a full disk leaves the
    old one.

    Lightning's own goes through memory and the system's temporary folder, often another disk, where a rename is a copy.
    whole_file: path -> a context with the path to write to, as datamodules.atomic_files.whole_file. It is given because
    callbacks import no other room.
    """

    def __init__(self, whole_file: Callable[..., AbstractContextManager[Path]]) -> None:
        super().__init__()
        self.whole_file = whole_file

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        """Raises TrainingError where it cannot be written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.whole_file(path, durable=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns the one into the other
            cause = error if isinstance(error, OSError) else error.__context__ or error
            raise TrainingError(
                f"{path} cannot be written ({cause}): is the disk full? The checkpoints before it are whole; "
                "make room, and the same command goes on"
            ) from error
