"""What a file's header declares beside what is there: libsndfile leaves sound behind the declared length unread, and takes
a file that was cut off for whole, and says nothing of either. No torch here.
"""

import io
import mmap
from pathlib import Path
from typing import NamedTuple

import soundfile

from datamodules.sound_files import Contents, Part, Sound

LENGTH = slice(18, 26)  # bytes of a FLAC, the last 36 bits of which are its samples (RFC 9639, 8.2)
ANY_LENGTH = (1 << 36) - 1
UNKNOWN_SIZE = 0x7FFFF000  # bytes; a WAV written to a pipe declares 2 or 4 GiB
OGG_PAGE = 65_307  # bytes at most


class Layout(NamedTuple):
    """How the chunks of a kind of file lie."""

    first: int  # byte of the first one
    id: int  # bytes of a name, and of a size
    size: int
    order: str  # of the bytes of a size
    aligned: int  # a chunk begins at a multiple of so many bytes
    sound: bytes  # the name of the chunk of the sound
    skipped: int = 0  # bytes of it before the sound


WAV = Layout(12, 4, 4, "little", 2, b"data")
LAYOUTS = {
    b"RIFF": WAV,
    b"RF64": WAV,
    b"BW64": WAV,
    b"RIFX": WAV._replace(order="big"),
    b"FORM": Layout(12, 4, 4, "big", 2, b"SSND", 8),
    b"caff": Layout(8, 4, 8, "big", 1, b"data", 4),
    b"riff": Layout(40, 16, 8, "little", 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),  # Wave64
}


class SoundBytes(NamedTuple):
    """Where the sound of a file lies, as its header declares it."""

    start: int
    size: int
    aligned: int  # 0: nothing comes behind it

    @property
    def end(self) -> int:
        return self.start + self.size


def missing(data: Contents) -> str | None:
    """What a WAV, AIFF, CAF, AU or Ogg declares and lacks. None if whole, and of other files.

    The sound counts, not what follows it; of an Ogg the last page must be whole (RFC 3533).
    """
    declared = sound_bytes(data)
    if declared is not None and declared.end > len(data):
        return f"{declared.end - len(data)} bytes are missing"
    if data[:4] != b"OggS":
        return None
    end = data[max(0, len(data) - 2 * OGG_PAGE) :]
    page = end[end.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 255
    length = 27 + segments + sum(page[27 : 27 + segments])
    return "its last page is cut off" if len(page) < length else None


def goes_on(path: Path, data: Contents, sound: Sound, tolerance: float) -> bool:
    """Whether a FLAC, WAV, AIFF, CAF or AU goes on for more than `tolerance` seconds behind what its header declares: with
    bytes that are no chunk, and not all zero. Of other formats False.
    """
    if data[:4] == b"fLaC":
        part = Part.parse(path)
        if not part.is_whole_file:
            return _has_more(bytearray(data), sound.num_samples)
        with part.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as copy:
            return _has_more(copy, sound.num_samples)
    declared = sound_bytes(data)
    if declared is None or data[:4] == b"riff" or _is_chunk(data, declared):  # a Wave64 is read to its end
        return False
    behind = len(data[declared.end :].rstrip(b"\0"))
    if not sound.num_samples:
        return behind > 0
    return behind / declared.size * sound.num_samples > tolerance * sound.sample_rate


def sound_bytes(data: Contents) -> SoundBytes | None:
    """None where the header does not say it, and of other kinds of files."""
    kind = bytes(data[:4])
    if kind in (b".snd", b"dns."):
        start, size = (_number(data[at : at + 4], "big" if kind == b".snd" else "little") for at in (4, 8))
        return None if size >= UNKNOWN_SIZE else SoundBytes(start, size, 0)
    layout = LAYOUTS.get(kind)
    if layout is None or (layout.first == WAV.first and data[8:12] not in (b"WAVE", b"AIFF", b"AIFC")):
        return None
    at, long_size = layout.first, 0
    while at + layout.id + layout.size <= len(data):
        name, start = data[at : at + layout.id], at + layout.id + layout.size
        size = _number(data[at + layout.id : start], layout.order)
        if kind == b"riff":
            size -= layout.id + layout.size
        if name == b"ds64":
            long_size = _number(data[start + 8 : start + 16], layout.order)
        if name == layout.sound:
            size = long_size if kind in (b"RF64", b"BW64") and size == 0xFFFFFFFF else size
            unknown = UNKNOWN_SIZE if layout.size == 4 and not long_size else 1 << 62
            if size >= unknown or size < layout.skipped:
                return None
            return SoundBytes(start + layout.skipped, size - layout.skipped, layout.aligned)
        at = start + size
        at += -at % layout.aligned
    return None


def _is_chunk(data: Contents, declared: SoundBytes) -> bool:
    """Whether a chunk begins behind the sound: its name is four printable letters."""
    if not declared.aligned:
        return False
    padded = declared.end + -declared.end % declared.aligned
    return any(all(32 <= byte < 127 for byte in data[at : at + 4]) for at in {declared.end, padded})


def _number(digits: bytes, order: str) -> int:
    return int.from_bytes(digits, "big" if order == "big" else "little")


def _has_more(data: "bytearray | mmap.mmap", num_samples: int) -> bool:
    """Whether a FLAC has a sample behind the first `num_samples`. data: its bytes, of which the length is changed."""
    declared = int.from_bytes(data[LENGTH], "big") | ANY_LENGTH
    data[LENGTH] = declared.to_bytes(8, "big")
    try:
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(data, bytearray) else data) as file:
            file.seek(num_samples)
            return len(file.read(1)) > 0
    except soundfile.SoundFileError:  # nothing is there to seek
        return False
