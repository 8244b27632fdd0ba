"""Recordings as windows of waveform: what the frozen VAE is given.

Any rate is resampled (the whole recording, then cut: a window resampled by itself differs at its edges), mono is doubled for a stereo codec, stereo is
averaged for a mono one. The last window is padded with zeros and its valid length kept; nothing is dropped.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.chunks import Chunk
from datamodules.corpora.folder import hold_durations


class AudioBatch(NamedTuple):
    """Windows of one chunk. `ends`: cut ids whose last window is in this batch."""

    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long; zeros beyond
    cut_ids: list[str]  # (B): which recording a window is of; a recording's windows come in their order
    chunk: int  # index into the chunks given
    closes_chunk: bool


def load_windows(cut: Any, root: Path, sample_rate: int, channels: int, window_samples: int) -> tuple[Tensor, Tensor]:
    """All windows of a recording: (W, C, window_samples) and their valid samples (W).

    Raises ValueError for samples that are not finite, or sound shorter than the manifest says.
    """
    hold_durations()
    recording = cut.recording.with_path_prefix(root)
    if recording.sampling_rate != sample_rate:
        recording = recording.resample(sample_rate)
    sound = recording.load_audio()
    if not np.isfinite(sound).all():
        raise ValueError(f"{recording.sources[0].source}: NaN or infinite samples")
    sound = sound.mean(0, keepdims=True) if channels == 1 else np.broadcast_to(sound[:channels], (channels, sound.shape[1]))
    count = max(1, -(-sound.shape[1] // window_samples))
    padded = np.zeros((channels, count * window_samples), np.float32)
    padded[:, : sound.shape[1]] = sound
    windows = torch.from_numpy(padded.reshape(channels, count, window_samples).transpose(1, 0, 2).copy())
    valid = torch.full((count,), window_samples)
    valid[-1] = sound.shape[1] - (count - 1) * window_samples
    return windows, valid


class ChunkedWindows(IterableDataset):
    """Batches of at most `batch_size` windows, chunk after chunk, none across two chunks. With W workers, worker w reads every W-th chunk."""

    def __init__(
        self, chunks: Sequence[Chunk], roots: dict[str, Path], sample_rate: int, channels: int, window_samples: int, batch_size: int
    ) -> None:
        self.chunks, self.roots, self.batch_size = chunks, roots, batch_size
        self.sample_rate, self.channels, self.window_samples = sample_rate, channels, window_samples

    def __iter__(self) -> Iterator[AudioBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.chunks), step):
            yield from self._batches(number)

    def _batches(self, number: int) -> Iterator[AudioBatch]:
        rows: list[tuple[Tensor, Tensor, str]] = []
        for cut in self.chunks[number].cuts:
            root = self.roots[cut.custom["corpus"]]
            windows, valid = load_windows(cut, root, self.sample_rate, self.channels, self.window_samples)
            rows += [(window, samples, cut.id) for window, samples in zip(windows, valid, strict=True)]
            while len(rows) > self.batch_size:
                yield _batch(rows[: self.batch_size], number, closes=False)
                rows = rows[self.batch_size :]
        yield _batch(rows, number, closes=True)


class AudioDataModule(L.LightningDataModule):
    """The pending chunks of this rank."""

    def __init__(self, dataset: ChunkedWindows, num_workers: int) -> None:
        super().__init__()
        self.dataset, self.num_workers = dataset, num_workers

    def predict_dataloader(self) -> DataLoader:
        if self.trainer is not None:
            self.dataset.chunks = self.dataset.chunks[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(self.dataset, batch_size=None, num_workers=min(self.num_workers, len(self.dataset.chunks)))


def _batch(rows: list[tuple[Tensor, Tensor, str]], number: int, closes: bool) -> AudioBatch:
    windows, samples, ids = zip(*rows, strict=True)
    return AudioBatch(torch.stack(windows), torch.stack(samples), list(ids), number, closes)
