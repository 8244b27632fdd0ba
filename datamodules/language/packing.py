"""Encoded conversations to padded batches; several talks on one sound share its tokens in one sequence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language.conversations import Conversation, Segment, Turn


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


Encode = Callable[[list[list[Turn]]], list[Encoded]]  # the vocabulary is the stage's


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


def packed_lengths(items: Sequence[Conversation], encode: Encode) -> list[int]:
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
