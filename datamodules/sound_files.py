"""Sounds by their path: files, members of archives, and parts of both, read in place. No torch here.

    clips/a.wav                          a file
    shards/000.tar::bytes=512+88244      so many bytes of a file from the 512th on: a member of a tar
    train.parquet::row=17&column=audio   the bytes in a row of a column
    a.flac::samples=441000+220500        so many samples from the 441,000th on, of one channel: ...&channel=1
    ....tar::bytes=512+88244&samples=0+220500

What stands behind `::` is a part only where no file has the whole name. A path `s3:/bucket/key`, as Path writes
`s3://bucket/key`, is read by fsspec. An archive stays open: a member costs one read, or one request of its bytes.
"""

import hashlib
import io
import mmap
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile

from datamodules import containers, mpeg_audio

PART = re.compile(
    r"(?P<file>.+)::(?:(?:bytes=(?P<first_byte>\d+)\+(?P<bytes>\d+)|row=(?P<row>\d+)&column=(?P<column>[^&]+))&?)?"
    r"(?:samples=(?P<first>\d+)\+(?P<samples>\d+)&?)?(?:channel=(?P<channel>\d+))?"
)
REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(.*)")
LOCK = threading.Lock()  # pyarrow's readers are not for several threads
Contents = bytes | mmap.mmap  # of a file
UNREADABLE = (soundfile.SoundFileError, RuntimeError, ValueError, OSError)


class Part(NamedTuple):
    """Where a sound is."""

    file: Path
    bytes: tuple[int, int] | None = None  # offset, size
    row: tuple[int, str] | None = None  # row, column
    samples: tuple[int, int] | None = None  # first, count
    channel: int | None = None

    @classmethod
    def parse(cls, path: Path) -> "Part":
        match = PART.fullmatch(str(path)) if "::" in str(path) else None
        if match is None or (not REMOTE.fullmatch(str(path)) and path.exists()):
            return cls(path)
        return cls(
            Path(match["file"]),
            (int(match["first_byte"]), int(match["bytes"])) if match["bytes"] else None,
            (int(match["row"]), match["column"]) if match["row"] else None,
            (int(match["first"]), int(match["samples"])) if match["samples"] else None,
            int(match["channel"]) if match["channel"] else None,
        )

    @property
    def is_whole_file(self) -> bool:
        return self.bytes is None and self.row is None and url(self.file) is None


def url(path: Path) -> str | None:
    """The address of a path that fsspec reads; None of a path on this machine."""
    match = REMOTE.fullmatch(str(path))
    return f"{match[1]}://{match[2]}" if match else None


def open_binary(path: Path) -> BinaryIO:
    """A file on this machine, or one that fsspec reads. Raises OSError, and ImportError that names what is missing."""
    address = url(path)
    if address is None:
        return path.open("rb")
    import fsspec

    return fsspec.open(address, "rb").open()


def size(path: Path) -> int | None:
    """Bytes of the file, or of the member, that holds the sound; None where it is missing."""
    part = Part.parse(path)
    if part.bytes is not None:
        return part.bytes[1] if _exists(part.file) else None
    if part.row is not None:
        return _size_of_row(part) if _exists(part.file) else None
    if not _exists(part.file):
        return None
    return part.file.stat().st_size if url(part.file) is None else len(read_part(part))


def absent(path: Path) -> str:
    """Why there is no file: missing, or something else lies there."""
    part = Part.parse(path)
    file = part.file
    if part.row is not None and _exists(file):
        return f"missing: row {part.row[0]} of {file.name} holds no sound"
    if url(file) is None and file.is_symlink() and not file.exists():
        return f"missing: it is a link to {os.readlink(file)}, which is not there"
    if url(file) is None and file.exists():
        return "missing: it is a folder or a pipe, and no file"
    return "missing"


def stamp(path: Path) -> str | None:
    """Size and time of change of the file or archive that holds the sound; of one that fsspec reads what it says that
    changes with it. None where there is none: it has to be read.
    """
    file = Part.parse(path).file
    address = url(file)
    if address is not None:
        return _remote_stamp(address)
    try:
        about = file.stat()
    except OSError:
        return None
    return f"{about.st_size} {about.st_mtime_ns}"


@lru_cache(maxsize=4096)  # of the members of an archive
def _remote_stamp(address: str) -> str | None:
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    try:
        return str(system.ukey(path))
    except OSError:
        return None


@contextmanager
def contents(part: Part) -> Iterator[Contents]:
    """The bytes of the sound's file, which is mapped, or of its member. Raises OSError."""
    if not part.is_whole_file:
        yield read_part(part)
        return
    with part.file.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def content_hash(part: Part, whole: str) -> str:
    """SHA-256 of a sound by that of its file or member: the same, or, of a part of its samples, of that and which part."""
    if part.samples is None and part.channel is None:
        return whole
    return hashlib.sha256(f"{whole} samples {part.samples} channel {part.channel}".encode()).hexdigest()


