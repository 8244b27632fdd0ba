"""A run that gets a signal to stop saves once, at an optimizer step on which all ranks agree, and ends; the same
command goes on.

Lightning would save in the signal's handler, at any bytecode, or broadcast there. Here a handler only notes (stop.py,
which is apart because the command imports it without torch).
"""

from pathlib import Path

import lightning as L
import torch

from callbacks.checkpoints import NewestCheckpoints
from callbacks.stop import Stop, Stopped


class StopTraining(L.Callback):
    """After each optimizer step the ranks take the largest of their reasons (one number all-reduced); with one, all
    save and raise Stopped. Not at the last step: what follows it is the end.
    """

    def __init__(self, stop: Stop, checkpoints: NewestCheckpoints) -> None:
        self.stop, self.checkpoints, self.step = stop, checkpoints, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        # nothing is trained since the last checkpoint
        if reason := largest_over_ranks(trainer, self.stop.reason()):
            raise Stopped(reason)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step or trainer.global_step >= trainer.max_steps:
            return  # gradients are accumulated, or it is done
        self.step = trainer.global_step
        if reason := largest_over_ranks(trainer, self.stop.reason()):
            self.checkpoints.save(trainer)
            raise Stopped(reason)


class StopPrediction(L.Callback):
    """Ends a prediction before its next batch; what is written stays.

    Ranks have different numbers of batches, so none waits for another between them: a file in the run folder passes the
    stop on. `largest_over_ranks` of `reason` after the end.
    """

    def __init__(self, stop: Stop, folder: Path) -> None:
        self.stop, self.file, self.reason = stop, folder / ".stop", 0

    def clear(self) -> None:
        """By one process, before the others begin to predict."""
        self.file.unlink(missing_ok=True)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._look()
        if self.reason or self.file.exists():
            raise StopIteration  # the prediction loop's own way to end

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.world_size > 1:  # it may be the last batch of this rank, and not of the others
            self._look()

    def _look(self) -> None:
        self.reason = self.stop.reason()
        if self.reason:
            self.file.write_text("")


def largest_over_ranks(trainer: L.Trainer, value: int) -> int:
    """The largest of the ranks' values. A collective: every rank must call it."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(tensor, reduce_op="max"))
