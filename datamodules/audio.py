"""Recordings as windows of waveform: what the frozen VAE is given.

Any rate is resampled (the whole recording, then cut: a window resampled by itself differs at its edges), mono is
doubled for a stereo codec, stereo is averaged for a mono one. The last window is padded with zeros and its valid length
kept; nothing is dropped.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.corpora.writer import hold_durations

LARGEST_KERNEL = 1 << 20  # entries of a resampling filter; 44099 to 44100 Hz would need 2 x 10^9


class Windows(NamedTuple):
    """All of one recording."""

    waveform: Tensor  # (W, C, T) float32
    num_samples: Tensor  # (W) long; zeros beyond


def load_windows(cut: Any, root: Path, sample_rate: int, channels: int, window_samples: int) -> Windows:
    """All windows of a recording, one or more, whatever its rate and length. Raises ValueError as `load_sound` does."""
    return _split(load_sound(cut, root, sample_rate, channels), channels, window_samples)


def split_windows(sound: Tensor, rate: int, sample_rate: int, channels: int, window_samples: int, name: str) -> Windows:
    """The same of a sound (C, T) at `rate` Hz that is in memory; `name` stands in errors."""
    return _split(resample(_with_channels(sound, channels, name), rate, sample_rate), channels, window_samples)


def _split(sound: Tensor, channels: int, window_samples: int) -> Windows:
    length = sound.shape[1]
    count = max(1, -(-length // window_samples))
    padded = torch.nn.functional.pad(sound, (0, count * window_samples - length))
    num_samples = torch.full((count,), window_samples)
    num_samples[-1] = length - (count - 1) * window_samples
    waveform = padded.view(len(padded), count, window_samples).transpose(0, 1)
    return Windows(waveform.expand(count, channels, window_samples), num_samples)


def load_sound(
    cut: Any, root: Path, sample_rate: int, channels: int, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """A recording, or a part of it from `start` on (both in seconds), as (C, T) at sample_rate; mono stays one channel.

    A part is resampled by itself: within a filter's width of its edges it differs from the same part of the whole.
    Raises ValueError for a recording that cannot be read, holds samples that are not finite, is shorter than its
    manifest says, or has neither one nor two channels nor those of the codec.
    """
    hold_durations()
    recording = cut.recording.with_path_prefix(root)
    path = recording.sources[0].source
    try:
        sound = torch.from_numpy(recording.load_audio(offset=start, duration=duration))
    except (AudioLoadingError, DurationMismatchError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as the {recording.duration:.2f} s that were prepared: it is gone, broken or another "
            "sound by now. Prepare its corpus again"
        ) from error
    if not sound.isfinite().all():
        raise ValueError(f"{path}: NaN or infinite samples. Prepare its corpus again")
    return resample(_with_channels(sound, channels, path), recording.sampling_rate, sample_rate)


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """(C, T) at `rate` Hz -> (C, ceil(T new_rate / rate)) at `new_rate` Hz.

    A windowed sinc, or, where the two rates have so little in common that its filter would be huge, the Fourier
    transform of the whole.
    """
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    before, after = rate // common, new_rate // common
    if before * after <= LARGEST_KERNEL:
        return _sinc(rate, new_rate)(waveform)
    blocks = waveform.shape[1] // before + 2  # a whole number of periods, with silence between end and beginning
    spectrum = torch.fft.rfft(waveform, n=blocks * before)
    longer = torch.fft.irfft(spectrum[:, : blocks * after // 2 + 1], n=blocks * after) * (after / before)
    return longer[:, : -(-waveform.shape[1] * after // before)]


def _with_channels(sound: Tensor, channels: int, path: str) -> Tensor:
    """(C, T): averaged for a mono codec; a mono sound stays one channel, to be expanded when all else is done."""
    if len(sound) in (1, channels):
        return sound
    if channels == 1 and len(sound) == 2:
        return sound.mean(0, keepdim=True)
    raise ValueError(
        f"{path} has {len(sound)} channels; the codec takes {channels}, and mono and stereo are turned into it"
    )


@lru_cache(maxsize=16)
def _sinc(rate: int, new_rate: int) -> Resample:
    """With its filter, which takes longer to make than to use."""
    return Resample(rate, new_rate)
