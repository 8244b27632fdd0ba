"""Files that stay open between reads: what is read costs one call of the system, no open and no stat."""

import os
import threading
from collections import OrderedDict

MOST = (
    400  # open files of a thread: the chunks that an order in blocks reads at a time (batches.py), mean and deviation
)


class OpenFiles:
    """The most recently read files, open. Each thread has its own, and pickles have none; forked processes may share
    them, for no position is kept.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def read(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; fewer where the file ends before."""
        opened = self._local.__dict__.setdefault("opened", _Descriptors())
        return os.pread(opened.of(path), size, start)

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[()]]:
        return OpenFiles, ()


class _Descriptors:
    def __init__(self) -> None:
        self.by_path: OrderedDict[str, int] = OrderedDict()

    def of(self, path: str) -> int:
        if path in self.by_path:
            self.by_path.move_to_end(path)
        else:
            self.by_path[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self.by_path) > MOST:
                os.close(self.by_path.popitem(last=False)[1])
        return self.by_path[path]

    def __del__(self) -> None:
        for descriptor in self.by_path.values():
            os.close(descriptor)
