"""One clean progress line: a live bar on a terminal, a printed line at every tenth elsewhere (a SLURM log, a pipe). No Lightning here."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressLine:
    """A progress line with a unit ("steps", "clips"); silent where `visible` is False (ranks other than 0)."""

    def __init__(self, name: str, total: int, unit: str, visible: bool = True) -> None:
        self.name, self.total, self.unit, self.visible = name, total, unit, visible
        self.console = Console()
        self.live: Progress | None = None
        self.began, self.first, self.printed = time.monotonic(), 0, -1

    def start(self, done: int = 0) -> None:
        self.began, self.first = time.monotonic(), done
        if self.visible and self.console.is_terminal:
            columns = (
                TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TextColumn(self.unit),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self.live = Progress(*columns, console=self.console)
            self.task = self.live.add_task(self.name, total=self.total, completed=done, note="")
            self.live.start()

    def update(self, done: int, note: str = "") -> None:
        if self.live is not None:
            self.live.update(self.task, completed=done, note=note)
        elif self.visible and not self.console.is_terminal:
            tenth = 10 * done // max(self.total, 1)
            if tenth > self.printed:
                self.printed = tenth
                seconds = time.monotonic() - self.began
                print(f"{self.name:<14} {done:>6}/{self.total} {self.unit}  {seconds:6.1f} s  {note}", flush=True)

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
