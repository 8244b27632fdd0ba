"""A stage in a process of its own, that a signal reaches after a number of its batches."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.conftest import SMOKE

ROOT = Path(__file__).parents[1]

# The stage as it is. Lightning starts the other ranks with this same command; `rank` is the one that is signalled.
CODE = """
import importlib, os, sys, time
import lightning as L
from stages import STAGES
stage, batches, sent, rank, *words = sys.argv[1:]
class Interrupt(L.Callback):
    seen = 0
    def _count(self, trainer):
        self.seen += 1
        if self.seen == int(batches) and trainer.global_rank == int(rank):
            os.kill(os.getpid(), int(sent))
            time.sleep(0 if int(sent) else 2)
    def on_train_batch_end(self, trainer, *arguments): self._count(trainer)
    def on_predict_batch_end(self, trainer, module, *arguments):
        behind = getattr(module, "behind", None)  # writes the batch before this one: what it holds by now is not left to chance
        if behind and len(behind.waiting) > 1:
            behind.waiting[0].result()
        self._count(trainer)
name, _, attribute = STAGES["latents" if stage == "all" else stage].target.partition(":")
module = getattr(importlib.import_module(name), attribute)
callbacks = module.callbacks
module.callbacks = lambda self: [*callbacks(self), Interrupt()]
from stages.cli.main import main
sys.exit(main(["run", stage, *words]))
"""


class Ended(NamedTuple):
    status: int
    output: str  # stdout and stderr


def interrupt(place: Path, stage: str, batches: int, *words: str, sent: int = signal.SIGKILL, rank: int = 0) -> Ended:
    """`stage run STAGE words` in `place`. `sent` reaches rank `rank` at the end of its batch number `batches`, counted from 1; 0 waits there instead."""
    script = place / "interrupted.py"  # a file: Lightning starts the other ranks by its name
    script.write_text(CODE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, str(script), stage, str(batches), str(int(sent)), str(rank), *words, *SMOKE],
        cwd=place,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert not batches or sent != signal.SIGKILL or found.returncode != 0, found.stderr[-2000:]
    return Ended(found.returncode, found.stdout + found.stderr)
