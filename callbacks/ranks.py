"""The ranks of one machine watch each other: where one dies, the others say which and end, within seconds, whatever
collective they wait in.

Lightning's own observer kills all with SIGKILL and says nothing, and a rank whose starter died waits until its
collective times out.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

INTERVAL = 0.5  # seconds between two looks
STARTER = "STAGE_STARTER"  # environment variable: id of the process that starts the other ranks


class RankWatch(L.Callback):
    """For ranks that Lightning started; srun and torchrun watch their own. Made before they are started."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.processes: list[subprocess.Popen[bytes]] = []
        parent = os.getppid()
        started = os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(STARTER) == str(parent)
        self.starter = parent if started else 0
        if not self.starter:
            os.environ[STARTER] = str(os.getpid())  # for the ranks that this process starts
        self.over = threading.Event()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        launcher: Any = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return
        self.processes = launcher.procs
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                vars(thread)["_child_processes"] = []  # Lightning's observer has nothing to watch
        if self.starter or self.processes:
            threading.Thread(target=self._watch, daemon=True).start()

    def dead_rank(self) -> str:
        """Which rank is gone, in words; "" where none is."""
        if self.starter and os.getppid() != self.starter:
            return "rank 0 died"
        for rank, process in enumerate(self.processes, 1):
            if code := process.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                return f"rank {rank} (pid {process.pid}) {how}"
        return ""

    def wait_for_dead_rank(self, seconds: float = 5.0) -> str:
        """`dead_rank`, now or soon: a lost connection is seen before the process that lost it has gone."""
        end = time.monotonic() + seconds
        while not (dead := self.dead_rank()) and time.monotonic() < end and (self.starter or self.processes):
            time.sleep(0.1)
        return dead

    def finish(self) -> None:
        """When all is done: the starter waits for the others, so that none thinks it dead."""
        self.over.set()
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:  # everything is written: what hangs in its own end is ended
                process.kill()

    def _watch(self) -> None:
        while not self.over.wait(INTERVAL):
            if dead := self.dead_rank():
                if self.over.wait(INTERVAL):  # the main thread may say it first
                    return
                for process in self.processes:
                    process.kill()
                message = f"stage: {self.stage}: {dead}, so all end; the same command goes on"
                print(message, file=sys.stderr, flush=True)
                os._exit(1)
