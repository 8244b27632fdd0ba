"""Sound that libsndfile does not read, as of videos: through torchcodec (FFmpeg), where it is installed.

A file is decoded whole, and the last one is kept: windows of one recording are read one after another.
"""

import importlib.util
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np  # the names of containers are known to `stage --help`, which imports nothing heavy

CONTAINERS = (
    ".m4a",
    ".mp4",
    ".aac",
    ".webm",
    ".mkv",
    ".mka",
    ".mov",
    ".wma",
    ".avi",
    ".3gp",
    ".oga",
    ".ac3",
    ".ape",
    ".wv",
)
INSTALL = "pip install 'make-some-noise[containers]'; torchcodec needs FFmpeg's libraries, 4 to 8"


class Decoded(NamedTuple):
    wave: "np.ndarray"  # (T, C) float32
    sample_rate: int  # Hz


class DecodedFile:
    """What soundfile.SoundFile is of other files, as far as it is used here."""

    format = "CONTAINER"

    def __init__(self, decoded: Decoded) -> None:
        self.wave, self.samplerate = decoded
        self.frames, self.channels = self.wave.shape
        self.position = 0

    def seek(self, sample: int) -> None:
        self.position = sample

    def read(self, count: int, dtype: str, always_2d: bool) -> "np.ndarray":
        block = self.wave[self.position : self.position + count]
        self.position += len(block)
        return block

    def close(self) -> None:
        pass


def is_installed() -> bool:
    return importlib.util.find_spec("torchcodec") is not None


def open_container(source: Path | io.BytesIO) -> DecodedFile:
    """Raises ValueError where torchcodec is missing or cannot load FFmpeg, RuntimeError where it cannot decode."""
    if isinstance(source, Path):
        stat = source.stat()
        return DecodedFile(_decoded_file(source, stat.st_mtime_ns, stat.st_size))
    return DecodedFile(_decode(source.getvalue()))


@lru_cache(maxsize=1)
def _decoded_file(path: Path, time: int, size: int) -> Decoded:
    return _decode(str(path))


def _decode(source: str | bytes) -> Decoded:
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(f"read by torchcodec alone, which cannot be imported; {INSTALL}") from error
    samples = AudioDecoder(source).get_all_samples()
    return Decoded(samples.data.T.contiguous().numpy(), int(samples.sample_rate))
