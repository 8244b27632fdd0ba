"""Held-out windows with their sound, by group: what a tokenizer's reconstruction is measured on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import load_windows
from datamodules.batches import in_groups
from datamodules.cuts import Cut
from datamodules.hashing import digest
from datamodules.latents import LatentBatch, collate_latents, latent_windows
from datamodules.sampler import ignore_signals, ranks_of
from datamodules.windows import WindowRule


class ReconstructionWindow(NamedTuple):
    group: str
    cut: Cut  # the recording, with its latents
    number: int  # of the window in the recording


class SoundBatch(NamedTuple):
    number: int  # among the batches of all ranks
    group: str
    latents: LatentBatch
    waveform: Tensor  # (B, C, T) float32
    num_samples: Tensor  # (B) long


def group_of(cut: Cut) -> str:
    """The corpus; for a corpus that knows the families of its events also their family, or `mixed`."""
    corpus = cut.custom["corpus"]
    events = cut.custom.get("metadata", {}).get("events")
    if not events:
        return corpus
    families = {event["family"] for event in events}
    return f"{corpus}/{families.pop() if len(families) == 1 else 'mixed'}"


def choose_windows(cuts: Sequence[Cut], rule: WindowRule, per_group: int) -> list[ReconstructionWindow]:
    """Up to `per_group` windows of each group, chosen by the hash of their names: the same ones on every run."""
    groups: dict[str, list[tuple[str, ReconstructionWindow]]] = defaultdict(list)
    for cut in cuts:
        group = group_of(cut)
        for number, window in enumerate(latent_windows(cut, rule)):
            groups[group].append((digest(window.id), ReconstructionWindow(group, cut, number)))
    return [
        window
        for _, pairs in sorted(groups.items())
        for _, window in sorted(pairs, key=lambda pair: pair[0])[:per_group]
    ]


class ReconstructionDataModule(L.LightningDataModule):
    """Batches of one group each, rank r taking every world-th.

    roots: corpus -> folder of its recordings; facts: of the stage `latents` (sample_rate, channels, hop_length, and those
    of the window rule).
    """

    def __init__(
        self,
        windows: Sequence[ReconstructionWindow],
        roots: Mapping[str, Path],
        facts: Mapping[str, Any],
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.num_workers, self.done = num_workers, set[int]()  # numbers of batches that are left out
        groups: dict[str, list[ReconstructionWindow]] = defaultdict(list)
        for window in windows:
            groups[window.group].append(window)
        self.batches = [batch for group in groups.values() for batch in in_groups(group, batch_size)]
        self.dataset = _WindowReader(self.batches, roots, facts)

    def predict_dataloader(self) -> DataLoader[SoundBatch]:
        rank, world = ranks_of(self)
        numbers = [number for number in range(len(self.batches)) if number not in self.done][rank::world]
        return DataLoader(
            self.dataset,
            sampler=numbers,
            batch_size=None,
            num_workers=min(self.num_workers, len(numbers)),
            worker_init_fn=ignore_signals,
        )


class _WindowReader(Dataset[SoundBatch]):
    def __init__(
        self, batches: Sequence[Sequence[ReconstructionWindow]], roots: Mapping[str, Path], facts: Mapping[str, Any]
    ) -> None:
        self.batches, self.roots, self.facts = batches, roots, facts

    def __getitem__(self, number: int) -> SoundBatch:
        return self.read(number, self.batches[number])

    def read(self, number: int, batch: Sequence[ReconstructionWindow]) -> SoundBatch:
        rule, hop = WindowRule.from_facts(self.facts), self.facts["hop_length"]
        rate, channels = self.facts["sample_rate"], self.facts["channels"]
        latents = collate_latents([latent_windows(window.cut, rule)[window.number] for window in batch])
        sounds = [
            load_windows(
                window.cut, self.roots[window.cut.custom["corpus"]], rate, channels, rule, hop, window.number, 1
            )[0]
            for window in batch
        ]
        counts, length = [sound.shape[1] for sound in sounds], latents.latents.shape[1] * hop
        waveform = torch.stack([torch.nn.functional.pad(sound, (0, length - sound.shape[1])) for sound in sounds])
        return SoundBatch(number, batch[0].group, latents, waveform, torch.tensor(counts))
