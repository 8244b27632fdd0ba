"""Windows of cached latents: what the tokenizer is trained on."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import SimpleCutSampler
from lhotse.dataset.sampling.base import CutSampler
from torch import Tensor

from datamodules import chunks
from datamodules.sampler import ResumableDataModule, hash_ids


class LatentBatch(NamedTuple):
    ids: list[str]
    latents: Tensor  # (B, F, D) float32; zeros beyond num_frames
    num_frames: Tensor  # (B) long


def windows(cut: Any, window_frames: int) -> list[MonoCut]:
    """One light cut a window of a recording's latents; the last one may be shorter. Nothing is dropped."""
    found = []
    array, offset, length = (cut.custom[key] for key in ("array", "offset", "length"))
    for number, start in enumerate(range(0, length, window_frames)):
        frames = min(window_frames, length - start)
        custom = {"array": array, "offset": offset + start, "length": frames}
        found.append(MonoCut(f"{cut.id}-w{number}", start=0, duration=frames, channel=0, custom=custom))
    return found


def collate(cuts: Any) -> LatentBatch:
    """Windows to one batch, padded with zeros to the longest."""
    arrays = [torch.from_numpy(chunks.load_array(cut).astype("float32")) for cut in cuts]
    num_frames = torch.tensor([len(array) for array in arrays])
    return LatentBatch([cut.id for cut in cuts], torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True), num_frames)


class _Collate(torch.utils.data.Dataset):
    def __getitem__(self, cuts: CutSet) -> LatentBatch:
        return collate(cuts)


class LatentDataModule(ResumableDataModule):
    """Windows of the splits train and validation, shuffled anew each epoch. Raises ValueError where the training split is empty."""

    def __init__(self, folder: Path, window_frames: int, batch_size: int, seed: int, num_workers: int) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.batch_size, self.dataset = batch_size, _Collate()
        cuts = chunks.read(folder)
        self.train_windows, self.validation_windows = (
            [window for cut in cuts if cut.custom["split"] == split for window in windows(cut, window_frames)]
            for split in ("train", "validation")
        )
        if not self.train_windows:
            raise ValueError(f"{folder}: no recording is in the split 'train'")

    def train_sampler(self, rank: int, world: int) -> CutSampler:
        return self._sampler(self.train_windows, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> CutSampler | None:
        return self._sampler(self.validation_windows, rank, world, shuffle=False) if self.validation_windows else None

    def fingerprint(self) -> str:
        return hash_ids(self.train_windows)

    def _sampler(self, items: list[MonoCut], rank: int, world: int, shuffle: bool) -> CutSampler:
        return SimpleCutSampler(
            CutSet.from_cuts(items),
            max_cuts=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world,
        )
