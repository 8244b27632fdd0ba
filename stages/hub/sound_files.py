"""Sound files that a person names on the command line: read as the training data was, written whole or not at all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import soundfile
from torch import Tensor

from conf.errors import UsageError
from datamodules.atomic_files import whole_file
from datamodules.audio import load_sound
from datamodules.corpora.inspect import inspect


def read(path: Path, sample_rate: int, channels: int) -> Tensor:
    """(C, T) at sample_rate; mono stays one channel. Raises UsageError for a file that is missing, broken or no sound."""
    header = inspect([path], 1)[0]
    if header.reason and not header.reason.startswith("silent"):  # silence can be asked about
        raise UsageError(f"{path}: {header.reason}")
    # as Lhotse's cut, which takes a moment to import
    recording: Any = SimpleNamespace(
        id=path.stem,
        sources=[SimpleNamespace(source=str(path.absolute()))],
        sampling_rate=header.sample_rate,
        num_samples=header.num_samples,
        duration=header.num_samples / header.sample_rate,
    )
    cut: Any = SimpleNamespace(id=path.stem, recording=recording)
    return load_sound(cut, Path("/"), sample_rate, channels)


def write(path: Path, sound: Tensor, sample_rate: int) -> str:
    """sound (C, T) -> the file, whole or not at all. Returns what was done to it, as `write_to`."""
    with whole_file(path) as part:
        return write_to(part, sound, sample_rate, path.suffix[1:])


def write_to(file: Path | BinaryIO, sound: Tensor, sample_rate: int, kind: str) -> str:
    """sound (C, T) -> a file of the kind, as "wav", 16 bits. Returns what was done to it: a sound above full scale is
    turned down to it.
    """
    peak = float(sound.abs().max())
    wave = (sound / max(1.0, peak)).T.cpu().numpy()
    soundfile.write(file, wave, sample_rate, format=kind.upper())
    return f", turned down by {20 * np.log10(peak):.1f} dB to full scale" if peak > 1 else ""


def write_spectrogram(path: Path, sound: Tensor, sample_rate: int) -> None:
    """sound (C, T) -> a PNG of the report's picture, its rows four times as high. The sound is drawn as loud as can be."""
    from PIL import Image

    from callbacks import spectrogram_image

    drawn = spectrogram_image.image(sound.mean(0).cpu() / sound.abs().max().cpu().clamp(min=1e-5), sample_rate)
    picture = drawn.resize((drawn.width, 4 * drawn.height), Image.Resampling.NEAREST)
    with whole_file(path) as part:
        picture.save(part, format="PNG")
