"""Windows of cached latents: what the tokenizer is trained on, and what the stage `cache` turns into codes."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse import MonoCut
from torch import Tensor

from datamodules.batches import NumberedBatches
from datamodules.errors import DataError
from datamodules.sampler import ResumableDataModule
from datamodules.store import chunks
from datamodules.store.index import SPLITS, CachedCuts
from datamodules.store.overlap import ReadAhead
from datamodules.store.pending import PendingChunks


class LatentBatch(NamedTuple):
    ids: list[str]
    latents: Tensor  # (B, F, D) float32, the posterior's mean; zeros beyond num_frames
    num_frames: Tensor  # (B) long
    std: Tensor | None  # (B, F, D) float32, of the posterior; None where the codec has none


def windows(cut: Any, window_frames: int) -> list[MonoCut]:
    """One light cut a window of a recording's latents; the last one may be shorter. Nothing is dropped."""
    found = []
    files = {key: cut.custom[key] for key in ("array", "std") if key in cut.custom}
    offset, length = (cut.custom[key] for key in ("offset", "length"))
    for number, start in enumerate(range(0, length, window_frames)):
        frames = min(window_frames, length - start)
        custom = {**files, "offset": offset + start, "length": frames}
        found.append(MonoCut(f"{cut.id}-w{number}", start=0, duration=frames, channel=0, custom=custom))
    return found


def collate_latents(cuts: Any) -> LatentBatch:
    """Windows to one batch, padded with zeros to the longest."""
    cuts = list(cuts)
    arrays = [chunks.load_array(cut) for cut in cuts]
    stds = [std for cut in cuts if (std := chunks.load_std(cut)) is not None]
    assert len(stds) in (0, len(cuts)), "one codec made them all"
    num_frames = torch.tensor([len(array) for array in arrays])
    return LatentBatch([cut.id for cut in cuts], _padded(arrays), num_frames, _padded(stds) if stds else None)


def _padded(arrays: list[Any]) -> Tensor:
    """(F_i, D) float16 each -> (B, F, D) float32."""
    tensors = [torch.from_numpy(array.astype("float32")) for array in arrays]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


class LatentWindows(torch.utils.data.Dataset):
    """Windows of a cache, a row of numbers each: numbers of windows -> LatentBatch."""

    def __init__(self, cuts: CachedCuts, window_frames: int) -> None:
        self.cuts, self.window_frames = cuts, window_frames
        of = cuts.chosen
        counts = -(-cuts.rows["length"][of] // window_frames)
        self.owner = np.repeat(of, counts)  # row of the cache
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self.number = (np.arange(len(self.owner)) - first).astype(np.int32)  # of the recording's windows

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, numbers: np.ndarray) -> LatentBatch:
        return collate_latents([self._window(int(self.owner[n]), int(self.number[n])) for n in numbers])

    def _window(self, owner: int, number: int) -> MonoCut:
        row, start = self.cuts.rows[owner], number * self.window_frames
        frames = min(self.window_frames, int(row["length"]) - start)
        custom = {**self.cuts.arrays(owner), "offset": int(row["offset"]) + start, "length": frames}
        return MonoCut(f"{self.cuts.name(owner)}-w{number}", start=0, duration=frames, channel=0, custom=custom)

    def copies(self, weights: Mapping[str, float]) -> np.ndarray:
        """Numbers of an epoch's windows: each as often as its corpus weighs (1 where none is given), a share of them by the hash of their ids."""
        if not weights:
            return np.arange(len(self))
        weight = np.array([weights.get(corpus, 1.0) for corpus in self.cuts.corpora])
        wanted = weight[self.cuts.rows["corpus"][self.owner]]
        mixed = self.cuts.rows["name"][self.owner] ^ (self.number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        whole = np.floor(wanted)
        extra = _scrambled(mixed) % np.uint64(10_000) < 10_000 * (wanted - whole)
        return np.repeat(np.arange(len(self)), whole.astype(int) + extra)

    def split(self, split: str) -> np.ndarray:
        """(windows) whether one is of it."""
        return self.cuts.rows["split"][self.owner] == SPLITS.index(split)


def _scrambled(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): bits of uint64 that hang on all bits of the value."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


class LatentDataModule(ResumableDataModule):
    """Windows of the splits train and validation, shuffled anew each epoch. Raises DataError where the training split is empty."""

    def __init__(
        self,
        folder: Path,
        window_frames: int,
        batch_size: int,
        seed: int,
        num_workers: int,
        weights: Mapping[str, float] = {},
    ) -> None:
        """weights: corpus -> how often its windows come in an epoch of training; 1 for others."""
        super().__init__(seed=seed, num_workers=num_workers)
        self.batch_size, self.dataset = batch_size, LatentWindows(chunks.read(folder), window_frames)
        if not self.dataset.split("train").any():
            raise DataError(f"{folder}: no recording is in the split 'train'")
        epoch = self.dataset.copies(weights)
        self.train_windows = epoch[self.dataset.split("train")[epoch]]
        self.validation_windows = np.flatnonzero(self.dataset.split("validation"))
        if not len(self.train_windows):
            raise DataError(f"{folder}: corpus_weights {dict(weights)} leave no training window")

    def train_sampler(self, rank: int, world: int) -> NumberedBatches:
        return self._sampler(self.train_windows, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> NumberedBatches | None:
        return (
            self._sampler(self.validation_windows, rank, world, shuffle=False) if len(self.validation_windows) else None
        )

    def fingerprint(self) -> str:
        return hashlib.sha256(self.dataset.cuts.digest().encode() + self.train_windows.tobytes()).hexdigest()

    def _sampler(self, windows: np.ndarray, rank: int, world: int, shuffle: bool) -> NumberedBatches:
        ones = np.ones(len(windows), np.int8)
        return NumberedBatches(
            ones, [1], [self.batch_size], shuffle=shuffle, seed=self.seed, rank=rank, world=world, numbers=windows
        )


class ChunkBatch(NamedTuple):
    """Windows of one chunk, with like numbers of frames, in no order of recordings."""

    windows: LatentBatch
    chunk: int  # index into the chunks of this rank
    closes_chunk: bool


class PendingLatents(PendingChunks):
    """Batches of the windows that have no codes yet, read in a thread beside the model. Which windows share a batch hangs on
    their chunk alone.
    """

    def __init__(self, folder: Path, planned: list[chunks.Chunk], window_frames: int, batch_size: int) -> None:
        super().__init__(folder, planned)
        self.window_frames, self.batch_size = window_frames, batch_size

    def predict_dataloader(self) -> Any:
        return ReadAhead(_Batches(self))


class _Batches:
    def __init__(self, data: PendingLatents) -> None:
        self.data = data

    def __iter__(self) -> Iterator[ChunkBatch]:
        data = self.data
        for number, chunk in enumerate(data.mine):
            found = [window for cut in chunk.recordings for window in windows(cut, data.window_frames)]
            found.sort(key=lambda window: window.custom["length"])
            for start in range(0, len(found), data.batch_size):
                held = found[start : start + data.batch_size]
                yield ChunkBatch(collate_latents(held), number, start + data.batch_size >= len(found))
