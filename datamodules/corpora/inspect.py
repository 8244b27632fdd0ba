"""Which recordings cannot be used, and why: all are decoded whole, before anything is written or trained on."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules import sound_files
from datamodules.corpora import declared_length
from datamodules.errors import DataError
from datamodules.sound_files import UNREADABLE, Contents, Part, Sound, content_hash, contents

LOUD = 4.0  # peak; a float of full scale is 1, and integers that were not scaled are far above
DOWNMIXED = (3, 4, 5, 6)  # channels that are mixed down to stereo (datamodules/audio.py)
SILENCE = 1e-4  # peak; -80 dB
DURATION_TOLERANCE = 0.025  # seconds between what a header declares and what is decoded
LISTED = 20
LFS_SIZE = 1024  # bytes that a pointer has at most
TASK = 4  # recordings that a process gets at a time: what is in its hands when it is killed is decoded again
BLOCK = 1 << 18  # samples a channel decoded at a time: hours of sound take no more memory than seconds
BEGINNINGS = {  # first four bytes of a file -> how its kind begins, wherever that is: 8 bytes or more, none by chance
    b"fLaC": rb"fLaC[\x00\x80]\x00\x00\x22",
    b"RIFF": rb"RIFF.{4}WAVE",
    b"riff": rb"riff\x2e\x91\xcf\x11",
    b"FORM": rb"FORM.{4}AIF[FC]",
    b"caff": rb"caff\x00\x01\x00\x00desc",
    b".snd": rb"\.snd\x00\x00\x00.{5}\x00\x00\x00",
    b"OggS": rb"OggS\x00[\x02\x03\x06\x07]\x00{8}",  # the first page of a stream (RFC 3533)
}
LATER_PAGE = re.compile(rb"OggS\x00[\x00\x01\x04\x05]")


class BadRecording(NamedTuple):
    path: str
    reason: str


class Inspection(NamedTuple):
    """What a recording is, as decoded; `reason` is None for a good one, and the numbers of a bad one may be 0."""

    path: str
    reason: str | None
    seconds: float
    size: int  # bytes
    sample_rate: int  # Hz
    num_samples: int  # a channel
    num_channels: int
    sha256: str | None  # of the file's bytes: the same recording under another name; of a bad one it may be None
    peak: float = 1.0  # largest absolute sample; 1 is full scale
    mono_peak: float = 1.0  # of the mean of the channels: 0 where stereo cancels itself
    stamp: str | None = None  # size and time of change of its file, before it was read


def inspect(paths: Sequence[Path], workers: int) -> list[Inspection]:
    """Decodes each file whole; in the order given.

    Missing, empty, undecodable, truncated, silent and non-finite recordings, and those with channels that cannot be
    mixed down, carry their reason.
    """
    inspections = dict(inspect_each(paths, workers))
    return [inspections[number] for number in range(len(paths))]


def inspect_each(paths: Sequence[Path], workers: int) -> Iterator[tuple[int, Inspection]]:
    """Each file's position and what `inspect` says of it, as soon as it is known. Raises DataError that names some files
    where a process ended while it decoded one of them.
    """
    if workers <= 1 or len(paths) < 64:
        yield from enumerate(map(_inspect, paths))
        return
    tasks, first = iter(range(0, len(paths), TASK)), 0
    running: dict[Future[list[Inspection]], int] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                for first in islice(tasks, 2 * workers - len(running)):
                    running[pool.submit(_inspect_all, paths[first : first + TASK])] = first
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    inspections = future.result()
                    yield from enumerate(inspections, running.pop(future))
        except BrokenProcessPool as error:  # of a result, or of what is submitted after a process ended
            begun = sorted(running.values()) or [first]
            named = [str(path) for first in begun for path in paths[first : first + TASK]]
            raise DataError(
                f"a process ended while it decoded one of these:\n{listed(named)}\nLook at them one by one "
                "(--data.num_workers=1), and take the one that does it out"
            ) from error


class AudioHeader(NamedTuple):
    sample_rate: int  # Hz
    num_samples: int  # a channel
    num_channels: int


def declared(paths: Sequence[Path], workers: int) -> list[AudioHeader | None]:
    """What each file's header says, without decoding it; None for a file without a readable one. In the order given."""
    with ThreadPoolExecutor(max(1, workers)) as pool:  # it waits for a disk
        return list(pool.map(_header, paths))


def _header(path: Path) -> AudioHeader | None:
    try:
        with Sound(path) as sound:
            return AudioHeader(sound.sample_rate, sound.num_samples, sound.num_channels)
    except UNREADABLE:
        return None


class BadRecordingsError(DataError):
    """Recordings that cannot be used, where on_bad is not skip."""

    def __init__(self, message: str, bad: Sequence[BadRecording]) -> None:
        super().__init__(message)
        self.bad = bad


def refuse(bad: Sequence[BadRecording], checked: int, on_bad: str) -> None:
    """Raises BadRecordingsError that names the bad recordings, unless on_bad is skip."""
    if bad and on_bad == "error":
        rows = listed([f"{path}: {reason}" for path, reason in bad])
        cure = "Mend them, or go on without them: --data.on_bad=skip"
        raise BadRecordingsError(f"{len(bad)} of {checked} recordings cannot be used:\n{rows}\n{cure}", bad)


def listed(rows: Sequence[str]) -> str:
    """The first rows, a line each, and how many more there are."""
    more = [f"and {len(rows) - LISTED} more"] if len(rows) > LISTED else []
    return "\n".join(f"  {row}" for row in [*rows[:LISTED], *more])


