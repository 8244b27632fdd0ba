"""Sound behind the length that a file's header declares, which libsndfile leaves unread and says nothing: a recorder was
switched off before it wrote its header again. No torch here.
"""

import io
import mmap
import re
from pathlib import Path

import soundfile

from datamodules.sound_files import Part, Sound, read_part

LENGTH = slice(18, 26)  # bytes of a FLAC, the last 36 bits of which are its samples (RFC 9639, 8.2)
ANY_LENGTH = (1 << 36) - 1
BEHIND = re.compile(r"Unknown chunk marker(?: \(\w+\))? at position (\w+)\. (?:Exiting|Resynching)")  # libsndfile's log


def goes_on(path: Path, sound: Sound, size: int, tolerance: float) -> bool:
    """Whether a FLAC, WAV or AIFF of `size` bytes goes on for more than `tolerance` seconds behind what its header
    declares. Of a WAV or AIFF that is bytes which are no chunk; of other formats False.
    """
    part = Part.parse(path)
    if part.samples:
        return False
    if sound.file.format == "FLAC":
        if not part.is_whole_file:
            return _has_more(bytearray(read_part(part)), sound.num_samples)
        with part.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
            return _has_more(data, sound.num_samples)
    behind = BEHIND.search(sound.notes)
    if behind is None or not sound.num_samples:
        return False
    position = int(behind[1], 0)
    return (size - position) / position * sound.num_samples > tolerance * sound.sample_rate


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
