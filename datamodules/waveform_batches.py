"""Batches of waveform windows, chunk after chunk: what the stage `latents` reads.

Which windows share a batch hangs on the chunk alone, so that a cache's bytes do not hang on workers, ranks or kills:

    a chunk's recordings, those with a like rest together        |====|====|=|   |====|==|   |==|   |===| ...
    a batch                                                      whole (B, C, T): ====  ====  ====
                                                                 rests (B, C, T'): =     ==  ==     ===, those within PADDING of their longest together

Beside audio.py and not in it: reading a sound needs no Lightning, which takes seconds to import.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import load_windows, readable_in_parts, resampled_length
from datamodules.sampler import heedless
from datamodules.store.chunks import Chunk
from datamodules.store.overlap import ReadAhead
from datamodules.store.pending import PendingChunks

PADDING = (0.5, 1 / 8)  # a rest is padded by at most so many seconds, or so much of the longest beside it


class WindowFormat(NamedTuple):
    """The windows of a codec."""

    sample_rate: int  # Hz
    channels: int
    hop_length: int  # samples
    window_frames: int
    context_frames: int  # zeros after a rest that its last frame may see

    @property
    def window_samples(self) -> int:
        return self.window_frames * self.hop_length


class WindowSpan(NamedTuple):
    """Windows of a recording, one after another."""

    cut: Any
    first: int
    count: int
    rest: int  # samples of the last one where it is no whole window, else 0


class PlannedBatch(NamedTuple):
    """A batch, before anything is read."""

    spans: list[WindowSpan]
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


class WindowGroup(NamedTuple):
    """Of one chunk and alike in length."""

    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long; zeros beyond
    cut_ids: list[str]  # (B): which recording a window is of


class WaveformBatch(NamedTuple):
    """A recording's windows come in their order, within a batch and from batch to batch."""

    groups: list[WindowGroup]
    chunk: int
    closes_chunk: bool


def plan_batches(chunks: Sequence[Chunk], grid: WindowFormat, batch_size: int) -> Iterator[PlannedBatch]:
    """Chunk after chunk, none across two: up to `batch_size` whole windows and as many rests a batch, and no recording in
    two batches that fits in one.
    """
    for number, chunk in enumerate(chunks):
        recordings = [recording_spans(cut, grid, batch_size) for cut in chunk.recordings]
        recordings.sort(key=lambda found: found[-1].rest)
        batches: list[list[WindowSpan]] = [[]]
        whole = rests = 0
        for span in (span for found in recordings for span in found):
            more, rest = span.count - bool(span.rest), bool(span.rest)
            if batches[-1] and (whole + more > batch_size or rests + rest > batch_size):
                batches.append([])
                whole = rests = 0
            batches[-1].append(span)
            whole, rests = whole + more, rests + rest
        for held in batches:
            yield PlannedBatch(held, number, held is batches[-1])


def recording_spans(cut: Any, grid: WindowFormat, batch_size: int) -> list[WindowSpan]:
    """All of a recording: one span, or where it is long one for every `batch_size` windows, each read by itself."""
    recording = cut.recording
    length = resampled_length(recording.num_samples, recording.sampling_rate, grid.sample_rate)
    whole, rest = divmod(length, grid.window_samples)
    count = whole + bool(rest)
    step = batch_size if readable_in_parts(recording.sampling_rate, grid.sample_rate) else count
    return [
        WindowSpan(cut, first, min(step, count - first), rest if first + step >= count else 0)
        for first in range(0, count, step)
    ]


class WaveformReader(Dataset):
    """A planned batch, read."""

    def __init__(self, roots: dict[str, Path], grid: WindowFormat, batch_size: int) -> None:
        """roots: corpus -> absolute folder that its recordings' paths are relative to."""
        self.roots, self.grid, self.batch_size = roots, grid, batch_size

    def __getitem__(self, planned: PlannedBatch) -> WaveformBatch:
        rows = [row for span in planned.spans for row in self.windows(span)]
        whole = [row for row in rows if row[1] == self.grid.window_samples]
        rests = [row for row in rows if row[1] < self.grid.window_samples]
        parts = [whole[start : start + self.batch_size] for start in range(0, len(whole), self.batch_size)]
        parts += self.alike(rests)
        return WaveformBatch([self.stack(part) for part in parts], planned.chunk, planned.closes_chunk)

    def alike(self, rests: list[tuple[Tensor, int, str]]) -> list[list[tuple[Tensor, int, str]]]:
        """Rests, the shorter first, in groups that need little padding: it costs an Oobleck as much as sound."""
        seconds, share = PADDING
        groups: list[list[tuple[Tensor, int, str]]] = []
        for row in reversed(rests):
            longest = groups[-1][0][1] if groups else 0
            if longest - row[1] <= max(seconds * self.grid.sample_rate, share * longest) and groups:
                groups[-1].append(row)
            else:
                groups.append([row])
        return [group[::-1] for group in reversed(groups)]

    def windows(self, span: WindowSpan) -> list[tuple[Tensor, int, str]]:
        """(C, T), its valid samples, and the cut's id."""
        grid, root = self.grid, self.roots[span.cut.custom["corpus"]]
        waveform, num_samples = load_windows(
            span.cut, root, grid.sample_rate, grid.channels, grid.window_samples, span.first, span.count
        )
        return [(window, samples, span.cut.id) for window, samples in zip(waveform, num_samples.tolist(), strict=True)]

    def stack(self, rows: Sequence[tuple[Tensor, int, str]]) -> WindowGroup:
        """As long as the longest needs."""
        grid = self.grid
        waveforms, samples, ids = zip(*rows, strict=True)
        frames = min(grid.window_frames, -(-max(samples) // grid.hop_length) + grid.context_frames)
        length = frames * grid.hop_length
        return WindowGroup(torch.stack([window[:, :length] for window in waveforms]), torch.tensor(samples), list(ids))


class WaveformDataModule(PendingChunks):
    """Read in `num_workers` processes, or, where that is 0, in a thread beside the model."""

    def __init__(self, folder: Path, planned: list[Chunk], dataset: WaveformReader, num_workers: int) -> None:
        super().__init__(folder, planned)
        self.dataset, self.num_workers = dataset, num_workers

    def predict_dataloader(self) -> Any:
        batches = _Batches(self.mine, self.dataset)
        loader = DataLoader(
            self.dataset, sampler=batches, batch_size=None, num_workers=self.num_workers, collate_fn=_as_it_is,
            worker_init_fn=heedless,
        )  # fmt: skip
        return loader if self.num_workers else ReadAhead(loader)


class _Batches:
    def __init__(self, chunks: Sequence[Chunk], dataset: WaveformReader) -> None:
        self.chunks, self.dataset = chunks, dataset

    def __iter__(self) -> Iterator[PlannedBatch]:
        return plan_batches(self.chunks, self.dataset.grid, self.dataset.batch_size)


def _as_it_is(batch: WaveformBatch) -> WaveformBatch:
    return batch
