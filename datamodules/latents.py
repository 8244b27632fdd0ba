"""Windows of cached latents: what the tokenizer is trained on, and what the stage `cache` turns into codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling.base import CutSampler
from torch import Tensor

from datamodules import chunks
from datamodules.overlap import Ahead
from datamodules.pending import PendingChunks
from datamodules.sampler import ResumableDataModule, fixed_batches, hash_ids


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


def collate(cuts: Any) -> LatentBatch:
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
        return fixed_batches(self.train_windows, self.batch_size, self.seed, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> CutSampler | None:
        return (
            fixed_batches(self.validation_windows, self.batch_size, self.seed, rank, world, shuffle=False)
            if self.validation_windows
            else None
        )

    def fingerprint(self) -> str:
        return hash_ids(self.train_windows)


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
        return Ahead(_Batches(self))


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
                yield ChunkBatch(collate(held), number, start + data.batch_size >= len(found))
