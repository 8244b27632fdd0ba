"""How fast a training goes and what it uses, in the log: rates, learning rate, gradient norm, memory, wait for data.

Lightning's ThroughputMonitor waits for the device at every batch, and needs a constant batch; this one waits where the
other values are logged, every `log_every_n_steps`. Nothing here reaches the metrics of a receipt.
"""

import resource
import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor


class ThroughputLog(L.Callback):
    """Logs of rank 0, between two logged steps; rates are of all ranks, taken to be as fast as this one.

    throughput/steps, items, and what the module's `counted(batch)` gives (tokens, seconds of sound), a second;
    throughput/data_wait: share of the time; throughput/mfu: of the GPU's dense peak where it is known, from the key
    flops of `counted`; memory/peak_gb, of the GPU, or of this process on a CPU; train/learning_rate;
    train/gradient_norm, before it is clipped.
    """

    def __init__(self) -> None:
        self.peak: float | None = None  # FLOP/s
        self.norm: Tensor | None = None
        self._begin()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            dtype = torch.float32 if trainer.precision == "32-true" else torch.bfloat16
            self.peak = get_available_flops(device, dtype)
        self._begin()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.monotonic()
        self.began += now - self.validation_began
        self.batch_ended = now

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.waited += time.monotonic() - self.batch_ended

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        if trainer.is_global_zero and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self.norm = torch.nn.utils.get_total_norm(gradients) if gradients else None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: object, batch: Any, batch_idx: int) -> None:
        self.batch_ended = time.monotonic()
        if not trainer.is_global_zero:
            return
        counted = pl_module.counted(batch) if hasattr(pl_module, "counted") else {}
        for name, count in {"items": len(batch.ids), **counted}.items():
            self.counts[name] = self.counts.get(name, 0) + count
        step = trainer.global_step
        if step == self.step or step % trainer.log_every_n_steps or not trainer.loggers:
            return
        values = self._values(trainer, getattr(pl_module, "gradient_factor", 1.0))
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        self._begin(step)

    def _values(self, trainer: L.Trainer, gradient_factor: Any) -> dict[str, float]:
        """gradient_factor: that the module multiplied the step's gradients by, after this callback saw them."""
        # waits for the device
        totals = {name: float(count) * trainer.world_size for name, count in self.counts.items()}
        seconds = max(time.monotonic() - self.began, 1e-9)
        flops = totals.pop("flops", 0.0) / trainer.world_size
        values = {f"throughput/{name}_per_second": total / seconds for name, total in totals.items()}
        values["throughput/data_wait"] = self.waited / seconds
        values["train/learning_rate"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        if self.norm is not None:
            values["train/gradient_norm"] = float(self.norm * gradient_factor)
        if self.step is not None:
            values["throughput/steps_per_second"] = (trainer.global_step - self.step) / seconds
        if self.peak and flops:
            values["throughput/mfu"] = flops / seconds / self.peak
        values["memory/peak_gb"] = _peak_bytes(trainer.strategy.root_device) / 1e9
        return values

    def _begin(self, step: int | None = None) -> None:
        """A new interval."""
        self.step = step
        self.counts: dict[str, Any] = {}
        self.began = self.batch_ended = self.validation_began = time.monotonic()
        self.waited = 0.0


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # of getrusage
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
