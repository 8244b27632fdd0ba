"""A loss or gradient that is NaN or infinite ends the run, or its batch is left out: on every rank alike, with the
ids of the batch in a file.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from callbacks.errors import TrainingError
from callbacks.stop_callbacks import largest_over_ranks

log = logging.getLogger(__name__)


class FiniteGradients(L.Callback):
    """Looks at the gradients of each optimizer step. They are summed over ranks by then, so the ranks agree without
    asking.

    stop: raises TrainingError. skip: that step changes no weight, at most `in_a_row` times one after the other. Each
    rank appends to not_finite.jsonl: step, rank, its losses and the ids of its batches of this step. Of several
    optimizers the first ends a step, which is bad where the gradients of any are.
    """

    def __init__(self, folder: Path, on_nan: Literal["stop", "skip"], in_a_row: int) -> None:
        self.file, self.on_nan, self.in_a_row = folder / "not_finite.jsonl", on_nan, in_a_row
        self.ids: list[Iterable[str]] = []  # of each batch
        self.losses: list[Tensor] = []
        self.bad_steps = 0  # one after the other, up to now
        self.bad = ""  # what is wrong with this step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.ids.append(batch.ids)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self._is_bad(trainer, [parameter.grad for parameter in parameters if parameter.grad is not None]):
            self._refuse(trainer)
            for parameter in parameters:
                parameter.grad = None  # AdamW leaves such a one, and its moments, as they are
        if optimizer is trainer.optimizers[0]:
            self._count(trainer)
            self.ids, self.losses, self.bad = [], [], ""

    def _is_bad(self, trainer: L.Trainer, gradients: list[Tensor]) -> bool:
        if trainer.precision == "16-mixed":  # infinite gradients are the business of its scaler, and usual
            bad_loss = not all(bool(loss.isfinite()) for loss in self.losses)
            return bool(largest_over_ranks(trainer, int(bad_loss)))
        return bool(gradients) and not bool(torch.nn.utils.get_total_norm(gradients).isfinite())

    def _refuse(self, trainer: L.Trainer) -> None:
        step, losses = trainer.global_step + 1, [float(loss) for loss in self.losses]
        with self.file.open("a") as file:
            ids = [name for batch in self.ids for name in batch]
            row = {"step": step, "rank": trainer.global_rank, "losses": losses, "ids": ids}
            file.write(json.dumps(row) + "\n")
        trainer.strategy.barrier()  # all have written
        self.bad = f"step {step}: loss {', '.join(f'{loss:.4g}' for loss in losses)}, or its gradient, is not finite"
        if self.on_nan == "stop":
            raise TrainingError(
                f"{self.bad}. The batch's ids are in {self.file}. Lower optimizer.learning_rate, look at those "
                "recordings, or leave such batches out: --limits.on_nan=skip"
            )

    def _count(self, trainer: L.Trainer) -> None:
        """At the end of a step."""
        self.bad_steps = self.bad_steps + 1 if self.bad else 0
        if self.bad_steps > self.in_a_row:
            raise TrainingError(
                f"{self.bad}, as {self.bad_steps - 1} steps just before it (limits.nan_in_a_row={self.in_a_row}). Ids: "
                f"{self.file}. This is no odd batch: begin again with a lower optimizer.learning_rate"
            )
        if self.bad and trainer.is_global_zero:
            log.warning("%s; left out, its ids are in %s", self.bad, self.file)
