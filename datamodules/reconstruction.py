"""Held-out windows with their sound, by group: what a tokenizer's reconstruction is measured on."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import load_windows
from datamodules.latents import LatentBatch, collate_latents, windows
from datamodules.sampler import heedless


class ReconstructionWindow(NamedTuple):
    group: str
    cut: Any  # the recording's, with its latents
    number: int  # of the window in the recording


class SoundBatch(NamedTuple):
    group: str
    latents: LatentBatch
    waveform: Tensor  # (B, C, T)
    num_samples: Tensor  # (B) long


def group_of(cut: Any) -> str:
    """The corpus; for a corpus that knows its events' families also their family, or `mixed`."""
    events = cut.custom.get("metadata", {}).get("events")
    if not events:
        return cut.custom["corpus"]
    families = {event["family"] for event in events}
    return f"{cut.custom['corpus']}/{families.pop() if len(families) == 1 else 'mixed'}"


def choose(cuts: Sequence[Any], window_frames: int, per_group: int) -> list[ReconstructionWindow]:
    """Up to `per_group` windows of each group, chosen by the hash of their names: the same ones on every run."""
    groups: dict[str, list[tuple[str, ReconstructionWindow]]] = defaultdict(list)
    for cut in cuts:
        for number, window in enumerate(windows(cut, window_frames)):
            digest = hashlib.sha256(window.id.encode()).hexdigest()
            groups[group_of(cut)].append((digest, ReconstructionWindow(group_of(cut), cut, number)))
    return [
        window
        for _, found in sorted(groups.items())
        for _, window in sorted(found, key=lambda pair: pair[0])[:per_group]
    ]


class ReconstructionDataModule(L.LightningDataModule):
    """Batches of one group each, rank r taking every world-th."""

    def __init__(
        self,
        chosen: Sequence[ReconstructionWindow],
        roots: dict[str, Path],
        facts: dict[str, Any],
        batch_size: int,
        num_workers: int,
    ) -> None:
        """roots: corpus -> folder of its recordings; facts: of the stage `latents`."""
        super().__init__()
        self.num_workers = num_workers
        self.dataset = _Loaded(roots, facts)
        groups: dict[str, list[ReconstructionWindow]] = defaultdict(list)
        for window in chosen:
            groups[window.group].append(window)
        self.batches = [
            found[start : start + batch_size] for found in groups.values() for start in range(0, len(found), batch_size)
        ]

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = self.batches[rank::world]
        return DataLoader(
            self.dataset,
            sampler=mine,
            batch_size=None,
            num_workers=min(self.num_workers, len(mine)),
            worker_init_fn=heedless,
        )


class _Loaded(Dataset):
    def __init__(self, roots: dict[str, Path], facts: dict[str, Any]) -> None:
        self.roots, self.facts = roots, facts

    def __getitem__(self, batch: list[ReconstructionWindow]) -> SoundBatch:
        facts = self.facts
        samples = facts["window_frames"] * facts["hop_length"]
        latents = collate_latents([windows(window.cut, facts["window_frames"])[window.number] for window in batch])
        sounds, counts = [], []
        for window in batch:
            root = self.roots[window.cut.custom["corpus"]]
            loaded = load_windows(window.cut, root, facts["sample_rate"], facts["channels"], samples, window.number, 1)
            sounds.append(loaded.waveform[0])
            counts.append(loaded.num_samples[0])
        length = latents.latents.shape[1] * facts["hop_length"]
        return SoundBatch(batch[0].group, latents, torch.stack(sounds)[..., :length], torch.stack(counts))
