"""Conversations to batches of ids.

conversation_sources.py   cuts and lines of text, opened and not loaded
  └► lengths.py           how many ids each conversation has, measured once and stored
      └► batches.py       an epoch: numbers of conversations, those of similar length in a batch
          └► packing.py   conversations, encoded ──► ids, labels, kinds ──► LanguageBatch
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.batches import NumberedBatches
from datamodules.language.answer_pairs import answers_of
from datamodules.language.buckets import bucket_ends
from datamodules.language.conversation_sources import ConversationSource
from datamodules.language.curriculum import CurriculumBatches
from datamodules.language.lengths import MeasuredItems, measure
from datamodules.language.packing import Encode, LanguageBatch, collate, pack, packed_lengths
from datamodules.sampler import ResumableDataModule


class DataPart(NamedTuple):
    """Training data: all of it, or an entry of a curriculum; or the validation data."""

    source: ConversationSource
    max_tokens: int
    batches: int | None  # that it is trained for; None: without end, for a part that is the only one
    folder: Path | None = None  # where its lengths are stored (lengths.py)


class LanguageDataModule(ResumableDataModule):
    """Conversations bucketed by token count, a token budget a batch.

    A conversation above the `max_tokens` of its part gives a window of its sound, another one each epoch
    (sound_windows.py); where no window fits it is left out and listed in `too_long`. Text is never cut. frame: codes of
    a frame of sound. train: one part,
    or the entries of a curriculum in their order, each with its number of batches. encode: dialogues to ids. progress:
    called with the number of entries that are measured, where lengths are measured for the first time. times_in_sounds: the
    ids of a sound may have times among them.
    """

    dataset: "_BatchEncoder"

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
        frame: int = 1,
        times_in_sounds: bool = False,
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.tokens_per_batch, self.num_buckets = tokens_per_batch, num_buckets
        self.batches = [part.batches for part in train if part.batches is not None]
        assert len(self.batches) == len(train) or (not self.batches and len(train) == 1)
        done = 0
        measured: list[MeasuredItems] = []
        for part in (*train, validation):
            measured.append(
                measure(
                    part.source,
                    part.max_tokens,
                    lambda items: packed_lengths(items, encode, times_in_sounds),
                    num_workers,
                    part.folder,
                    _counting_from(done, progress),
                    frame,
                )
            )
            done += len(part.source)
        self.train_items, self.validation_items = measured[:-1], measured[-1]
        self.too_long = [item for items in measured for item in items.too_long]
        self.num_windows = sum(items.num_windows for items in measured)
        self.dataset = _BatchEncoder(measured, encode, pad_id, seed, frame)

    def train_sampler(self, rank: int, world: int) -> NumberedBatches | CurriculumBatches:
        samplers = [
            # parts may hold equal items, in another order
            self._sampler(number, rank, world, shuffle=True, seed=self.seed + 10_007 * number)
            for number in range(len(self.train_items))
        ]
        return CurriculumBatches(samplers, self.batches) if self.batches else samplers[0]

    def validation_sampler(self, rank: int, world: int) -> NumberedBatches | None:
        if not len(self.validation_items):
            return None
        return self._sampler(len(self.train_items), rank, world, shuffle=False, seed=self.seed)

    def fingerprint(self) -> str:
        return "-".join([*(items.fingerprint for items in self.train_items), *map(str, self.batches)])

    def _sampler(self, part: int, rank: int, world: int, shuffle: bool, seed: int) -> NumberedBatches:
        """Buckets of similar length; the batches of a bucket have as many items as fit the budget at its greatest
        length.
        """
        lengths = self.dataset.parts[part].lengths
        ends = bucket_ends(lengths, self.num_buckets)
        sizes = [max(1, int(self.tokens_per_batch // length)) for length in ends]
        numbers = np.arange(self.dataset.starts[part], self.dataset.starts[part + 1])
        windows = shuffle and self.dataset.parts[part].num_windows
        kind = partial(_EpochBatches, int(self.dataset.starts[-1])) if windows else NumberedBatches
        return kind(lengths, ends, sizes, shuffle=shuffle, seed=seed, rank=rank, world=world, numbers=numbers)


def _counting_from(before: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda count: progress(before + count)


class _EpochBatches(NumberedBatches):
    """Numbers that say their epoch: epoch * total + number."""

    def __init__(self, total: int, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.total = total

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        batches, offset = super().from_batch(batch), self.epoch * self.total
        return (numbers + offset for numbers in batches)


class _BatchEncoder(torch.utils.data.Dataset[LanguageBatch]):
    """Numbers of items (B), counted through all parts, plus a total for each epoch -> LanguageBatch."""

    def __init__(self, parts: Sequence[MeasuredItems], encode: Encode, pad_id: int, seed: int, frame: int) -> None:
        self.parts, self.encode, self.pad_id, self.seed, self.frame = parts, encode, pad_id, seed, frame
        self.starts = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, numbers: np.ndarray) -> LanguageBatch:
        epochs, numbers = np.divmod(numbers, self.starts[-1])
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        items = [
            self.parts[part].of_epoch(int(number - self.starts[part]), int(epoch), self.seed, self.frame)
            for part, number, epoch in zip(owners, numbers, epochs, strict=True)
        ]
        encoded = iter(self.encode([dialogue for item in items for dialogue in item.dialogues]))
        batch = collate([(item.id, pack([next(encoded) for _ in item.dialogues])) for item in items], self.pad_id)
        return batch._replace(captions=[item.caption for item in items], answers=list(map(answers_of, items)))
