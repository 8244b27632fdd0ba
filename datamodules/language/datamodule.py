"""Conversations to batches of ids.

entries.py ──► measured.py ──► batches.py ──► numbers of items ──► turns of text and sound ──► ids, labels, kinds ──► LanguageBatch
(opened)       (once, stored)  (an epoch)                      (conversations.py)         (encode, from the stage)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import NumberedBatches
from datamodules.language.buckets import bucket_ends
from datamodules.language.conversations import Conversation, Segment, Turn
from datamodules.language.curriculum import Lessons
from datamodules.language.lengths import Items, measure
from datamodules.sampler import ResumableDataModule


class Part(NamedTuple):
    """Training data: all of it, or an entry of a curriculum."""

    entries: Sequence[Sequence[Conversation]]  # datamodules/language/entries.py
    max_tokens: int
    batches: int | None  # that it is trained for; None: without end, which is of an only part
    place: Path | None = None  # where its lengths are stored: datamodules/language/lengths.py


class Encoded(NamedTuple):
    """One conversation: all of length S."""

    input_ids: Sequence[int]
    labels: Sequence[int]  # -100 is ignored
    kinds: Sequence[int]  # token kind of each label: models.vocabulary


class Packed(NamedTuple):
    """One training sequence: all of length S."""

    input_ids: list[int]
    labels: list[int]
    kinds: list[int]
    positions: list[int]  # in its own talk
    branches: list[int]  # 0 for what all talks share, then 1, 2, ... for the rest of each


class LanguageBatch(NamedTuple):
    """Right-padded. Padding has attention 0, label -100 and the id `pad_id`; no position of it is ever a code."""

    ids: list[str]
    input_ids: Tensor  # (B, S) long
    attention_mask: Tensor  # (B, S) long
    labels: Tensor  # (B, S) long
    kinds: Tensor  # (B, S) long
    positions: Tensor  # (B, S) long
    branches: Tensor  # (B, S) long


class LanguageDataModule(ResumableDataModule):
    """Conversations bucketed by token count, a token budget a batch.

    `encode` turns talks into ids (the vocabulary is the stage's). A conversation above the `max_tokens` of its part is left out, listed in `too_long`
    and never cut. train: one part, or the entries of a curriculum in their order, each with its number of batches.
    """

    def __init__(
        self,
        train: Sequence[Part],
        validation: Part,
        encode: Callable[[list[list[Turn]]], list[Encoded]],
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
        parts: list[Items] = []
        for part in (*train, validation):
            measured = measure(
                part.entries, part.max_tokens, lambda items: lengths(items, encode), num_workers, part.place,
                lambda count, before=done: progress(before + count),
            )  # fmt: skip
            parts.append(measured)
            done += len(part.entries)
        self.train_items, self.validation_items = parts[:-1], parts[-1]
        self.too_long = [item for part in parts for item in part.too_long]
        self.batches = [part.batches for part in train if part.batches is not None]
        assert len(self.batches) == len(train) or (not self.batches and len(train) == 1)
        self.dataset = _Encode(parts, encode, pad_id)

    def train_sampler(self, rank: int, world: int) -> NumberedBatches | Lessons:
        samplers = [
            self._sampler(number, rank, world, shuffle=True, seed=self.seed + 10_007 * number)
            for number in range(len(self.train_items))
        ]  # equal items, another order
        return Lessons(samplers, self.batches) if self.batches else samplers[0]

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


def lengths(items: Sequence[Conversation], encode: Callable[[list[list[Turn]]], list[Encoded]]) -> list[int]:
    """Ids of each conversation's packed sequence, without writing its codes: a code is one id, and a sound that talks share is written once."""
    silent = [
        [[(role, [_silent(part) for part in parts]) for role, parts in talk] for talk in item.talks] for item in items
    ]
    encoded = iter(encode([talk for talks in silent for talk in talks]))
    found = []
    for item in items:
        packed = pack([next(encoded) for _ in item.talks])
        first, *others = [
            [len(part) for _, parts in talk for part in parts if not isinstance(part, str)] for talk in item.talks
        ]
        found.append(len(packed.input_ids) + sum(first) + sum(sum(codes[1:]) for codes in others))
    return found


def _silent(segment: Segment) -> Segment:
    return segment if isinstance(segment, str) else []


class _Encode(torch.utils.data.Dataset):
    """Numbers of items, counted through all parts -> LanguageBatch."""

    def __init__(
        self, parts: Sequence[Items], encode: Callable[[list[list[Turn]]], list[Encoded]], pad_id: int
    ) -> None:
        self.parts, self.encode, self.pad_id = parts, encode, pad_id
        self.starts = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, numbers: np.ndarray) -> LanguageBatch:
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        items = [self.parts[part][number - self.starts[part]] for part, number in zip(owners, numbers, strict=True)]
        encoded = iter(self.encode([talk for item in items for talk in item.talks]))
        return collate([(item.id, pack([next(encoded) for _ in item.talks])) for item in items], self.pad_id)


def pack(talks: Sequence[Encoded]) -> Packed:
    """Talks to one sequence: what all begin with once, then the rest of each.

    Attending to the shared beginning and to itself, at its own positions, each talk has the logits it would have alone.
    """
    first, shared = talks[0], 0
    if len(talks) > 1:
        labelled = min(
            next((n for n, label in enumerate(talk.labels) if label != -100), len(talk.labels)) for talk in talks
        )
        columns = zip(*(talk.input_ids[:labelled] for talk in talks), strict=False)
        shared = next((n for n, column in enumerate(columns) if len(set(column)) > 1), labelled)
        shared = min(shared, labelled - 1)  # the token that says a label is each talk's own
    packed = Packed(
        list(first.input_ids),
        list(first.labels),
        list(first.kinds),
        list(range(len(first.input_ids))),
        [0] * len(first.input_ids),
    )
    packed.branches[shared:] = [1 if len(talks) > 1 else 0] * (len(first.input_ids) - shared)
    for number, talk in enumerate(talks[1:], 2):
        for column in range(3):
            packed[column].extend(talk[column][shared:])
        packed.positions.extend(range(shared, len(talk.input_ids)))
        packed.branches.extend([number] * (len(talk.input_ids) - shared))
    return packed


def collate(items: Sequence[tuple[str, Packed]], pad_id: int) -> LanguageBatch:
    length = max(len(packed.input_ids) for _, packed in items)

    def padded(column: int, value: int) -> Tensor:
        rows = [list(packed[column]) for _, packed in items]
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    lengths = torch.tensor([len(packed.input_ids) for _, packed in items])
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = [name for name, _ in items]
    return LanguageBatch(ids, padded(0, pad_id), mask, padded(1, -100), padded(2, 0), padded(3, 0), padded(4, 0))
