"""Recordings as windows of waveform: what the frozen VAE is given.

Any rate is resampled (the whole recording, then cut: a window resampled by itself differs at its edges), mono is
doubled for a stereo codec, stereo is averaged for a mono one. The last window is padded with zeros and its valid length
kept; nothing is dropped.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchaudio.transforms import Resample

from datamodules.chunks import Chunk
from datamodules.corpora.folder import hold_durations

LARGEST_KERNEL = 1 << 20  # entries of a resampling filter; 44099 to 44100 Hz would need 2 x 10^9


class Windows(NamedTuple):
    """All of one recording."""

    waveform: Tensor  # (W, C, T) float32
    num_samples: Tensor  # (W) long; zeros beyond


class AudioBatch(NamedTuple):
    """Windows of one chunk. A recording's windows come in their order, in one batch or in several."""

    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long; zeros beyond
    cut_ids: list[str]  # (B): which recording a window is of
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


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


class ChunkedWindows(IterableDataset):
    """Batches of at most `batch_size` windows, chunk after chunk, none across two chunks.

    With W workers, worker w reads every W-th chunk, and the workers' batches alternate.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        roots: dict[str, Path],
        sample_rate: int,
        channels: int,
        window_samples: int,
        batch_size: int,
    ) -> None:
        """roots: corpus -> absolute folder that its recordings' paths are relative to; sample_rate in Hz."""
        self.chunks, self.roots, self.batch_size = chunks, roots, batch_size
        self.sample_rate, self.channels, self.window_samples = sample_rate, channels, window_samples

    def of(self, chunks: Sequence[Chunk]) -> "ChunkedWindows":
        """The same windows of other chunks."""
        return ChunkedWindows(chunks, self.roots, self.sample_rate, self.channels, self.window_samples, self.batch_size)

    def __iter__(self) -> Iterator[AudioBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.chunks), step):
            yield from self._batches(number)

    def _batches(self, number: int) -> Iterator[AudioBatch]:
        rows: list[tuple[Tensor, Tensor, str]] = []
        for cut in self.chunks[number].cuts:
            root = self.roots[cut.custom["corpus"]]
            for window, samples in zip(
                *load_windows(cut, root, self.sample_rate, self.channels, self.window_samples), strict=True
            ):
                if len(rows) == self.batch_size:
                    yield _batch(rows, number, closes=False)
                    rows = []
                rows.append((window, samples, cut.id))
        yield _batch(rows, number, closes=True)


class AudioDataModule(L.LightningDataModule):
    """The pending chunks in `dataset`, rank r taking every world-th."""

    def __init__(self, dataset: ChunkedWindows, num_workers: int) -> None:
        super().__init__()
        self.dataset, self.num_workers = dataset, num_workers

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = self.dataset.of(self.dataset.chunks[rank::world])
        return DataLoader(mine, batch_size=None, num_workers=min(self.num_workers, len(mine.chunks)))


def _batch(rows: list[tuple[Tensor, Tensor, str]], number: int, closes: bool) -> AudioBatch:
    windows, samples, ids = zip(*rows, strict=True)
    return AudioBatch(torch.stack(windows), torch.stack(samples), list(ids), number, closes)


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
