"""Rows of a prediction that a kill does not lose: each rank appends to a file of its own, <folder>/predictions-<rank>.jsonl, and all are read."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.atomic_files import mend_lines


def append(folder: Path, rank: int, rows: Iterable[Mapping[str, object]]) -> None:
    with _path(folder, rank).open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def mend(folder: Path, rank: int) -> None:
    """Before a rank appends: takes away the line of its own file that a kill cut short. Another rank may be writing by now."""
    mend_lines(_path(folder, rank))


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Of all ranks, but for lines without an end."""
    for path in sorted(folder.glob("predictions-*.jsonl")):
        yield from map(json.loads, _whole(path))


def _path(folder: Path, rank: int) -> Path:
    return folder / f"predictions-{rank}.jsonl"


def _whole(path: Path) -> list[str]:
    return path.read_text().rpartition("\n")[0].splitlines()