class Sound:
    """An open sound. Raises one of UNREADABLE where it cannot be decoded.

    data: the bytes of its file or member, where they are at hand.
    """

    def __init__(self, path: Path, data: Contents | None = None) -> None:
        part = Part.parse(path)
        if data is None and part.is_whole_file:
            source: Any = mpeg_audio.with_declared_length(part.file) or part.file
        else:
            data = read_part(part) if data is None else data
            source = mpeg_audio.with_declared_length_of(data)
            source = source or (part.file if part.is_whole_file else io.BytesIO(data))
        self.file: Any = _open(source, part)
        self.channel = part.channel
        samples: tuple[int, int] = part.samples or (0, self.file.frames)
        self.first, self.num_samples = samples
        self.sample_rate: int = self.file.samplerate
        self.num_channels: int = 1 if self.channel is not None else self.file.channels
        self.position = 0
        if self.first:
            self.file.seek(min(self.first, self.file.frames))

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, sample: int) -> None:
        self.position = sample
        self.file.seek(min(self.first + sample, self.file.frames))

    def read(self, count: int) -> np.ndarray:
        """Up to `count` samples from here on: (T, C) float32, empty at the end."""
        count = max(0, min(count, self.num_samples - self.position))
        start, before = self.first + self.position, 0
        if self.file.format == "MP3" and start < self.file.frames:  # soundfile jumps behind each block that it reads
            before = min(start, mpeg_audio.settling_samples(self.sample_rate))
            self.file.seek(start - before)
        block = self.file.read(before + count, dtype="float32", always_2d=True)[before:]
        self.position += len(block)
        return block if self.channel is None else block[:, self.channel : self.channel + 1]


def _open(source: Any, part: Part) -> Any:
    """By libsndfile; what it does not know, by torchcodec."""
    try:
        return soundfile.SoundFile(source)
    except soundfile.SoundFileError:
        is_archived = part.bytes is not None or part.row is not None
        if part.file.suffix.lower() not in containers.CONTAINERS and not (is_archived and containers.is_installed()):
            raise
        return containers.open_container(source)


def _exists(path: Path) -> bool:
    if url(path) is None:
        return path.is_file()
    try:
        file_system, name = _remote(path)
        return bool(file_system.exists(name))
    except OSError:
        return False


def read_part(part: Part) -> bytes:
    """The bytes of a member or a row, or of a file that fsspec reads. Raises OSError."""
    if part.row is not None:
        return _parquet_bytes(part.file, *part.row)
    if url(part.file) is not None:
        data = _remote_bytes(part)
    else:
        assert part.bytes is not None, "else it is a whole file"
        stat = part.file.stat()
        data = _archive(part.file, stat.st_ino, stat.st_mtime_ns).read(*part.bytes)
    if part.bytes is not None and len(data) < part.bytes[1]:
        raise OSError(f"{part.file} ends within a member")
    return data


def _remote(path: Path) -> tuple[Any, str]:
    """fsspec's file system of a path, and its name there."""
    from fsspec.core import url_to_fs

    file_system, name = url_to_fs(url(path))
    return file_system, name


@lru_cache(maxsize=1)
def _remote_bytes(part: Part) -> bytes:
    """The last ones are kept: a recording is decoded, and then hashed."""
    file_system, name = _remote(part.file)
    first, count = part.bytes or (0, None)
    data: bytes = file_system.cat_file(name, start=first, end=None if count is None else first + count)
    return data


class _Archive:
    """An open file. Threads and forked processes may share it, for no position is kept."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, offset: int, count: int) -> bytes:
        """Fewer bytes where the file ends before."""
        data = os.pread(self.descriptor, count, offset)
        while len(data) < count and (more := os.pread(self.descriptor, count - len(data), offset + len(data))):
            data += more  # above 2 GiB
        return data

    def __del__(self) -> None:
        os.close(self.descriptor)


@lru_cache(maxsize=16)
def _archive(path: Path, inode: int, time: int) -> _Archive:
    return _Archive(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _size_of_row(part: Part) -> int | None:
    try:
        return len(read_part(part))
    except OSError:
        return None


def holds_bytes(path: Path, column: str) -> bool:
    """Whether a parquet holds a sound at least, or their paths alone; True of one without rows."""
    groups = range(len(open_parquet(path).ends))
    chunks = (chunk for group in groups for chunk in _column(path, group, column).chunks)
    inner = ((chunk.field("bytes") if chunk.type.num_fields else chunk) for chunk in chunks)
    return not groups or any(values.null_count < len(values) for values in inner)


def _parquet_bytes(path: Path, row: int, column: str) -> bytes:
    table = open_parquet(path)
    group, first = table.group_of(row)
    value = _column(path, group, column)[row - first].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise OSError(f"{path}, row {row}: the column {column} holds no sound")
    return data


class Parquet(NamedTuple):
    file: Any  # pyarrow.parquet.ParquetFile
    ends: list[int]  # of its row groups, in rows

    def group_of(self, row: int) -> tuple[int, int]:
        """The row group of a row, and the first row of that."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        return group, self.ends[group - 1] if group else 0


def open_parquet(path: Path) -> Parquet:
    """An open file of this process: what was opened before a fork is opened again. Raises ImportError where pyarrow is
    missing.
    """
    return _opened(path, os.getpid())


@lru_cache(maxsize=16)
def _opened(path: Path, process: int) -> Parquet:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(open_binary(path) if url(path) else path)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return Parquet(file, [int(end) for end in np.cumsum(sizes)])


def read_parquet_column(path: Path, column: str) -> list[Any]:
    """A column, or a field of one as audio.path; without what is beside it."""
    name, *inner = column.split(".")
    values = open_parquet(path).file.read(columns=[column]).column(name).to_pylist()
    return [value.get(inner[0]) if inner and value else value for value in values]


@lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> Any:
    file = open_parquet(path).file
    with LOCK:
        return file.read_row_group(group, columns=[column], use_threads=False).column(0)
