"""Batches of waveform windows, chunk after chunk: what the stage `latents` reads.

Which windows share a batch depends on the chunk alone, so that a cache's bytes do not depend on workers, ranks or
kills:

    recordings of a chunk, by the length of their last window    |====|====|=|   |====|==|   |==|   |===| ...
    a batch        whole windows (B, C, T):     ====  ====  ====
                   partial windows (B, C, T'):  =     ==  ==     ===, those within PADDING of their longest together
                   longer windows (B, C, T"):   ===== =====          likewise

Apart from audio.py: reading a sound needs no Lightning, which takes seconds to import.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import load_windows, readable_in_parts, resampled_length
from datamodules.batches import in_groups
from datamodules.cuts import Cut
from datamodules.sampler import ignore_signals, unchanged
from datamodules.store.overlap import ReadAhead
from datamodules.store.pending import PendingChunks
from datamodules.windows import WindowFormat

PADDING = (0.5, 1 / 8)  # a partial window is padded by at most so many seconds, or so much of the longest beside it


class HasRecordings(Protocol):
    """A chunk (datamodules.store.chunks.Chunk), as far as its batches are concerned."""

    @property
    def recordings(self) -> list[Cut]: ...


class WindowSpan(NamedTuple):
    """Windows of a recording, one after another."""

    cut: Cut
    first: int
    num_windows: int
    partial_samples: int  # of the last one where it is shorter or longer than a whole window, else 0


class PlannedBatch(NamedTuple):
    """A batch, before anything is read."""

    spans: list[WindowSpan]
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


class Window(NamedTuple):
    """One window of a recording, read."""

    waveform: Tensor  # (C, T) float32
    cut_id: str


class WindowGroup(NamedTuple):
    """Windows of one chunk, of similar length."""

    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long; zeros beyond
    cut_ids: list[str]  # (B): which recording a window is of


class WaveformBatch(NamedTuple):
    """The windows of a recording come in their order, within a batch and from batch to batch."""

    groups: list[WindowGroup]
    chunk: int
    closes_chunk: bool


def plan_batches(
    chunks: Sequence[HasRecordings], window: WindowFormat, batch_size: int, first: int = 0
) -> Iterator[PlannedBatch]:
    """Chunk after chunk, no batch of two: up to `batch_size` whole windows and as many partial ones a batch, and no
    recording in two batches that fits in one. first: number of the first chunk.
    """
    for number, chunk in enumerate(chunks, first):
        recordings = [recording_spans(cut, window, batch_size) for cut in chunk.recordings]
        recordings.sort(key=lambda spans: spans[-1].partial_samples)
        batches: list[list[WindowSpan]] = [[]]
        whole = partial = 0
        for span in (span for spans in recordings for span in spans):
            more_partial = bool(span.partial_samples)
            more_whole = span.num_windows - more_partial
            if batches[-1] and (whole + more_whole > batch_size or partial + more_partial > batch_size):
                batches.append([])
                whole = partial = 0
            batches[-1].append(span)
            whole, partial = whole + more_whole, partial + more_partial
        for batch in batches:
            yield PlannedBatch(batch, number, batch is batches[-1])


def recording_spans(cut: Cut, window: WindowFormat, batch_size: int) -> list[WindowSpan]:
    """All windows of a recording: one span, or where it is long one for every `batch_size` windows, read one by one."""
    recording = cut.recording
    length = resampled_length(recording.num_samples, recording.sampling_rate, window.sample_rate)
    count = window.rule.num_windows(-(-length // window.hop_length))
    last = length - (count - 1) * window.window_samples
    partial = last if last != window.window_samples else 0
    step = batch_size if readable_in_parts(recording.sampling_rate, window.sample_rate) else count
    return [
        WindowSpan(cut, first, min(step, count - first), partial if first + step >= count else 0)
        for first in range(0, count, step)
    ]


class WaveformReader(Dataset[WaveformBatch]):
    """Reads planned batches. roots: corpus -> absolute folder that its recordings' paths are relative to."""

    def __init__(self, roots: Mapping[str, Path], window: WindowFormat, batch_size: int) -> None:
        self.roots, self.window, self.batch_size = roots, window, batch_size

    def __getitem__(self, planned: PlannedBatch) -> WaveformBatch:
        windows = [window for span in planned.spans for window in self.read(span)]
        size = self.window.window_samples
        whole = [window for window in windows if window.waveform.shape[1] == size]
        shorter = [window for window in windows if window.waveform.shape[1] < size]
        longer = [window for window in windows if window.waveform.shape[1] > size]
        groups = in_groups(whole, self.batch_size)
        groups += self.group_by_length(shorter) + self.group_by_length(longer)
        return WaveformBatch([self.stack(group) for group in groups], planned.chunk, planned.closes_chunk)

    def group_by_length(self, windows: Sequence[Window]) -> list[list[Window]]:
        """Windows, the shorter first, in groups that need little padding: it costs an Oobleck as much as sound."""
        seconds, share = PADDING
        groups: list[list[Window]] = []
        for window in reversed(windows):
            length = window.waveform.shape[1]
            longest = groups[-1][0].waveform.shape[1] if groups else 0
            allowed = max(seconds * self.window.sample_rate, share * longest)
            if groups and longest - length <= allowed:
                groups[-1].append(window)
            else:
                groups.append([window])
        return [group[::-1] for group in reversed(groups)]

    def read(self, span: WindowSpan) -> list[Window]:
        window, root = self.window, self.roots[span.cut.custom["corpus"]]
        waveforms = load_windows(
            span.cut, root, window.sample_rate, window.channels, window.rule, window.hop_length, span.first,
            span.num_windows,
        )  # fmt: skip
        return [Window(waveform, span.cut.id) for waveform in waveforms]

    def stack(self, windows: Sequence[Window]) -> WindowGroup:
        """Windows in one tensor, as long as the longest needs."""
        waveforms, ids = zip(*windows, strict=True)
        counts = [waveform.shape[1] for waveform in waveforms]
        length = self.window.padded_samples(max(counts))
        padded = [torch.nn.functional.pad(waveform, (0, length - waveform.shape[1])) for waveform in waveforms]
        return WindowGroup(torch.stack(padded), torch.tensor(counts), list(ids))


class WaveformDataModule(PendingChunks):
    """The windows of the pending chunks of a rank."""

    def __init__(self, folder: Path, dataset: WaveformReader, num_workers: int) -> None:
        super().__init__(folder)
        self.dataset, self.num_workers = dataset, num_workers

    def predict_dataloader(self) -> DataLoader[WaveformBatch] | ReadAhead[WaveformBatch]:
        return read_chunks(self.rank_chunks, self.dataset, self.num_workers)


def read_chunks(
    chunks: Sequence[HasRecordings], dataset: WaveformReader, num_workers: int, first: int = 0
) -> DataLoader[WaveformBatch] | ReadAhead[WaveformBatch]:
    """The batches of these chunks, read in `num_workers` processes, or, where that is 0, in a thread beside the model.
    first: number of the first chunk.
    """
    loader = DataLoader(
        dataset,
        sampler=_PlannedBatches(chunks, dataset, first),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=unchanged,
        worker_init_fn=ignore_signals,
    )
    return loader if num_workers else ReadAhead(loader)


class _PlannedBatches:
    def __init__(self, chunks: Sequence[HasRecordings], dataset: WaveformReader, first: int) -> None:
        self.chunks, self.dataset, self.first = chunks, dataset, first

    def __iter__(self) -> Iterator[PlannedBatch]:
        return plan_batches(self.chunks, self.dataset.window, self.dataset.batch_size, self.first)
