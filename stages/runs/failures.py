"""What a run leaves when it fails: `error.txt` in its folder, with the whole traceback; and what an errno means.

`error.txt` is of the newest start that failed: the next start removes it, so that a finished run has none. Of several
ranks the one that fails first writes it, and the others leave it as it is. A run without a folder yet, refused before
its first step, has none: where another error is behind its own, the message says that --debug shows the traceback.
No torch here.
"""

import errno
import os
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.runs.ranks import rank

NAME = "error.txt"
WHAT_TO_DO = {  # errno -> what is to be done about it. Others are bugs, and keep their traceback
    errno.ENOSPC: "The disk is full: make room",
    errno.EDQUOT: "The quota is used up: make room",
    errno.EFBIG: "A file may not be that large here: raise `ulimit -f`, or take another file system",
    errno.EROFS: "The file system is read-only: write elsewhere, as --runs=FOLDER",
    errno.EACCES: "Give this user leave to read and write it",
    errno.EPERM: "Give this user leave to read and write it",
    errno.EMFILE: "Raise `ulimit -n`, or lower data.num_workers",
    errno.ENFILE: "The machine has too many open files: lower data.num_workers",
    errno.ENOMEM: "No memory is left: fewer data.num_workers need less",
    errno.ENAMETOOLONG: "A shorter name is allowed",
    errno.EIO: "The disk cannot be read or written: is it whole, and still mounted?",
    errno.ESTALE: "The network's file system has lost it: is it still mounted?",
    errno.ENOTCONN: "The network's file system has lost it: is it still mounted?",
    errno.ENODEV: "Is the disk still mounted?",
    errno.ENXIO: "Is the disk still mounted?",
}


def of_machine(error: OSError) -> str:
    """What came and what to do, for an error of the machine or of what this user may do; "" for any other."""
    if error.errno not in WHAT_TO_DO:
        return ""
    path = f"{error.filename}: " if error.filename else ""
    return f"{path}{error.strerror}. {WHAT_TO_DO[error.errno]}"


def clear(folder: Path) -> None:
    """Removes what an earlier start left; folder: of the run. By one process, before the others can fail."""
    with suppress(OSError):  # as on a disk that is read-only: what follows says so
        (folder / NAME).unlink(missing_ok=True)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Writes the error that ends the block to the run's folder, and notes on the error where it lies."""
    try:
        yield
    except Exception as error:
        if folder.is_dir() and (path := _write(folder, error)):
            error.add_note(f"The traceback is in {path}")
        elif error.__cause__:  # else its message is all there is
            error.add_note("The same command with --debug shows the traceback")
        raise


def _write(folder: Path, error: Exception) -> Path | None:
    """None where it cannot be written, as on a full disk."""
    path = folder / NAME
    head = f"{time.strftime('%FT%T%z')}, rank {rank()}, process {os.getpid()} on {socket.gethostname()}"
    text = f"{head}\n{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    part = folder / f".{NAME}.{socket.gethostname()}.{os.getpid()}"
    try:
        part.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):  # of a rank that failed before this one
            os.link(part, path)  # whole, and never over another
        return path
    except OSError:
        return None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
