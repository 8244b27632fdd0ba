"""Rows of a table that are a part of a recording: the columns `start` and `end`, in seconds. No torch here."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.corpora.inspect import DURATION_TOLERANCE, AudioHeader, declared
from datamodules.corpora.tables import MetadataRow
from datamodules.corpora.writer import path_in_root
from datamodules.errors import DataError

START, END = "start", "end"
THREADS = 8  # that read headers: they wait for a disk


def with_segments(rows: Sequence[MetadataRow], root: Path, metadata: Path) -> list[MetadataRow]:
    """Rows with a start or an end -> their path is that part of the recording (sound_files.py), and the recording is
    their source where they name none; one that is all of it stays the recording. Only the headers are read.

    Raises DataError for a start or an end that is no number of seconds, and for an end that is not behind its start.
    """
    cut = [row for row in rows if row.values.get(START) or row.values.get(END)]
    if not cut:
        return list(rows)
    where = {id(row): f"{metadata}, line {row.line}" for row in cut}
    paths = {id(row): path_in_root(row.values["path"], root, where[id(row)]) for row in cut}
    names = list(dict.fromkeys(paths.values()))
    headers = dict(zip(names, declared([root / name for name in names], THREADS), strict=True))
    return [
        _segment(row, paths[id(row)], headers[paths[id(row)]], where[id(row)]) if id(row) in paths else row
        for row in rows
    ]


def _segment(row: MetadataRow, path: str, header: AudioHeader | None, where: str) -> MetadataRow:
    start = _seconds(row.values.get(START) or "0", START, where)
    end = _seconds(row.values.get(END) or "inf", END, where)
    if end <= start:
        raise DataError(f"{where}: it ends at {row.values[END]} s, and begins at {row.values.get(START) or 0}")
    if header is None:  # it is missing, or cannot be decoded, which is said of it later
        return row
    rate, length = header.sample_rate, header.num_samples
    first, last = round(start * rate), length if end == math.inf else round(end * rate)
    if first >= length:
        raise DataError(f"{where}: it begins at {start:g} s, and the recording has {length / rate:.2f} s")
    if last - length in range(1, round(DURATION_TOLERANCE * rate) + 1):
        last = length
    stem, suffix = os.path.splitext(path)
    source = {"source": row.values.get("source") or stem}
    if (first, last) == (0, length):
        return row._replace(values=row.values | source)
    part = f"{path}::samples={first}+{last - first}"
    return row._replace(values=row.values | source | {"path": part}, name=f"{stem}-{first}-{last}{suffix}")


def _seconds(text: str, column: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise DataError(
            f"{where}: {column} is {text!r}; the seconds are expected at which the part of the recording that the row "
            "is about begins and ends, as 12.5. Call a column that says something else otherwise"
        )
    return seconds
