"""Windows of cached latents: what the tokenizer is trained on, and what the stage `cache` turns into codes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import NumberedBatches
from datamodules.cuts import SPLITS, Cut
from datamodules.errors import DataError
from datamodules.sampler import ResumableDataModule
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from datamodules.store.manifest import Manifest
from datamodules.store.overlap import ReadAhead
from datamodules.windows import WindowRule


class LatentWindow(NamedTuple):
    """Where the latents of one window of a recording are: rows `offset` to `offset + num_frames` of a file."""

    id: str
    array: str  # path of the latents
    std: str | None  # path of the standard deviation of their posterior; None where the codec has none
    offset: int
    num_frames: int


class WindowIds:
    """The ids of windows, read from the manifest only when somebody looks at them."""

    def __init__(self, folder: Path, rows: np.ndarray, numbers: np.ndarray) -> None:
        """folder: of the cache; rows: of its manifest; numbers: of each one's window."""
        self.folder, self.rows, self.numbers = folder, rows, numbers

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        manifest = Manifest(self.folder)
        for row, number in zip(self.rows.tolist(), self.numbers.tolist(), strict=True):
            yield f"{manifest.fields(row)['id']}-w{number}"

    def __getitem__(self, part: slice) -> list[str]:
        return list(WindowIds(self.folder, self.rows[part], self.numbers[part]))


class LatentBatch(NamedTuple):
    ids: list[str] | WindowIds
    latents: Tensor  # (B, F, D) float32, the posterior's mean; zeros beyond num_frames
    num_frames: Tensor  # (B) long
    std: Tensor | None  # (B, F, D) float32, of the posterior; None where the codec has none
    is_padded: bool  # whether a window has fewer than F frames: known here, so that no step asks the device


def latent_windows(cut: Cut, rule: WindowRule) -> list[LatentWindow]:
    """All windows of a recording. Nothing is dropped."""
    custom = cut.custom
    return [
        LatentWindow(
            f"{cut.id}-w{number}",
            custom["array"],
            custom.get("std"),
            custom["offset"] + number * rule.frames,
            length,
        )
        for number, length in enumerate(rule.lengths(custom["length"]))
    ]


def collate_latents(windows: Sequence[LatentWindow]) -> LatentBatch:
    """Reads windows into one batch, padded with zeros to the longest."""
    arrays = [chunks.load_rows(window.array, window.offset, window.num_frames) for window in windows]
    stds = [chunks.load_rows(window.std, window.offset, window.num_frames) for window in windows if window.std]
    return _batch([window.id for window in windows], arrays, stds)


def _batch(ids: list[str] | WindowIds, arrays: list[np.ndarray], stds: list[np.ndarray]) -> LatentBatch:
    """arrays, stds: (F_i, D) float16 each, of each window."""
    assert len(stds) in (0, len(arrays)), "one codec made them all"
    lengths = [len(array) for array in arrays]
    std = _padded(stds) if stds else None
    return LatentBatch(ids, _padded(arrays), torch.tensor(lengths), std, min(lengths) < max(lengths))


def _padded(arrays: list[np.ndarray]) -> Tensor:
    """(F_i, D) float16 each -> (B, F, D) float32."""
    padded = np.zeros((len(arrays), max(map(len, arrays)), arrays[0].shape[1]), np.float32)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = array
    return torch.from_numpy(padded)


