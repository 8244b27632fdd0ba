"""Batches of waveform windows, chunk after chunk: what the stage `latents` reads.

Beside audio.py and not in it: reading a sound needs no Lightning, which takes seconds to import.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.audio import load_windows
from datamodules.chunks import Chunk
from datamodules.sampler import heedless


class AudioBatch(NamedTuple):
    """Windows of one chunk. A recording's windows come in their order, in one batch or in several."""

    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long; zeros beyond
    cut_ids: list[str]  # (B): which recording a window is of
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


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
        return DataLoader(
            mine, batch_size=None, num_workers=min(self.num_workers, len(mine.chunks)), worker_init_fn=heedless
        )


def _batch(rows: list[tuple[Tensor, Tensor, str]], number: int, closes: bool) -> AudioBatch:
    windows, samples, ids = zip(*rows, strict=True)
    return AudioBatch(torch.stack(windows), torch.stack(samples), list(ids), number, closes)
