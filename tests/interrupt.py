"""`stage run STAGE` in a process of its own, that a signal reaches after a number of its batches."""

import importlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from stages import STAGES
from tests import zygote
from tests.conftest import SMOKE
from tests.zygote import Ended

TWO_RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp")


class Interrupt(L.Callback):
    """`sent` to this process at the end of batch number `batches` of rank `rank`; 0 waits there for 2 s."""

    def __init__(self, batches: int, sent: int, rank: int) -> None:
        self.batches, self.sent, self.rank, self.seen = batches, sent, rank, 0

    def _count(self, trainer: L.Trainer) -> None:
        self.seen += 1
        if self.seen == self.batches and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.sent)
            time.sleep(0 if self.sent else 2)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._count(trainer)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        behind = getattr(
            pl_module, "behind", None
        )  # writes the batch before this one: wait, so that it is known what is written
        if behind and len(behind.waiting) > 1:
            behind.waiting[0].result()
        self._count(trainer)


def add_callback(stage: str, make: Callable[[], L.Callback]) -> None:
    """The stage as it is, with one callback more."""
    name, _, attribute = STAGES[stage].target.partition(":")
    module = getattr(importlib.import_module(name), attribute)
    callbacks = module.callbacks
    module.callbacks = lambda self: [*callbacks(self), make()]


def run_smoke(folder: Path, *words: str, before: Callable[[], object] | None = None) -> None:
    """A command with the smoke preset, in a process of its own; it must end well. before: called in that process."""
    ended = zygote.run([*words, *SMOKE], folder, before)
    assert ended.status == 0, ended.output[-3000:]


def interrupt(place: Path, stage: str, batches: int, *words: str, sent: int = signal.SIGKILL, rank: int = 0) -> Ended:
    """`stage run STAGE WORDS` in `place`. `sent` reaches rank `rank` at the end of its batch number `batches`, counted from 1; 0 waits there instead."""
    before = partial(add_callback, "latents" if stage == "all" else stage, partial(Interrupt, batches, int(sent), rank))
    ended = zygote.run(["run", stage, *words, *SMOKE], place, before)
    assert not batches or sent != signal.SIGKILL or ended.status != 0, ended.stderr[-2000:]
    return ended
