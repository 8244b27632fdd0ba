"""Files that appear whole or not at all, whatever is killed while they are written; and files that grow by whole lines.

The project's one atomic writer. It is here because rooms above may import this one; callbacks, which may not, are given
it as an argument.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path in the same folder to write to, of the same suffix: renamed to `path` at the end, removed on errors.

    durable: the contents are on the disk before the rename, so that a power cut leaves the old file too.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        if durable:
            to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Text in UTF-8, on the disk before it is there: receipts, keys and plans say that other files count."""
    with whole_file(path, durable=True) as part:
        part.write_text(text, encoding="utf-8")


def mend_lines(path: Path) -> None:
    """Takes away the line that a kill cut short, before more are appended."""
    if path.is_file() and path.stat().st_size:
        with path.open("r+b") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = content.rfind(b"\n") + 1
            file.truncate(whole)
