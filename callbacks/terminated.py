"""SIGTERM outside training. Lightning only notes the signal, and only its training loop looks at the note."""

from typing import Any

import lightning as L

TERMINATED = 128 + 15  # the exit status of a process that SIGTERM ended


class EndOnTerm(L.Callback):
    """Ends a prediction before its next batch once SIGTERM has come; what is written stays, and the same command goes on."""

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.received_sigterm:
            raise SystemExit(TERMINATED)