def _inspect_all(paths: Sequence[Path]) -> list[Inspection]:
    return [_inspect(path) for path in paths]


def _inspect(path: Path) -> Inspection:
    """Opens the file once for its bytes and once to decode it."""
    stamp = sound_files.stamp(path)

    def bad(reason: str, size: int = 0) -> Inspection:
        return Inspection(str(path), reason, 0.0, size, 0, 0, 0, None, 0.0, 0.0, stamp)

    try:
        size = sound_files.size(path)
    except UNREADABLE as error:
        return bad(f"cannot be read ({_last_words(error)})")
    if size is None:
        return bad(sound_files.absent(path))
    if size == 0:
        return bad("empty file", size)
    part, whole = Part.parse(path), None
    try:
        if part.samples or part.channel is not None:  # the file is that of many
            whole = _of_file(part._replace(samples=None, channel=None), stamp)
            return _decode(path, whole, size, stamp, None)
        with contents(part) as data:
            whole = _of_contents(data)
            return _decode(path, whole, size, stamp, data)
    except UNREADABLE as error:
        if whole and whole.missing:
            return bad(f"truncated: {whole.missing}", size)
        if size < LFS_SIZE and part.is_whole_file and part.file.read_bytes().startswith(b"version https://git-lfs"):
            return bad(
                "is Git LFS's pointer to the sound, and not the sound: type `git lfs pull` in its repository", size
            )
        return bad(f"cannot be decoded ({_last_words(error)})", size)


class _OfFile(NamedTuple):
    """What is asked of a file's bytes."""

    sha256: str
    another: int | None  # byte at which another file of its kind begins
    missing: str | None


def _of_contents(data: Contents) -> _OfFile:
    return _OfFile(hashlib.sha256(data).hexdigest(), _second_beginning(data), declared_length.missing(data))


@lru_cache(maxsize=256)
def _of_file(file: Part, stamp: str | None) -> _OfFile:
    with contents(file) as data:
        return _of_contents(data)


def _decode(path: Path, whole: _OfFile, size: int, stamp: str | None, data: Contents | None) -> Inspection:
    """data: the bytes of its file; None of a part of its samples, for which the file itself is not judged."""
    peak, mono_peak, frames, rate, channels = 0.0, 0.0, 0, 0, 0

    def result(reason: str | None) -> Inspection:
        digest = None if reason else content_hash(Part.parse(path), whole.sha256)
        seconds = frames / rate if rate else 0.0
        return Inspection(str(path), reason, seconds, size, rate, frames, channels, digest, peak, mono_peak, stamp)

    if whole.another is not None:
        return result(
            f"is several files one after another: the next begins at byte {whole.another}, and the first alone would be "
            "read. Make one of them, as `ffmpeg -i` does"
        )
    with Sound(path, data) as sound:
        declared, rate, channels = sound.num_samples, sound.sample_rate, sound.num_channels
        is_vorbis = sound.file.format == "OGG"  # whose channels come in another order
        while len(block := sound.read(BLOCK)):
            highest = max(block.max(), -block.min())  # NaN stays NaN
            if not np.isfinite(highest):
                frames = 0
                return result("has NaN or infinite samples")
            peak, frames = max(peak, float(highest)), frames + len(block)
            mono_peak = max(mono_peak, float(np.abs(block.mean(1)).max()))
        goes_on = data is not None and declared_length.goes_on(path, data, sound, DURATION_TOLERANCE)
    reason = None
    if whole.missing and data is not None:
        reason = f"truncated: {whole.missing}"
    elif data is None and declared - frames > DURATION_TOLERANCE * rate:
        reason = f"ends before its part does: {frames / rate:.2f} of {declared / rate:.2f} s are in the file"
    elif declared - frames > DURATION_TOLERANCE * rate:
        reason = f"truncated: {frames / rate:.2f} of {declared / rate:.2f} s"
    elif goes_on:
        reason = (
            f"goes on behind the {declared / rate:.2f} s that its header declares: write it anew, as `ffmpeg -i` does"
        )
    elif frames == 0:
        reason = "has no samples"
    elif channels > 2 and (channels not in DOWNMIXED or is_vorbis):
        reason = f"has {channels} channels; mono, stereo and, in wav, flac or aiff, 3 to 5.1 are taken"
    elif peak < SILENCE:
        reason = f"silent (peak {peak:.1e})"
    return result(reason)


def _last_words(error: Exception) -> str:
    words = (str(error) or type(error).__name__).splitlines()[0].rpartition(": ")[2]
    if "not a regular file" in words:  # of bytes that are called .mp3
        words = "Format not recognised."
    if "psf_fseek" in words:  # of a FLAC that was written to a pipe
        words += (
            ": its header does not say how long it is, or says more than there is; write it anew, as `flac -f` does"
        )
    return words


def _second_beginning(data: Contents) -> int | None:
    """The byte at which another file of its kind begins in a file: libsndfile reads the first one and no more. Streams
    of one Ogg that run side by side begin together. None of one file, and of an MP3, whose frames are counted.
    """
    pattern = BEGINNINGS.get(bytes(data[:4]))
    if pattern is None:
        return None
    first = 4
    if data[:4] == b"OggS":
        later = LATER_PAGE.search(data)
        first = later.start() if later else len(data)
    match = re.compile(pattern, re.DOTALL).search(data, first)
    return match.start() if match else None
