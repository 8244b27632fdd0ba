"""The jobs that `stage submit` made: which they are (runs/<experiment>/slurm/jobs.json), what SLURM says of them, their logs. No torch here."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from conf.errors import UsageError
from conf.sections.common import StageConf
from stages.runs import chain

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESIZING", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED")


class Job(NamedTuple):
    """What SLURM says of a job; state is "" where it no longer knows it."""

    id: str
    state: str = ""  # SLURM's word, as PENDING
    nodes: str = ""
    since: str = ""  # when it started, local time
    requeued: int = 0
    reason: str = ""  # why it waits

    @property
    def lives(self) -> bool:
        return self.state in (*QUEUED, *RUNNING)

    def __str__(self) -> str:
        times = f", requeued {self.requeued} {'time' if self.requeued == 1 else 'times'}" if self.requeued else ""
        if self.state in RUNNING:
            return f"job {self.id} running on {self.nodes or 'no node yet'} since {self.since.replace('T', ' ')}{times}"
        if self.state in QUEUED:
            return f"job {self.id} queued ({self.reason or self.state}){times}"
        if not self.state:
            return f"job {self.id} has left the queue"
        return f"job {self.id} {self.state.lower().replace('_', ' ')}{times}"


def folder(conf: StageConf) -> Path:
    return Path(conf.runs) / conf.experiment / "slurm"


def log(place: Path, stage: str) -> Path:
    return place / f"{stage}.log"


def note(place: Path, stage: str, job: str) -> None:
    """Keeps the stage's newest job."""
    noted = _noted(place) | {stage: {"job": job, "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z")}}
    chain.write_atomically(place / "jobs.json", json.dumps(noted, indent=1))


def of(place: Path) -> dict[str, Job]:
    """Stage -> its newest job, as SLURM sees it now. Empty where nothing was submitted."""
    ids = {stage: entry["job"] for stage, entry in _noted(place).items()}
    found = _queue(ids.values()) if ids else {}
    gone = [job for job in ids.values() if job not in found]
    found |= _history(gone) if gone else {}
    return {stage: found.get(job, Job(job)) for stage, job in ids.items()}


def show(stage: str, places: list[Path], follow: bool) -> None:
    """Prints a stage's log; `follow`: and what is added to it, until its job is over. Raises UsageError where there is none, or several."""
    having = [place for place in places if log(place, stage).is_file() or stage in _noted(place)]
    if len(having) != 1:
        several = ", ".join(place.parent.name for place in having)
        where = ", ".join(str(log(place, stage)) for place in places) or "any experiment"
        raise UsageError(
            f"{stage} has a log in several experiments ({several}): name one, as --experiment={having[0].parent.name}"
            if having
            else f"no job of {stage} was submitted in {where}; `stage submit {stage}` does, `stage run` prints to the terminal"
        )
    (place,) = having
    read = 0
    while True:
        job = of(place).get(stage) if follow else None  # asked before reading: what it wrote last is read
        if log(place, stage).is_file():
            with log(place, stage).open("rb") as file:
                file.seek(read)
                text = file.read()
            read += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        if job is None or not job.lives:
            break
        time.sleep(2)
    if follow and job:
        print(f"{stage:<14} {job}")
    elif not log(place, stage).is_file():
        print(f"{stage:<14} {of(place)[stage]}; it has printed nothing yet")


def _noted(place: Path) -> dict[str, dict[str, str]]:
    path = place / "jobs.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}). Remove it: it only says which jobs were submitted") from None


def _queue(ids: Iterable[str]) -> dict[str, Job]:
    """Jobs that wait, run, or ended minutes ago. One call for all; SLURM leaves out those it forgot, and fails where it forgot the only one."""
    columns = ("JobID", "State", "NodeList", "StartTime", "RestartCnt", "Reason")
    words = [
        "--noheader",
        "--states=all",
        f"--jobs={','.join(ids)}",
        f"--Format={','.join(f'{it}:|' for it in columns)}",
    ]
    rows = (line.strip().split("|") for line in _ask("squeue", *words))
    return {row[0]: Job(*row[:4], int(row[4] or 0), row[5]) for row in rows if len(row) >= len(columns)}


def _history(ids: Iterable[str]) -> dict[str, Job]:
    """Jobs that ended long ago, where the cluster keeps accounts."""
    words = [
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--jobs={','.join(ids)}",
        "--format=JobID,State,NodeList,Start",
    ]
    rows = (line.split("|") for line in _ask("sacct", *words))
    return {row[0]: Job(row[0], row[1].split()[0], *row[2:4]) for row in rows if len(row) == 4 and row[1]}


def _ask(*words: str) -> list[str]:
    """The lines of an answer; none where the program or the cluster is not there."""
    if shutil.which(words[0]) is None:
        return []
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except subprocess.TimeoutExpired:
        return []
