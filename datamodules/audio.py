"""Recordings as waveform at the codec's rate and channels: whole, in part, or in windows, which is what the frozen
VAE takes.

Any rate is resampled. Windows are those of the whole recording resampled: one that is resampled by itself would
differ at its edges. Mono is doubled for a stereo codec, stereo is averaged for a mono one, and 3 to
5.1 channels are mixed down to stereo before. Nothing is dropped, and
nothing padded. Of hours of sound only the windows that are asked for are read.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from datamodules.corpora.inspect import DURATION_TOLERANCE
from datamodules.cuts import Cut, Recording
from datamodules.errors import DataError
from datamodules.sound_files import UNREADABLE, Sound
from datamodules.windows import WindowRule

HALF = 0.5**0.5  # -3 dB
DOWNMIX = {  # channels of a wav, flac or aiff -> weights of left and right by ITU-R BS.775-4, annex 4; LFE is not mixed
    3: [[1.0, 0.0, HALF], [0.0, 1.0, HALF]],  # left, right, centre
    4: [[1.0, 0.0, HALF, 0.0], [0.0, 1.0, 0.0, HALF]],  # left, right, and both behind
    5: [[1.0, 0.0, HALF, HALF, 0.0], [0.0, 1.0, HALF, 0.0, HALF]],  # left, right, centre, and both behind
    6: [[1.0, 0.0, HALF, 0.0, HALF, 0.0], [0.0, 1.0, HALF, 0.0, 0.0, HALF]],  # 5.1
}
LARGEST_KERNEL = 1 << 20  # entries of a resampling filter; 44099 to 44100 Hz would need 2 x 10^9


def load_windows(
    cut: Cut,
    root: Path,
    sample_rate: int,
    channels: int,
    rule: WindowRule,
    hop_length: int,
    first: int = 0,
    count: int | None = None,
) -> list[Tensor]:
    """`count` windows of a recording from the `first` on, all by default, whatever its rate and length: (C, T) each.

    Only their part of the file is read, with what the resampling filter reaches of its surroundings; the whole where
    `readable_in_parts` says no. Raises DataError as `load_sound` does.
    """
    recording = cut.recording
    rate, length = recording.sampling_rate, recording.num_samples
    whole, total = rule.frames * hop_length, resampled_length(length, rate, sample_rate)
    start, windows = first * whole, rule.num_windows(-(-total // hop_length))
    stop = total if count is None or first + count >= windows else start + count * whole

    def read(begin: int, end: int) -> Tensor:
        return _read(root, recording, begin, end, channels)

    sound = resample_part(read, length, rate, sample_rate, start, stop)
    return _split(sound, channels, whole, (windows if count is None else min(windows, first + count)) - first)


def load_sound(
    cut: Cut, root: Path, sample_rate: int, channels: int, first: int = 0, count: int | None = None
) -> Tensor:
    """A recording, or `count` samples of it from the `first` on (at its own rate), as (C, T) at sample_rate (Hz); mono
    stays one channel.

    A part is resampled by itself: within a filter's width of its edges it differs from the same part of the whole.
    Raises DataError for a recording that cannot be read, holds samples that are not finite, is shorter or longer than
    its manifest says, or has neither one nor two channels nor those of the codec.
    """
    recording = cut.recording
    end = recording.num_samples if count is None else first + count
    return resample(_read(root, recording, first, end, channels), recording.sampling_rate, sample_rate)


def split_windows(
    sound: Tensor, rate: int, sample_rate: int, channels: int, rule: WindowRule, hop_length: int, name: str
) -> list[Tensor]:
    """A sound (C, T) at `rate` Hz in memory -> all of its windows (C, T') at sample_rate; `name` stands in errors."""
    sound = resample(_with_channels(sound, channels, name), rate, sample_rate)
    return _split(sound, channels, rule.frames * hop_length, rule.num_windows(-(-sound.shape[1] // hop_length)))


def resampled_length(length: int, rate: int, new_rate: int) -> int:
    """Samples at `new_rate` Hz of a sound of `length` samples at `rate` Hz, rounded up."""
    return -(-length * new_rate // rate)


def readable_in_parts(rate: int, new_rate: int) -> bool:
    """Whether the resampling filter is short; where two rates have little in common, a part needs the whole."""
    common = math.gcd(rate, new_rate)
    return rate == new_rate or (rate // common) * (new_rate // common) <= LARGEST_KERNEL


def resample_part(
    read: Callable[[int, int], Tensor], length: int, rate: int, new_rate: int, start: int, stop: int
) -> Tensor:
    """Samples `start` to `stop` (C, stop - start) at `new_rate` Hz of a sound of `length` samples at `rate` Hz, of
    which read(begin, end) gives (C, end - begin).

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


def _split(sound: Tensor, channels: int, window_samples: int, count: int) -> list[Tensor]:
    """A sound (1 or channels, T) in `count` windows of window_samples; the last one has the rest, more or less."""
    edges = [number * window_samples for number in range(count)] + [sound.shape[1]]
    return [sound[:, begin:end].expand(channels, -1) for begin, end in pairwise(edges)]


def _read(root: Path, recording: Recording, begin: int, end: int, channels: int) -> Tensor:
    """Samples begin to end of a file (C, end - begin) float32. Raises DataError where it is not what was prepared."""
    path = root / recording.sources[0].source
    tolerance = round(DURATION_TOLERANCE * recording.sampling_rate)
    try:
        with Sound(path) as file:
            if file.sample_rate != recording.sampling_rate or abs(file.num_samples - recording.num_samples) > tolerance:
                raise _changed(path, recording)
            file.seek(begin)
            sound = torch.from_numpy(file.read(end - begin).T)
    except UNREADABLE as error:
        raise _changed(path, recording) from error
    missing = end - begin - sound.shape[1]
    if missing > tolerance:
        raise _changed(path, recording)
    if not sound.isfinite().all():
        raise DataError(f"{path}: NaN or infinite samples. Prepare its corpus again")
    return _with_channels(torch.nn.functional.pad(sound, (0, missing)), channels, str(path))


def _changed(path: Path, recording: Recording) -> DataError:
    return DataError(
        f"{path} cannot be read as the {recording.duration:.2f} s that were prepared: it is gone, broken or another "
        "sound by now. Prepare its corpus again"
    )


def _with_channels(sound: Tensor, channels: int, path: str) -> Tensor:
    """(C, T): averaged for a mono codec; a mono sound stays one channel, to be expanded when all else is done."""
    if len(sound) in (1, channels):
        return sound
    if len(sound) in DOWNMIX:
        sound = torch.tensor(DOWNMIX[len(sound)]) @ sound
        return sound if channels == 2 else _with_channels(sound, channels, path)
    if channels == 1 and len(sound) == 2:
        return sound.mean(0, keepdim=True)
    raise DataError(
        f"{path} has {len(sound)} channels; the codec takes {channels}, and mono and stereo are turned into it"
    )


@lru_cache(maxsize=16)
def _sinc(rate: int, new_rate: int) -> Resample:
    """The resampler with its filter, which takes longer to make than to use."""
    return Resample(rate, new_rate)