class LatentWindows(torch.utils.data.Dataset[LatentBatch]):
    """All windows of a cache, by number: numbers (B) -> LatentBatch. A window takes 12 bytes of memory, and one read of
    each array.
    """

    def __init__(self, cuts: CachedCuts, rule: WindowRule) -> None:
        self.cuts, self.rule = cuts, rule
        lengths, each = np.unique(cuts.lengths[cuts.selected], return_inverse=True)
        counts = np.array([rule.num_windows(int(length)) for length in lengths], np.int64)[each]
        self.row = np.repeat(cuts.selected, counts)  # row of the cache
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self.number = (np.arange(len(self.row)) - first).astype(np.int32)  # of the recording's windows

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, numbers: np.ndarray) -> LatentBatch:
        rows, windows = self.row[numbers], self.number[numbers]
        arrays, stds = [], []
        for row, number in zip(rows.tolist(), windows.tolist(), strict=True):
            begin, length = number * self.rule.frames, int(self.cuts.lengths[row])
            last = number == self.rule.num_windows(length) - 1
            count = length - begin if last else self.rule.frames
            array, std = (self.cuts.read(name, row, begin, count) for name in ("array", "std"))
            assert array is not None, "a cache of latents"
            arrays.append(array)
            stds += [] if std is None else [std]
        return _batch(WindowIds(self.cuts.folder, rows, windows), arrays, stds)

    def copies(self, weights: Mapping[str, float]) -> np.ndarray:
        """Numbers of the windows of an epoch: each as often as its corpus weighs (1 where no weight is given), for the
        fractional part of a weight a share of them by the hash of their ids.
        """
        if not weights:
            return np.arange(len(self))
        by_corpus = np.array([weights.get(corpus, 1.0) for corpus in self.cuts.corpora])
        weight = by_corpus[self.cuts.rows["corpus"][self.row]]
        mixed = self.cuts.rows["name"][self.row] ^ (self.number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        whole = np.floor(weight)
        extra = _scrambled(mixed) % np.uint64(10_000) < 10_000 * (weight - whole)
        return np.repeat(np.arange(len(self)), whole.astype(int) + extra)

    def in_split(self, split: str) -> np.ndarray:
        """(windows) bool: whether a window is of the split."""
        return self.cuts.rows["split"][self.row] == SPLITS.index(split)


def _scrambled(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64 whose every bit depends on all bits of the value: the finaliser of splitmix64 (Steele, Lea and
    Flood 2014).
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


class LatentDataModule(ResumableDataModule):
    """Windows of the splits train and validation, shuffled anew each epoch.

    weights: corpus -> how often its windows come in an epoch of training; 1 for others. Raises DataError where no
    window is for training.
    """

    dataset: LatentWindows

    def __init__(
        self,
        folder: Path,
        rule: WindowRule,
        batch_size: int,
        seed: int,
        num_workers: int,
        weights: Mapping[str, float] = {},
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.batch_size, self.dataset = batch_size, LatentWindows(chunks.read(folder), rule)
        if not self.dataset.in_split("train").any():
            raise DataError(f"{folder}: no recording is in the split 'train'")
        epoch = self.dataset.copies(weights)
        self.train_windows = epoch[self.dataset.in_split("train")[epoch]]
        self.validation_windows = np.flatnonzero(self.dataset.in_split("validation"))
        if not len(self.train_windows):
            raise DataError(f"{folder}: corpus_weights {dict(weights)} leave no training window")

    def train_sampler(self, rank: int, world: int) -> NumberedBatches:
        return self._sampler(self.train_windows, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> NumberedBatches | None:
        if not len(self.validation_windows):
            return None
        return self._sampler(self.validation_windows, rank, world, shuffle=False)

    def fingerprint(self) -> str:
        """Of the sound and its order; another caption is the same data."""
        digest = self.dataset.cuts.digest_of_sound()
        return hashlib.sha256(digest.encode() + self.train_windows.tobytes()).hexdigest()

    def _sampler(self, windows: np.ndarray, rank: int, world: int, shuffle: bool) -> NumberedBatches:
        ones = np.ones(len(windows), np.int8)
        return NumberedBatches(
            ones, [1], [self.batch_size], shuffle=shuffle, seed=self.seed, rank=rank, world=world, numbers=windows,
            local=True,
        )  # fmt: skip


class ChunkBatch(NamedTuple):
    """Windows of one chunk, with similar numbers of frames, in no order of recordings."""

    windows: LatentBatch
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


class PendingLatents:
    """Batches of the windows of a rank's chunks, whose latents are looked up by their sound and read in a thread beside
    the model. Which windows share a batch depends on their chunk alone.
    """

    def __init__(self, planned: Sequence[chunks.Chunk], latents: CachedCuts, rule: WindowRule, batch_size: int) -> None:
        self.planned, self.latents, self.rule, self.batch_size = planned, latents, rule, batch_size

    def __iter__(self) -> Iterator[ChunkBatch]:
        return iter(ReadAhead(self._batches()))

    def _batches(self) -> Iterator[ChunkBatch]:
        for number, chunk in enumerate(self.planned):
            rows = self.latents.rows_of(chunk.sounds)
            recordings = chunk.recordings
            for cut, row in zip(recordings, rows.tolist(), strict=True):
                cut.custom |= self.latents.arrays_of(row)
            windows = [window for cut in recordings for window in latent_windows(cut, self.rule)]
            windows.sort(key=lambda window: window.num_frames)
            for start in range(0, len(windows), self.batch_size):
                part = windows[start : start + self.batch_size]
                yield ChunkBatch(collate_latents(part), number, start + self.batch_size >= len(windows))
