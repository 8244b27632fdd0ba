"""The progress line of a stage that trains. Apart from progress.py, which commands without Lightning import."""

from typing import Any

import lightning as L

from callbacks.progress import ProgressLine


class TrainingProgress(L.Callback):
    """Shows optimizer steps and the running losses named in `watch`."""

    def __init__(self, name: str, watch: tuple[str, ...]) -> None:
        self.name, self.watch = name, watch
        self.line: ProgressLine | None = None
        self.note = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.line = ProgressLine(self.name, trainer.max_steps, "steps", trainer.is_global_zero)
        self.line.start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert self.line is not None
        if (
            trainer.global_step % trainer.log_every_n_steps == 0 or not self.note
        ):  # reading a value waits for the device
            metrics = trainer.callback_metrics
            values = {key: float(metrics[key]) for key in self.watch if key in metrics}
            # NaN: not measured yet
            self.note = "  ".join(
                f"{key.split('/')[-1]} {value:.4g}" for key, value in values.items() if value == value
            )
        self.line.update(trainer.global_step, self.note)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.line is not None:
            self.line.stop()
