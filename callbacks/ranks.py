"""The ranks of one machine watch each other: where one dies, the others say which and end, within seconds, whatever collective they wait in.

Lightning's own observer kills all with SIGKILL and says nothing, and a rank whose starter died waits for its collective's timeout.
"""

import os
import signal
import sys
import threading
import time
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

EVERY = 0.5  # seconds
STARTER = "STAGE_STARTER"  # environment variable: the process that starts the other ranks


class RankWatch(L.Callback):
    """For ranks that Lightning started; srun and torchrun watch their own. Made before they are started."""

    def __init__(self, stage: str) -> None:
        self.stage, self.processes = stage, []
        parent = os.getppid()
        started = os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(STARTER) == str(parent)
        self.starter = parent if started else 0
        if not self.starter:
            os.environ[STARTER] = str(os.getpid())  # what the ranks that this process starts will find
        self.over = threading.Event()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        launcher: Any = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return
        self.processes = launcher.procs
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                thread._child_processes = []  # type: ignore[attr-defined]
        if self.starter or self.processes:
            threading.Thread(target=self._watch, daemon=True).start()

    def dead(self) -> str:
        """Which rank is gone, in words; "" where none is."""
        if self.starter and os.getppid() != self.starter:
            return "rank 0 died"
        for rank, process in enumerate(self.processes, 1):
            if code := process.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                return f"rank {rank} (pid {process.pid}) {how}"
        return ""

    def blame(self, seconds: float = 5.0) -> str:
        """What `dead` says, now or soon: a lost connection is seen before the process that lost it has gone."""
        end = time.monotonic() + seconds
        while not (found := self.dead()) and time.monotonic() < end and (self.starter or self.processes):
            time.sleep(0.1)
        return found

    def finish(self) -> None:
        """When all is done: the starter waits for the others, so that none thinks it dead."""
        self.over.set()
        for process in self.processes:
            process.wait(timeout=60)

    def _watch(self) -> None:
        while not self.over.wait(EVERY):
            if found := self.dead():
                if self.over.wait(EVERY):  # the main thread may say it first
                    return
                for process in self.processes:
                    process.kill()
                print(
                    f"stage: {self.stage}: {found}, so all end; the same command goes on", file=sys.stderr, flush=True
                )
                os._exit(1)
