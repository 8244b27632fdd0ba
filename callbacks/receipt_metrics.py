"""The metrics of a training's receipt: those of the whole run on all ranks, wherever it was killed and taken up."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class ReceiptMetrics(L.Callback):
    """`values`: what the newest validation logged; of what each step logs (train/...) the mean over all ranks and over
    the batches since the last multiple of `log_every_n_steps`, without those that have none (NaN).

    They travel with the checkpoints. A run that is taken up at its last step trains no more; where the validation after
    that step was missed, the runner does it (`validation_due`).
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.trained = False
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (2, len(names)): of the values, and how many
        self.began = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trained = True

    def on_train_batch_start(self, trainer: Any, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0 and step != self.began:
            self._begin(step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logged = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        if not logged:
            return
        values = torch.stack([value.detach().float() for value in logged.values()])
        measured = ~values.isnan()
        added = torch.stack([torch.where(measured, values, 0.0), measured.float()])
        self.names, self.sums = list(logged), added if self.sums is None else self.sums.to(added) + added

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.values |= {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._over_ranks(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """By every rank."""
        sums = self._over_ranks(trainer)
        checkpoint["receipt_metrics"] = {"values": self.values, "began": self.began, "names": self.names, "sums": sums}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Sums of all ranks go on in the first. A checkpoint of an earlier version has none."""
        saved = checkpoint.get("receipt_metrics")
        if saved is not None:
            self.values, self.began, self.names = saved["values"], saved["began"], saved["names"]
            self.sums = saved["sums"] if trainer.is_global_zero else None

    def validation_due(self, trainer: L.Trainer) -> bool:
        """After `fit`, the same on every rank: whether it was taken up behind its last step and before that step's
        validation.
        """
        batches, interval = trainer.fit_loop.epoch_loop.total_batch_idx + 1, trainer.val_check_interval
        return not self.trained and isinstance(interval, int) and batches % interval == 0

    def _begin(self, step: int) -> None:
        """A new interval."""
        self.began, self.names, self.sums = step, [], None

    def _over_ranks(self, trainer: L.Trainer) -> Tensor | None:
        """The sums of all ranks, and their means into `values`. A collective: every rank must call it."""
        if not self.names:
            return None
        sums = torch.zeros(2, len(self.names)) if self.sums is None else self.sums
        sums = sums.to(trainer.strategy.root_device, torch.float32)
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        means = (sums[0] / sums[1]).tolist()
        self.values |= dict(zip(self.names, means, strict=True))
        return sums.cpu()
