"""One clean progress line: a live bar on a terminal, else (a SLURM log, a pipe) a logged line at every tenth and every
minute. No Lightning here: commands that do not train show it too.
"""

import logging
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 60.0  # at most, where no tenth is reached


class ProgressLine:
    """A progress line with a unit ("steps", "clips"); silent where `visible` is False (ranks other than 0).

    every_tenth: a line at each tenth, however quick; else one a minute.
    """

    def __init__(self, name: str, total: int, unit: str, visible: bool = True, every_tenth: bool = True) -> None:
        self.every_tenth = every_tenth
        self.name, self.total, self.unit, self.visible = name, total, unit, visible
        self.console = Console()
        self.live: tuple[Progress, TaskID] | None = None
        self.began = self.printed_at = time.monotonic()
        self.first, self.printed_tenth = 0, -1

    def start(self, done: int = 0) -> None:
        """done: what an earlier run did."""
        self.began = self.printed_at = time.monotonic()
        self.first = done
        if self.visible and self.console.is_terminal:
            live = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.live = (live, live.add_task(self.name, total=self.total, completed=done, note=""))
            live.start()

    def update(self, done: int, note: str = "") -> None:
        if self.live is not None:
            live, task = self.live
            live.update(task, completed=done, note=note)
        elif self.visible and not self.console.is_terminal:
            tenth, now = 10 * done // max(self.total, 1), time.monotonic()
            if (self.every_tenth and tenth > self.printed_tenth) or now - self.printed_at >= SECONDS_BETWEEN_LINES:
                self.printed_tenth, self.printed_at = tenth, now
                seconds = now - self.began
                line = f"{self.name:<14} {done:>6}/{self.total} {self.unit}  {seconds:6.1f} s  {note}"
                log.info(line + self._time_left(done, seconds))

    def stop(self) -> None:
        if self.live is not None:
            self.live[0].stop()
            self.live = None

    def _time_left(self, done: int, seconds: float) -> str:
        """For work that takes longer than a minute: its rate, and the time left at that rate."""
        rate = (done - self.first) / max(seconds, 1e-9)
        if seconds < SECONDS_BETWEEN_LINES or not rate or done >= self.total:
            return ""
        minutes = (self.total - done) / rate / 60
        return f"  {rate:.3g} {self.unit}/s, {minutes:.0f} min left"
