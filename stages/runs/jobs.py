"""The jobs that `stage submit` made: their ids (runs/<experiment>/slurm/jobs.json), their states, their logs. No torch here."""

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
from datamodules.atomic_files import write_whole

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


def jobs_folder(conf: StageConf) -> Path:
    return Path(conf.runs) / conf.experiment / "slurm"


def log_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.log"


def note(folder: Path, stage: str, job: str) -> None:
    """Keeps the stage's newest job."""
    noted = _noted(folder) | {stage: {"job": job, "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z")}}
    write_whole(folder / "jobs.json", json.dumps(noted, indent=1))


def newest(folder: Path) -> dict[str, Job]:
    """Stage -> its newest job, as SLURM sees it now. Empty where nothing was submitted."""
    ids = {stage: entry["job"] for stage, entry in _noted(folder).items()}
    known = _queue(ids.values()) if ids else {}
    gone = [job for job in ids.values() if job not in known]
    known |= _history(gone) if gone else {}
    return {stage: known.get(job, Job(job)) for stage, job in ids.items()}


def show(stage: str, folders: list[Path], follow: bool) -> None:
    """Prints a stage's log; follow: and what is added to it, until its job is over.

    Raises UsageError where no experiment has a log of it, or several have.
    """
    having = [folder for folder in folders if log_file(folder, stage).is_file() or stage in _noted(folder)]
    if len(having) != 1:
        several = ", ".join(folder.parent.name for folder in having)
        where = ", ".join(str(log_file(folder, stage)) for folder in folders) or "any experiment"
        raise UsageError(
            f"{stage} has a log in several experiments ({several}): name one, as --experiment={having[0].parent.name}"
            if having
            else f"no job of {stage} was submitted in {where}; `stage submit {stage}` does, `stage run` prints to the terminal"
        )
    (folder,) = having
    read = 0
    while True:
        job = newest(folder).get(stage) if follow else None  # asked before reading: what it wrote last is read
        if log_file(folder, stage).is_file():
            with log_file(folder, stage).open("rb") as file:
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
    elif not log_file(folder, stage).is_file():
        print(f"{stage:<14} {newest(folder)[stage]}; it has printed nothing yet")


def _noted(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "jobs.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}). Remove it: it only says which jobs were submitted") from None


def _queue(ids: Iterable[str]) -> dict[str, Job]:
    """Jobs that wait, run, or ended minutes ago: one call for all.

    SLURM leaves out those that it forgot, and fails
    where it forgot the only one.
    """
    columns = ("JobID", "State", "NodeList", "StartTime", "RestartCnt", "Reason")
    words = [
        "--noheader",
        "--states=all",
        f"--jobs={','.join(ids)}",
        f"--Format={','.join(f'{it}:|' for it in columns)}",
    ]
    rows = (line.strip().split("|") for line in _ask("squeue", *words))
    return {
        row[0]: Job(row[0], row[1], row[2], row[3], int(row[4] or 0), row[5])
        for row in rows
        if len(row) >= len(columns)
    }


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
    return {row[0]: Job(row[0], row[1].split()[0], row[2], row[3]) for row in rows if len(row) == 4 and row[1]}


def _ask(*words: str) -> list[str]:
    """The lines of an answer; none where the program or the cluster is not there."""
    if shutil.which(words[0]) is None:
        return []
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except subprocess.TimeoutExpired:
        return []
