"""A text file by its lines, of which only where they begin is kept."""

from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.hashing import file_digest

BLOCK = 1 << 24  # bytes that are searched for line ends at once


class LineFile:
    """Lines of a file in UTF-8, read when they are asked for.

    key, line: where the file was named and what a line of it is, for the error where there is no such file (DataError).
    """

    def __init__(self, path: Path, key: str, line: str) -> None:
        if not path.is_file():
            raise DataError(f"{key}: {path}: no such file. It is JSONL, one {line} a line")
        self.path = path
        ends, size = [], path.stat().st_size
        with path.open("rb") as file:
            for begin in range(0, size, BLOCK):
                ends.append(begin + 1 + np.flatnonzero(np.frombuffer(file.read(BLOCK), np.uint8) == ord("\n")))
        self.edges = np.unique(np.concatenate([[0], *ends, [size]])).astype(np.int64)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def where(self, index: int) -> str:
        return f"{self.path}, line {index + 1}"

    def text(self, index: int) -> str:
        """A line without its end. Raises DataError where it is not UTF-8."""
        with self.path.open("rb") as file:
            file.seek(self.edges[index])
            line = file.read(self.edges[index + 1] - self.edges[index])
        try:
            return line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at byte {error.start}"
            raise DataError(f"{self.where(index)} is not UTF-8 ({reason}). Save it as UTF-8") from None

    def digest(self) -> str:
        return file_digest(self.path)
