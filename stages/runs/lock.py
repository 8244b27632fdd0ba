"""One run at a time writes a stage's folder, one `prepare` a corpus: a lock that its process holds, and that a kill lets go.

Some file systems have no record locks (Lustre without `flock`, NFS without its lock daemon). There a file stands for the
lock, as `filelock.SoftFileLock` makes it. A kill leaves that file: where its owner ran on this machine, filelock sees that
it is gone; else a person has to, and the message says who it was and what to remove.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from conf.errors import UsageError
from conf.sections.common import StageConf
from stages.runs.state import run_folder

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
PATIENCE = 300.0  # seconds for a file server to let go what a job had whose machine failed
POLL = 5.0  # seconds


class _Writer(NamedTuple):
    """What an error says of those that write a folder."""

    name: str
    another: str  # key that has it write another folder
    elsewhere: str  # key that has it write on another disk


RUN = _Writer("run", "--experiment=NAME", "--runs=FOLDER")
PREPARE = _Writer("`stage prepare`", "--name=NAME", "--data.root=FOLDER")


@contextmanager
def claimed(stage: str, conf: StageConf) -> Iterator[None]:
    """Meanwhile the stage's run folder is this process' (and its ranks'); a kill ends that too.

    Raises UsageError where another process has it, or nothing can be written there.
    """
    folder = run_folder(conf, stage)
    with _claimed(folder.with_name(f".{stage}.lock"), folder, RUN):  # beside the folder, which may be moved aside
        yield


@contextmanager
def claimed_corpus(folder: Path, part: str = "") -> Iterator[None]:
    """As `claimed`, of a corpus that is prepared; part: of the record of one of its shards."""
    with _claimed(folder.with_name(f".{folder.name}{part}.prepare.lock"), folder, PREPARE):
        yield


@contextmanager
def _claimed(path: Path, folder: Path, writer: _Writer) -> Iterator[None]:
    made = [parent for parent in (path.parent, path.parent.parent) if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        release = _locked(path, folder, writer)
    except OSError as error:
        raise UsageError(
            f"{path.parent} cannot be written: {error.strerror}. Give it room and leave to write, or write elsewhere: "
            f"{writer.elsewhere}"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        release()
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()


def _locked(path: Path, folder: Path, writer: _Writer) -> Callable[[], None]:
    """Takes the lock; returns what releases it."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    deadline = time.monotonic() + (PATIENCE if restarts else 0)
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a record lock: no child that outlives us inherits it
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip()
            file.close()
            if time.monotonic() < deadline:
                time.sleep(POLL)
                continue
            raise UsageError(
                f"{folder} is being written by another {writer.name} ({owner}). Wait for it or stop it, "
                f"or give this one another {writer.another}"
            ) from None
        except OSError as error:
            file.close()
            if error.errno not in NO_LOCKS:
                raise
            return _softly_locked(path, folder, writer)
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:  # else its holder has just ended
            file.truncate(0)
            print(_owner(), file=file, flush=True)
            return file.close
        file.close()


def _softly_locked(path: Path, folder: Path, writer: _Writer) -> Callable[[], None]:
    from filelock import SoftFileLock, Timeout  # imported where it is needed: rarely

    soft = path.with_suffix(".softlock")
    owner = path.read_text(encoding="utf-8").strip()
    job = _job()
    if job and owner.startswith(f"{job} ") and not owner.startswith(f"{job} {_start()},"):
        soft.unlink(missing_ok=True)  # of an earlier start of this job, which SLURM has ended
    lock = SoftFileLock(soft)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"{folder} is being written by another {writer.name} ({owner or 'unknown'}). Wait for it or stop it, or give "
            f"this one another {writer.another}. This file system has no locks, so that a run that was killed cannot be known from "
            f"one that goes on: where you know that it is gone, type   rm {soft}"
        ) from None
    log.warning("%-14s %s is on a file system without locks: %s stands for one", folder.name, folder.parent, soft.name)
    path.write_text(_owner() + "\n", encoding="utf-8")
    return lock.release


def _owner() -> str:
    who = f"process {os.getpid()} on {socket.gethostname()}"
    return f"{_job()} {_start()}, {who}" if _job() else who


def _job() -> str:
    number = os.environ.get("SLURM_JOB_ID")
    return f"job {number}" if number else ""


def _start() -> str:
    return f"start {int(os.environ.get('SLURM_RESTART_COUNT') or 0) + 1}"
