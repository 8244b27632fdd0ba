"""Why a run stops before its end: a signal, or the clock. Handlers only note; the run looks where it can stop. No
torch here.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

STOPPED = 75  # the exit status: EX_TEMPFAIL of sysexits.h, "try again later"
INTERRUPTED = 130  # that of Ctrl-C in a shell
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
LIMIT, JOB_END = 1001, 1002  # reasons beside the signals' numbers


class Stop:
    """In a `with`: notes SIGUSR1, SIGTERM and SIGINT; a second SIGINT is a KeyboardInterrupt. Knows two ends of time:
    `seconds` after `began` (of time.monotonic; None is no limit), and `margin` seconds before that of the SLURM job,
    whose SLURM_JOB_END_TIME is in seconds since 1970.
    """

    def __init__(self, seconds: float | None, margin: float, began: float) -> None:
        self.began, self.seconds, self.margin = began, seconds, margin
        self.job_end = float(os.environ.get("SLURM_JOB_END_TIME") or "inf")
        self.noted = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self.before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self.noted == signal.SIGINT:
                raise KeyboardInterrupt
            os.write(2, b"\nstopping where it can go on; Ctrl-C again ends it at once\n")
        self.noted = self.noted or signum

    def reason(self) -> int:
        """0: go on. Else a signal's number, LIMIT or JOB_END: a number, so that ranks can agree on the largest."""
        if self.noted:
            return self.noted
        left = self.left()
        if left is not None and left <= 0:
            return LIMIT
        return JOB_END if time.time() >= self.job_end - self.margin else 0

    def left(self) -> float | None:
        """Seconds that are left of `seconds`; None without a limit."""
        return None if self.seconds is None else self.began + self.seconds - time.monotonic()

    def words(self, reason: int) -> str:
        """The reason as the command prints it."""
        if reason == LIMIT:  # without `seconds`: the limit of another rank
            return "limits.seconds" if self.seconds is None else f"limits.seconds={self.seconds:g}"
        if reason == JOB_END:
            return f"SLURM's end of the job in {self.margin:g} s (limits.margin)"
        return signal.Signals(reason).name


class Stopped(SystemExit):
    """Raised at an optimizer step, on all ranks, once everything is saved. Its status is STOPPED, or INTERRUPTED."""

    def __init__(self, reason: int) -> None:
        super().__init__(INTERRUPTED if reason == signal.SIGINT else STOPPED)
        self.reason = reason
