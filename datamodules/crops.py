"""Random crops of waveform: what a VAE is trained on.

Where a recording is cropped is a function of (seed, epoch, recording) alone, so that a run which goes on sees the crops
that the undisturbed one saw, with any number of workers. A recording gives one crop an epoch.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse import CutSet
from lhotse.dataset.sampling.base import CutSampler
from torch import Tensor

from datamodules.audio import load_sound
from datamodules.errors import DataError
from datamodules.sampler import ResumableDataModule, fixed_batches, hash_ids


class CropBatch(NamedTuple):
    ids: list[str]
    waveform: Tensor  # (B, C, T) float32; zeros beyond num_samples
    num_samples: Tensor  # (B) long: fewer than T where the recording is shorter than a crop


class Crops(torch.utils.data.Dataset):
    """Cuts that were cropped -> a batch at the model's rate and channels."""

    def __init__(self, roots: dict[str, Path], sample_rate: int, channels: int, crop_samples: int) -> None:
        """roots: corpus -> absolute folder that its recordings' paths are relative to; sample_rate in Hz."""
        self.roots, self.sample_rate, self.channels, self.crop_samples = roots, sample_rate, channels, crop_samples

    def __getitem__(self, cuts: CutSet) -> CropBatch:
        cuts = list(cuts)
        sounds = [self._load(cut) for cut in cuts]
        waveform = torch.zeros(len(cuts), self.channels, self.crop_samples)
        for row, sound in zip(waveform, sounds, strict=True):
            row[:, : sound.shape[1]] = sound
        return CropBatch([cut.id for cut in cuts], waveform, torch.tensor([sound.shape[1] for sound in sounds]))

    def _load(self, cut: Any) -> Tensor:
        root = self.roots[cut.custom["corpus"]]
        sound = load_sound(cut, root, self.sample_rate, self.channels, cut.custom["crop_start"], cut.custom["crop"])
        return sound[:, : self.crop_samples]


class RandomCrops:
    """A sampler whose cuts know their crop: `crop_start` and `crop` in seconds, in `custom`."""

    def __init__(self, inner: CutSampler, crop_seconds: float, seed: int) -> None:
        self.inner, self.crop_seconds, self.seed = inner, crop_seconds, seed

    @property
    def epoch(self) -> int:
        return self.inner.epoch

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    def __iter__(self) -> Iterator[CutSet]:
        for batch in self.inner:
            yield CutSet.from_cuts([self._crop(cut) for cut in batch])

    def _crop(self, cut: Any) -> Any:
        share = random.Random(f"{self.seed} {self.inner.epoch} {cut.id}").random()
        return crop(cut, share, self.crop_seconds)


def crop(cut: Any, share: float, seconds: float) -> Any:
    """The cut with the place of a crop: share 0 is the recording's beginning, just below 1 its end. In whole samples."""
    rate, samples = cut.recording.sampling_rate, cut.recording.num_samples
    length = min(samples, math.ceil(seconds * rate))
    start = int(share * (samples - length + 1))
    cropped = cut.with_id(cut.id)
    cropped.custom = {**cut.custom, "crop_start": start / rate, "crop": length / rate}
    return cropped


class CropDataModule(ResumableDataModule):
    """Random crops of the split train; of the split validation, the beginning of each recording, always the same."""

    def __init__(
        self,
        cuts: list[Any],
        roots: dict[str, Path],
        sample_rate: int,
        channels: int,
        crop_samples: int,
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        """Raises DataError where the training split is empty."""
        super().__init__(seed=seed, num_workers=num_workers)
        self.batch_size, self.crop_seconds = batch_size, crop_samples / sample_rate
        self.dataset = Crops(roots, sample_rate, channels, crop_samples)
        self.train_cuts, self.validation_cuts = (
            [cut for cut in cuts if cut.custom["split"] == split] for split in ("train", "validation")
        )
        if not self.train_cuts:
            raise DataError("no recording is in the split 'train'")

    def train_sampler(self, rank: int, world: int) -> Any:
        return RandomCrops(
            fixed_batches(self.train_cuts, self.batch_size, self.seed, rank, world, shuffle=True),
            self.crop_seconds,
            self.seed,
        )

    def validation_sampler(self, rank: int, world: int) -> CutSampler | None:
        cuts = [crop(cut, 0.0, self.crop_seconds) for cut in self.validation_cuts]
        return fixed_batches(cuts, self.batch_size, self.seed, rank, world, shuffle=False) if cuts else None

    def validation_batches(self, limit: int) -> Iterator[CropBatch]:
        """The first `limit` validation batches, all of them in this process."""
        sampler = self.validation_sampler(0, 1)
        for _, cuts in zip(range(limit), sampler or (), strict=False):
            yield self.dataset[cuts]

    def fingerprint(self) -> str:
        return hash_ids(self.train_cuts)
