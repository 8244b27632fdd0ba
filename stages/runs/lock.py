"""One run at a time writes a stage's folder: a lock that its process holds, and that a kill lets go."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from conf.errors import UsageError
from conf.sections.common import StageConf
from stages.runs.state import run_folder


@contextmanager
def claimed(stage: str, conf: StageConf) -> Iterator[None]:
    """Meanwhile the stage's run folder is this process' (and its ranks'); a kill ends that too, and nothing is left of it.

    Raises UsageError where another process has it, or nothing can be written there.
    """
    path = run_folder(conf, stage).with_name(f".{stage}.lock")  # beside the folder, which may be moved aside
    made = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path, run_folder(conf, stage))
    except OSError as error:
        raise UsageError(
            f"{path.parent} cannot be written: {error.strerror}. Give it room and leave to write, or write elsewhere: --runs=FOLDER"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _locked(path: Path, folder: Path) -> IO[str]:
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a record lock: no child that outlives us inherits it
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise UsageError(
                f"{folder} is being written by another run ({file.read().strip()}). Wait for it or stop it, "
                "or give this one another --experiment=NAME"
            ) from None
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:  # else its holder has just ended
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
            return file
        file.close()
