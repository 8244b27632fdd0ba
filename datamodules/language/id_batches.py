"""Conversations to batches of ids.

conversation_sources.py ──► lengths.py ──► batches.py ──► numbers of items ──► turns of text and sound ──► ids, labels, kinds ──► LanguageBatch
(opened, not loaded)        (once, kept)   (an epoch)                           (conversations.py)          (encode)               (packing.py)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datamodules.batches import NumberedBatches
from datamodules.language.buckets import bucket_ends
from datamodules.language.conversations import Conversation
from datamodules.language.curriculum import CurriculumBatches
from datamodules.language.lengths import MeasuredItems, measure
from datamodules.language.packing import Encode, LanguageBatch, collate, pack, packed_lengths
from datamodules.sampler import ResumableDataModule


class DataPart(NamedTuple):
    """Training data: all of it, or an entry of a curriculum."""

    entries: Sequence[Sequence[Conversation]]  # of conversation_sources.py
    max_tokens: int
    batches: int | None  # that it is trained for; None: without end, which is of an only part
    place: Path | None = None  # where its lengths are stored: datamodules/language/lengths.py


class LanguageDataModule(ResumableDataModule):
    """Conversations bucketed by token count, a token budget a batch.

    `encode` turns talks into ids (the vocabulary is the stage's). A conversation above the `max_tokens` of its part is left out, listed in `too_long`
    and never cut. train: one part, or the entries of a curriculum in their order, each with its number of batches.
    """

    def __init__(
        self,
        train: Sequence[DataPart],
        validation: DataPart,
        encode: Encode,
        pad_id: int,
        tokens_per_batch: int,
        num_buckets: int,
        seed: int,
        num_workers: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """progress: told of entries, where lengths are measured for the first time."""
        super().__init__(seed=seed, num_workers=num_workers)
        self.tokens_per_batch, self.num_buckets = tokens_per_batch, num_buckets
        done = 0
        parts: list[MeasuredItems] = []
        for part in (*train, validation):
            measured = measure(
                part.entries, part.max_tokens, lambda items: packed_lengths(items, encode), num_workers, part.place,
                lambda count, before=done: progress(before + count),
            )  # fmt: skip
            parts.append(measured)
            done += len(part.entries)
        self.train_items, self.validation_items = parts[:-1], parts[-1]
        self.too_long = [item for part in parts for item in part.too_long]
        self.batches = [part.batches for part in train if part.batches is not None]
        assert len(self.batches) == len(train) or (not self.batches and len(train) == 1)
        self.dataset = _Encode(parts, encode, pad_id)

    def train_sampler(self, rank: int, world: int) -> NumberedBatches | CurriculumBatches:
        samplers = [
            self._sampler(number, rank, world, shuffle=True, seed=self.seed + 10_007 * number)
            for number in range(len(self.train_items))
        ]  # equal items, another order
        return CurriculumBatches(samplers, self.batches) if self.batches else samplers[0]

    def validation_sampler(self, rank: int, world: int) -> NumberedBatches | None:
        if not len(self.validation_items):
            return None
        return self._sampler(len(self.train_items), rank, world, shuffle=False, seed=self.seed)

    def fingerprint(self) -> str:
        return "-".join([*(items.fingerprint for items in self.train_items), *map(str, self.batches)])

    def _sampler(self, part: int, rank: int, world: int, shuffle: bool, seed: int) -> NumberedBatches:
        """Buckets of like length; a bucket's batches have as many items as fit the budget at its greatest length."""
        found = self.dataset.parts[part].lengths
        ends = bucket_ends(found, self.num_buckets)
        sizes = [max(1, int(self.tokens_per_batch // length)) for length in ends]
        numbers = np.arange(self.dataset.starts[part], self.dataset.starts[part + 1])
        return NumberedBatches(found, ends, sizes, shuffle=shuffle, seed=seed, rank=rank, world=world, numbers=numbers)


class _Encode(torch.utils.data.Dataset):
    """Numbers of items, counted through all parts -> LanguageBatch."""

    def __init__(self, parts: Sequence[MeasuredItems], encode: Encode, pad_id: int) -> None:
        self.parts, self.encode, self.pad_id = parts, encode, pad_id
        self.starts = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, numbers: np.ndarray) -> LanguageBatch:
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        items = [self.parts[part][number - self.starts[part]] for part, number in zip(owners, numbers, strict=True)]
        encoded = iter(self.encode([talk for item in items for talk in item.talks]))
        return collate([(item.id, pack([next(encoded) for _ in item.talks])) for item in items], self.pad_id)
