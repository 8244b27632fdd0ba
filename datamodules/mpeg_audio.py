"""The length of an MP3, by its frames (ISO/IEC 11172-3, 13818-3). No torch here.

libsndfile takes the length that a header (Xing, Info, VBRI) declares, or, without one, guesses it from the first
frame's bit rate: of a stream capture or of joined files the rest is then never read. Where the frames say otherwise the
file is opened with a header that declares them all.
"""

import io
import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

BIT_RATES = {  # kbit/s of layer III by MPEG's version (1, or 2 and 2.5)
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the version's bits
HEAD = 1 << 16  # bytes in which the first frame is looked for, behind a tag
SLACK = 4096  # bytes behind the frames that a header declares: tags, unless frames are among them


class Frame(NamedTuple):
    length: int  # bytes
    sample_rate: int  # Hz
    samples: int  # a channel
    side: int  # bytes of side information, behind which a Xing or Info header stands


def settling_samples(sample_rate: int) -> int:
    """Samples that are decoded, and dropped, behind a jump in an MP3: the bits of a frame begin in those before it, up to
    511 bytes back (255 below 32 kHz), which at the lowest bit rates are 9 frames (85), and libmpg123 goes 4 back.
    """
    return 12 * 1152 if sample_rate >= 32_000 else 90 * 576


class MpegScan(NamedTuple):
    frames: int  # of sound
    samples: int  # a channel
    sample_rates: set[int]
    is_declared: bool  # by a header that is a frame by itself
    start: int  # byte of the first frame of sound


def frame_at(data: bytes, position: int) -> Frame | None:
    """The frame of layer III that begins there; None where none does."""
    if position + 4 > len(data):
        return None
    sync, flags, rates, mode = data[position : position + 4]
    version, layer, rate = flags >> 3 & 3, flags >> 1 & 3, rates >> 2 & 3
    if sync != 0xFF or flags >> 5 != 7 or layer != 1 or version == 1 or rate == 3:
        return None
    is_first = version == 3
    bit_rate, sample_rate = BIT_RATES[1 if is_first else 2][rates >> 4], SAMPLE_RATES[version][rate]
    if not bit_rate:
        return None
    length = (144 if is_first else 72) * bit_rate * 1000 // sample_rate + (rates >> 1 & 1)
    is_mono = mode >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return Frame(length, sample_rate, 1152 if is_first else 576, side)


def first_frame(data: bytes) -> int | None:
    """Where the first frame begins, behind ID3 tags; None where this is no MP3."""
    position = _behind_tags(data, 0)
    end = min(len(data), position + HEAD)
    return next((at for at in range(position, end) if _is_frame(data, at)), None)


def scan(data: bytes) -> MpegScan | None:
    """All whole frames of a file, joined files and the tags between them included. None where this is no MP3."""
    first = first_frame(data)
    if first is None:
        return None
    frame = frame_at(data, first)
    assert frame is not None
    declared = _declared_at(data, first, frame) is not None
    start = first + frame.length if declared else first
    count = samples = 0
    rates: set[int] = set()
    for frame in _frames(data, start):
        count, samples = count + 1, samples + frame.samples
        rates.add(frame.sample_rate)
    return MpegScan(count, samples, rates, declared, start)


def with_declared_length(path: Path) -> io.BytesIO | None:
    """An MP3 that declares all of its frames, where the file does not; None where it does, and for other files.

    Raises ValueError for one whose frames are of several sample rates.
    """
    stat = path.stat()
    repair = _repair_of_file(path, stat.st_mtime_ns, stat.st_size)
    return None if repair is None else io.BytesIO(repair.header + path.read_bytes()[repair.start :])


def with_declared_length_of(data: "bytes | mmap.mmap") -> io.BytesIO | None:
    """The same of a file's bytes."""
    repair = _repair(data)
    return None if repair is None else io.BytesIO(repair.header + data[repair.start :])


class Repair(NamedTuple):
    header: bytes
    start: int


@lru_cache(maxsize=4096)
def _repair_of_file(path: Path, time: int, size: int) -> Repair | None:
    with path.open("rb") as file:
        if file.peek(1)[:1] not in (b"I", b"\xff"):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _repair(data)


def _repair(contents: "bytes | mmap.mmap") -> Repair | None:
    data = contents[:10]
    if data[:3] != b"ID3" and data[:1] != b"\xff":
        return None
    data = contents[: 10 + (_behind_tags(data, 0) if data[:3] == b"ID3" else 0) + HEAD]
    first = first_frame(data)
    if first is None:
        return None
    frame = frame_at(data, first)
    assert frame is not None
    declared = _declared_at(data, first, frame)
    if declared is not None and abs(len(contents) - first - declared.bytes) <= SLACK:
        behind = contents[first + declared.bytes :]
        if not any(_is_frame(behind, at) for at in range(_behind_tags(behind, 0), len(behind))):
            return None  # tags, or a little less than it declares
    data = contents[:]
    scanned = scan(data)
    if scanned is None or not scanned.frames:
        return None
    if len(scanned.sample_rates) > 1:
        rates = " and ".join(map(str, sorted(scanned.sample_rates)))
        raise ValueError(f"MP3 with frames of {rates} Hz; encode it anew with one")
    if declared is not None and scanned.frames <= declared.frames:
        return None  # it lacks what it declares, or tags stand behind it
    return Repair(_header(data, first, scanned.frames, len(data) - scanned.start), scanned.start)


class Declared(NamedTuple):
    frames: int
    bytes: int


def _declared_at(data: bytes, position: int, frame: Frame) -> Declared | None:
    """What the Xing, Info or VBRI header in a frame declares."""
    at = position + 4 + frame.side
    if data[at : at + 4] in (b"Xing", b"Info"):
        flags = int.from_bytes(data[at + 4 : at + 8], "big")
        values = iter(struct.unpack(">II", data[at + 8 : at + 16].ljust(8, b"\0")))
        frames = next(values) if flags & 1 else 0
        return Declared(frames, next(values) if flags & 2 else 0)
    at = position + 36
    if data[at : at + 4] == b"VBRI":
        size, frames = struct.unpack(">II", data[at + 10 : at + 18].ljust(8, b"\0"))
        return Declared(frames, size)
    return None


def _header(data: bytes, first: int, frames: int, size: int) -> bytes:
    """A frame of silence with a Xing header."""
    fixed = bytearray(data[first : first + 4])
    fixed[1] |= 1  # no checksum
    fixed[2] = fixed[2] & 0x0D | 9 << 4  # 128 or 80 kbit/s, not padded
    frame = frame_at(bytes(fixed), 0)
    assert frame is not None
    declared = b"Xing" + struct.pack(">III", 3, frames, size + frame.length)
    return (bytes(fixed) + bytes(frame.side) + declared).ljust(frame.length, b"\0")


def _frames(data: bytes, position: int) -> Iterator[Frame]:
    while position < len(data):
        frame = frame_at(data, position)
        if frame is not None:
            if position + frame.length > len(data):
                return
            yield frame
            position += frame.length
            continue
        behind = _behind_tags(data, position)
        if behind == position:
            behind = next((at for at in range(position + 1, len(data)) if _is_frame(data, at)), len(data))
        position = behind


def _is_frame(data: bytes, position: int) -> bool:
    """Whether a frame begins there, and another one, a tag or the end follows it."""
    frame = frame_at(data, position)
    if frame is None:
        return False
    behind = position + frame.length
    return behind >= len(data) or frame_at(data, behind) is not None or _behind_tags(data, behind) > behind


def _behind_tags(data: bytes, position: int) -> int:
    """The first byte behind the ID3 (1 and 2) and APE tags that begin there."""
    while True:
        head = data[position : position + 32]
        if head[:3] == b"ID3" and len(head) >= 10:
            position += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        elif head[:3] == b"TAG":
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) >= 24:
            position += int.from_bytes(head[12:16], "little") + (32 if head[23] & 0x20 else 0)
        else:
            return position
