"""Sound files that a person names on the command line: read as the training data was, written whole or not at all."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
from torch import Tensor

from conf.errors import UsageError
from datamodules.atomic_files import whole_file
from datamodules.audio import load_sound
from datamodules.corpora.inspect import LOUD, SILENCE, inspect

log = logging.getLogger(__name__)
BLOCK = 1 << 18  # samples that are turned down at once


def read(path: Path, sample_rate: int, channels: int) -> Tensor:
    """(C, T) at sample_rate; mono stays one channel. Raises UsageError for a file that is missing, broken or no sound."""
    header = inspect([path], 1)[0]
    if header.reason and not header.reason.startswith("silent"):  # silence can be asked about
        raise UsageError(f"{path}: {header.reason}")
    if channels == 1 and header.mono_peak < min(SILENCE, header.peak):
        log.warning(
            "%s is silent in mono, which is all that the codec takes: its channels are of opposite phase", path.name
        )
    if header.peak > LOUD:
        log.warning(
            "%s has a peak of %.0f, far above 1: floats of integers that were not scaled?", path.name, header.peak
        )
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


class Written(NamedTuple):
    seconds: float
    note: str  # what was done to it


def write(path: Path, pieces: Iterable[Tensor], sample_rate: int) -> Written:
    """The pieces (C, t) of a sound, each as it comes -> the file, 16 bits. A sound above full scale is turned down to it.

    How loud it is is known at the end: until then it lies beside the file in float32, and no more than a piece in memory.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name}.w64")
    try:
        peak = _write_pieces(part, pieces, sample_rate)
        with whole_file(path) as whole, soundfile.SoundFile(part) as sound:
            kind = path.suffix[1:].upper()
            with soundfile.SoundFile(whole, "w", sample_rate, sound.channels, format=kind) as file:
                for block in sound.blocks(BLOCK, dtype="float32", always_2d=True):
                    file.write(block / max(1.0, peak))
            seconds = len(sound) / sample_rate
    finally:
        part.unlink(missing_ok=True)
    return Written(seconds, _turned_down(peak))


def _write_pieces(path: Path, pieces: Iterable[Tensor], sample_rate: int) -> float:
    """-> the largest magnitude."""
    peak, file = 0.0, None
    try:
        for piece in pieces:
            file = file or soundfile.SoundFile(path, "w", sample_rate, len(piece), "FLOAT", format="W64")
            if piece.shape[1]:
                peak = max(peak, float(piece.abs().max()))
                file.write(piece.T.float().cpu().numpy())
                file.flush()
    finally:
        if file is not None:
            file.close()
    return peak


def write_to(file: Path | BinaryIO, sound: Tensor, sample_rate: int, kind: str) -> str:
    """sound (C, T) -> a file of the kind, as "wav", 16 bits. Returns what was done to it, as `write` does it too."""
    peak = float(sound.abs().max())
    wave = (sound / max(1.0, peak)).T.cpu().numpy()
    soundfile.write(file, wave, sample_rate, format=kind.upper())
    return _turned_down(peak)


def _turned_down(peak: float) -> str:
    return f", turned down by {20 * np.log10(peak):.1f} dB to full scale" if peak > 1 else ""


def write_spectrogram(path: Path, sound: Tensor, sample_rate: int) -> None:
    """sound (C, T) -> a PNG of the report's picture with its axes. The sound is drawn as loud as can be."""
    from callbacks import pictures

    mono = sound.mean(0).cpu() / sound.abs().max().cpu().clamp(min=1e-5)
    picture = pictures.with_axes(pictures.spectrogram(mono, sample_rate))
    with whole_file(path) as part:
        picture.save(part, format="PNG")
