"""Random crops of waveform: what a VAE is trained on.

Where a recording is cropped is a function of (seed, epoch, recording) alone, so that a run which goes on sees the crops
that the undisturbed one saw, with any number of workers. A recording gives one crop an epoch.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.audio import load_sound
from datamodules.batches import SAMPLE, Batches, require_batch
from datamodules.cuts import Cut
from datamodules.errors import DataError
from datamodules.sampler import ResumableDataModule
from datamodules.store.manifest import CutsOfSplit, Manifest


class Crop(NamedTuple):
    """A part of a recording, in samples at its own rate."""

    cut: Cut
    first: int
    num_samples: int


class CropBatch(NamedTuple):
    ids: list[str]
    waveform: Tensor  # (B, C, T) float32; zeros beyond num_samples
    num_samples: Tensor  # (B) long: fewer than T where the recording is shorter than a crop


class CropBatches(Batches[list[Crop]]):
    """Batches of one crop of every recording, rank r taking every world-th; the last ones are dealt evenly.

    shuffle: recordings are shuffled and crops drawn anew each epoch, in the order of Lhotse's SimpleCutSampler, with
    which earlier versions trained; else the beginning of each recording, in one order whose first batches are a random
    sample of them.
    """

    def __init__(
        self, cuts: Sequence[Cut], size: int, crop_seconds: float, seed: int, rank: int, world: int, shuffle: bool
    ) -> None:
        self.cuts, self.size, self.crop_seconds, self.seed = cuts, size, crop_seconds, seed
        self.rank, self.world, self.shuffle = rank, world, shuffle

    def __len__(self) -> int:
        return -(-len(self.cuts) // (self.size * self.world))

    def from_batch(self, batch: int) -> Iterator[list[Crop]]:
        require_batch(batch, len(self), self.epoch)
        order = list(range(len(self.cuts)))
        random.Random(self.seed + self.epoch if self.shuffle else SAMPLE).shuffle(order)
        for step in range(batch, len(self)):
            numbers = order[step * self.size * self.world :][: self.size * self.world]
            yield [self._crop(self.cuts[number]) for number in self._of_rank(numbers)]

    def _of_rank(self, numbers: list[int]) -> list[int]:
        """This rank's share of the recordings of one step."""
        if len(numbers) > self.size * (self.world - 1):  # every rank has its batch
            return numbers[self.rank * self.size :][: self.size]
        while len(numbers) < self.world:
            numbers = numbers + numbers[: self.world - len(numbers)]
        share, larger = divmod(len(numbers), self.world)
        return numbers[self.rank * share + min(self.rank, larger) :][: share + (self.rank < larger)]

    def _crop(self, cut: Cut) -> Crop:
        share = random.Random(f"{self.seed} {self.epoch} {cut.id}").random() if self.shuffle else 0.0
        return crop(cut, share, self.crop_seconds)


def crop(cut: Cut, share: float, seconds: float) -> Crop:
    """Up to `seconds` of a recording; share 0 is its beginning, just below 1 its end."""
    rate, samples = cut.recording.sampling_rate, cut.recording.num_samples
    count = min(samples, math.ceil(seconds * rate))
    return Crop(cut, int(share * (samples - count + 1)), count)


class CropReader(torch.utils.data.Dataset[CropBatch]):
    """Crops -> a batch at the model's rate and channels.

    roots: corpus -> absolute folder that its recordings' paths are relative to; sample_rate in Hz; crop_samples at it.
    """

    def __init__(self, roots: Mapping[str, Path], sample_rate: int, channels: int, crop_samples: int) -> None:
        self.roots, self.sample_rate, self.channels, self.crop_samples = roots, sample_rate, channels, crop_samples

    def __getitem__(self, crops: Sequence[Crop]) -> CropBatch:
        sounds = [self._load(crop) for crop in crops]
        waveform = torch.zeros(len(crops), self.channels, self.crop_samples)
        for row, sound in zip(waveform, sounds, strict=True):
            row[:, : sound.shape[1]] = sound
        num_samples = torch.tensor([sound.shape[1] for sound in sounds])
        return CropBatch([crop.cut.id for crop in crops], waveform, num_samples)

    def _load(self, crop: Crop) -> Tensor:
        root = self.roots[crop.cut.custom["corpus"]]
        sound = load_sound(crop.cut, root, self.sample_rate, self.channels, crop.first, crop.num_samples)
        return sound[:, : self.crop_samples]


class CropDataModule(ResumableDataModule):
    """Random crops of the split train; of the split validation, the beginning of each recording, always the same.

    folder: of the manifest of the cuts, which `setup` maps; it raises DataError where the training split is empty.
    """

    dataset: CropReader
    train_cuts: CutsOfSplit
    validation_cuts: CutsOfSplit

    def __init__(
        self,
        folder: Path,
        roots: Mapping[str, Path],
        sample_rate: int,
        channels: int,
        crop_samples: int,
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.folder, self.batch_size, self.crop_seconds = folder, batch_size, crop_samples / sample_rate
        self.dataset = CropReader(roots, sample_rate, channels, crop_samples)

    def setup(self, stage: str) -> None:
        manifest = Manifest(self.folder)
        self.train_cuts, self.validation_cuts = manifest.of_split("train"), manifest.of_split("validation")
        if not self.train_cuts:
            raise DataError("no recording is in the split 'train'")

    def train_sampler(self, rank: int, world: int) -> CropBatches:
        return CropBatches(self.train_cuts, self.batch_size, self.crop_seconds, self.seed, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> CropBatches | None:
        cuts = self.validation_cuts
        if not cuts:
            return None
        return CropBatches(cuts, self.batch_size, self.crop_seconds, self.seed, rank, world, shuffle=False)

    def validation_batches(self, limit: int) -> Iterator[CropBatch]:
        """The first `limit` validation batches, all of them in this process."""
        return (self.dataset[crops] for crops in islice(self.validation_sampler(0, 1) or (), limit))

    def count_short(self) -> int:
        """Training and validation recordings that are shorter than a crop."""
        cuts = (self.train_cuts, self.validation_cuts)
        return sum(int((one.manifest.rows["seconds"][one.rows] < self.crop_seconds).sum()) for one in cuts)

    def fingerprint(self) -> str:
        """SHA-256 of the ids and durations of the training cuts, in their order."""
        rows = self.train_cuts.manifest.rows
        digest = hashlib.sha256()
        for name in ("name", "seconds"):
            digest.update(rows[name][self.train_cuts.rows].tobytes())
        return digest.hexdigest()
