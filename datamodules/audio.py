"""Recordings as windows of waveform: what the frozen VAE is given.

Any rate is resampled (windows are those of the whole recording resampled: one resampled by itself would differ at its
edges), mono is doubled for a stereo codec, stereo is averaged for a mono one. The last window is padded with zeros and
its valid length kept; nothing is dropped. Of hours of sound only the windows that are asked for are read.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.corpora.inspect import DURATION_TOLERANCE
from datamodules.corpora.writer import hold_durations
from datamodules.errors import DataError

LARGEST_KERNEL = 1 << 20  # entries of a resampling filter; 44099 to 44100 Hz would need 2 x 10^9


class RecordingWindows(NamedTuple):
    """All of one recording."""

    waveform: Tensor  # (W, C, T) float32
    num_samples: Tensor  # (W) long; zeros beyond


def load_windows(
    cut: Any,
    root: Path,
    sample_rate: int,
    channels: int,
    window_samples: int,
    first: int = 0,
    count: int | None = None,
) -> RecordingWindows:
    """`count` windows of a recording from the `first` on, all by default, whatever its rate and length.

    Only their part of the file is read, with what the resampling filter reaches of its surroundings; the whole where
    `readable_in_parts` says no. Raises DataError as `load_sound` does.
    """
    recording = cut.recording
    rate, length = recording.sampling_rate, recording.num_samples
    path = root / recording.sources[0].source
    start, stop = first * window_samples, resampled_length(length, rate, sample_rate)
    stop = stop if count is None else min(stop, start + count * window_samples)

    def read(begin: int, end: int) -> Tensor:
        return _with_channels(_read(path, recording, begin, end), channels, str(path))

    return _split(resample_part(read, length, rate, sample_rate, start, stop), channels, window_samples)


def resampled_length(length: int, rate: int, new_rate: int) -> int:
    return -(-length * new_rate // rate)


def readable_in_parts(rate: int, new_rate: int) -> bool:
    """Whether the resampling filter is short; where two rates have next to nothing in common, a part needs the whole."""
    common = math.gcd(rate, new_rate)
    return rate == new_rate or (rate // common) * (new_rate // common) <= LARGEST_KERNEL


def resample_part(
    read: Callable[[int, int], Tensor], length: int, rate: int, new_rate: int, start: int, stop: int
) -> Tensor:
    """Samples `start` to `stop` (C, stop - start) at `new_rate` Hz of a sound of `length` samples at `rate` Hz, of which
    read(begin, end) gives (C, end - begin).

    Law: resample(read(0, length), rate, new_rate)[:, start:stop], to float rounding, for the filter's reach is finite.
    """
    if rate == new_rate:
        return read(start, stop)
    if not readable_in_parts(rate, new_rate):
        return resample(read(0, length), rate, new_rate)[:, start:stop]
    common = math.gcd(rate, new_rate)
    before, after = rate // common, new_rate // common  # samples in a period
    reach = -(-_sinc(rate, new_rate).width // before)
    first = max(0, start // after - reach)
    part = read(first * before, min(length, (-(-stop // after) + reach) * before))
    return _sinc(rate, new_rate)(part)[:, start - first * after : stop - first * after]


def split_windows(
    sound: Tensor, rate: int, sample_rate: int, channels: int, window_samples: int, name: str
) -> RecordingWindows:
    """The same of a sound (C, T) at `rate` Hz that is in memory; `name` stands in errors."""
    return _split(resample(_with_channels(sound, channels, name), rate, sample_rate), channels, window_samples)


def _split(sound: Tensor, channels: int, window_samples: int) -> RecordingWindows:
    length = sound.shape[1]
    count = max(1, -(-length // window_samples))
    padded = torch.nn.functional.pad(sound, (0, count * window_samples - length))
    num_samples = torch.full((count,), window_samples)
    num_samples[-1] = length - (count - 1) * window_samples
    waveform = padded.view(len(padded), count, window_samples).transpose(0, 1)
    return RecordingWindows(waveform.expand(count, channels, window_samples), num_samples)


def load_sound(
    cut: Any, root: Path, sample_rate: int, channels: int, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """A recording, or a part of it from `start` on (both in seconds), as (C, T) at sample_rate; mono stays one channel.

    A part is resampled by itself: within a filter's width of its edges it differs from the same part of the whole.
    Raises DataError for a recording that cannot be read, holds samples that are not finite, is shorter than its
    manifest says, or has neither one nor two channels nor those of the codec.
    """
    hold_durations()
    recording = cut.recording.with_path_prefix(root)
    path = recording.sources[0].source
    try:
        sound = torch.from_numpy(recording.load_audio(offset=start, duration=duration))
    except (AudioLoadingError, DurationMismatchError, OSError) as error:
        raise _changed(path, recording) from error
    _check_finite(sound, path)
    return resample(_with_channels(sound, channels, path), recording.sampling_rate, sample_rate)


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """(C, T) at `rate` Hz -> (C, ceil(T new_rate / rate)) at `new_rate` Hz.

    A windowed sinc, or, where the two rates have so little in common that its filter would be huge, the Fourier
    transform of the whole.
    """
    if rate == new_rate:
        return waveform
    if readable_in_parts(rate, new_rate):
        return _sinc(rate, new_rate)(waveform)
    common = math.gcd(rate, new_rate)
    before, after = rate // common, new_rate // common
    blocks = waveform.shape[1] // before + 2  # a whole number of periods, with silence between end and beginning
    spectrum = torch.fft.rfft(waveform, n=blocks * before)
    longer = torch.fft.irfft(spectrum[:, : blocks * after // 2 + 1], n=blocks * after) * (after / before)
    return longer[:, : -(-waveform.shape[1] * after // before)]


def _read(path: Path, recording: Any, begin: int, end: int) -> Tensor:
    """Samples begin to end (C, end - begin) of a file. Raises DataError where it is not what was prepared."""
    rounding = round(DURATION_TOLERANCE * recording.sampling_rate)
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != recording.sampling_rate or abs(file.frames - recording.num_samples) > rounding:
                raise _changed(path, recording)
            file.seek(min(begin, file.frames))
            sound = torch.from_numpy(file.read(end - begin, dtype="float32", always_2d=True).T)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise _changed(path, recording) from error
    missing = end - begin - sound.shape[1]
    if missing > rounding:
        raise _changed(path, recording)
    _check_finite(sound, path)
    return torch.nn.functional.pad(sound, (0, missing))


def _changed(path: Path | str, recording: Any) -> DataError:
    return DataError(
        f"{path} cannot be read as the {recording.duration:.2f} s that were prepared: it is gone, broken or another "
        "sound by now. Prepare its corpus again"
    )


def _check_finite(sound: Tensor, path: Path | str) -> None:
    if not sound.isfinite().all():
        raise DataError(f"{path}: NaN or infinite samples. Prepare its corpus again")


def _with_channels(sound: Tensor, channels: int, path: str) -> Tensor:
    """(C, T): averaged for a mono codec; a mono sound stays one channel, to be expanded when all else is done."""
    if len(sound) in (1, channels):
        return sound
    if channels == 1 and len(sound) == 2:
        return sound.mean(0, keepdim=True)
    raise DataError(
        f"{path} has {len(sound)} channels; the codec takes {channels}, and mono and stereo are turned into it"
    )


@lru_cache(maxsize=16)
def _sinc(rate: int, new_rate: int) -> Resample:
    """With its filter, which takes longer to make than to use."""
    return Resample(rate, new_rate)
