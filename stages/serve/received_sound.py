"""A sound that came over the network: bytes of a file, read as a clip of `stage ask` is, within limits.

What its header says is looked at before anything is decoded: an hour of silence is a small file.
"""

import base64
import binascii
import tempfile
from pathlib import Path

from torch import Tensor

from conf.errors import UsageError
from conf.sections.serving import ServeConf
from datamodules.corpora.inspect import AudioHeader, declared
from datamodules.errors import DataError
from stages.hub import sound_files
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.serve.errors import RefusedRequest

RATES = (1000, 192_000)  # Hz; resampling from any other takes much memory
CHANNELS = 8  # 5.1, and what `inspect` refuses by a sentence of its own


def from_base64(text: str, tokenizer: SoundTokenizer, limits: ServeConf) -> Tensor:
    """(C, T) at the tokenizer's rate. Raises RefusedRequest."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedRequest(400, f"input_audio.data is no base64 of a sound file: {text[:40]!r}") from None
    return from_bytes(data, tokenizer, limits)


def from_bytes(data: bytes, tokenizer: SoundTokenizer, limits: ServeConf) -> Tensor:
    """(C, T) at the tokenizer's rate. Raises RefusedRequest. The file that it is written to is removed."""
    if not data:
        raise RefusedRequest(400, "the sound is empty: 0 bytes")
    with tempfile.NamedTemporaryFile(prefix="stage-serve-") as file:
        file.write(data)
        file.flush()
        return read(Path(file.name), tokenizer, limits)


def read(path: Path, tokenizer: SoundTokenizer, limits: ServeConf) -> Tensor:
    """A file that the server itself has written."""
    (header,) = declared([path], 1)
    if header is not None:  # else `sound_files.read` says why
        _check(header, limits)
    try:
        return sound_files.read(path, tokenizer.sample_rate, tokenizer.channels)
    except (UsageError, DataError) as error:
        reason = str(error).replace(str(path), "the sound")
        raise RefusedRequest(400, f"{reason}; whole files of wav, flac, mp3 and ogg are read") from None


def _check(header: AudioHeader, limits: ServeConf) -> None:
    if not RATES[0] <= header.sample_rate <= RATES[1]:
        raise RefusedRequest(400, f"the sound has {header.sample_rate} Hz; {RATES[0]} to {RATES[1]} are allowed")
    if not 1 <= header.num_channels <= CHANNELS:
        raise RefusedRequest(400, f"the sound has {header.num_channels} channels; 1 to 6 are read")
    seconds = header.num_samples / header.sample_rate
    if seconds > limits.seconds_max:
        raise RefusedRequest(413, f"the sound is {seconds:.1f} s long; {limits.seconds_max:g} s are allowed")
