"""Encoded dialogues to padded batches; several dialogues on one sound share its tokens in one sequence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language.conversations import Conversation, Segment, Turn

IGNORED = -100  # the label of a position that is not trained


class Encoded(NamedTuple):
    """One dialogue: three sequences of length S."""

    input_ids: Sequence[int]
    labels: Sequence[int]  # IGNORED, or the id
    kinds: Sequence[int]  # token kind of each label: models/language/vocabulary.py


Encode = Callable[[list[list[Turn]]], list[Encoded]]  # dialogues to ids, by the vocabulary of the stage


class Packed(NamedTuple):
    """One training sequence: five lists of length S."""

    input_ids: list[int]
    labels: list[int]
    kinds: list[int]
    positions: list[int]  # in its own dialogue
    branches: list[int]  # 0 for what all dialogues share, then 1, 2, ... for the rest of each


class LanguageBatch(NamedTuple):
    """Right-padded. Padding has attention 0, label IGNORED and the id `pad_id`; no position of it is ever a code."""

    ids: list[str]
    input_ids: Tensor  # (B, S) long
    attention_mask: Tensor  # (B, S) long
    labels: Tensor  # (B, S) long
    kinds: Tensor  # (B, S) long
    positions: Tensor  # (B, S) long
    branches: Tensor  # (B, S) long
    captions: Sequence[str | None] = ()  # of the items from text to sound, "" where it was dropped; None for the others
    answers: Sequence[Sequence[str]] = ()  # of the pairs of each row: chosen, rejected, chosen, ...; () of other rows


def pack(dialogues: Sequence[Encoded]) -> Packed:
    """Dialogues to one sequence: what all begin with once, then the rest of each.

    Attending to the shared beginning and to itself, at its own positions, each dialogue has the logits that it would
    have alone.
    """
    first, shared = dialogues[0], _shared_length(dialogues)
    length = len(first.input_ids)
    packed = Packed(
        list(first.input_ids),
        list(first.labels),
        list(first.kinds),
        list(range(length)),
        [0] * shared + [1 if len(dialogues) > 1 else 0] * (length - shared),
    )
    for number, dialogue in enumerate(dialogues[1:], 2):
        packed.input_ids.extend(dialogue.input_ids[shared:])
        packed.labels.extend(dialogue.labels[shared:])
        packed.kinds.extend(dialogue.kinds[shared:])
        packed.positions.extend(range(shared, len(dialogue.input_ids)))
        packed.branches.extend([number] * (len(dialogue.input_ids) - shared))
    return packed


def _shared_length(dialogues: Sequence[Encoded]) -> int:
    """Ids that all dialogues begin with; 0 for one dialogue. No label is among them, nor the id that predicts the
    first.
    """
    if len(dialogues) == 1:
        return 0
    unlabelled = min(
        next((n for n, label in enumerate(one.labels) if label != IGNORED), len(one.labels)) for one in dialogues
    )
    columns = zip(*(one.input_ids[:unlabelled] for one in dialogues), strict=False)
    equal = next((n for n, column in enumerate(columns) if len(set(column)) > 1), unlabelled)
    return min(equal, unlabelled - 1)


def collate(items: Sequence[tuple[str, Packed]], pad_id: int) -> LanguageBatch:
    """(id, sequence) of each item -> a batch as long as the longest."""
    lengths = torch.tensor([len(packed.input_ids) for _, packed in items])
    longest = int(lengths.max())

    def padded(column: int, value: int) -> Tensor:
        rows = [list(packed[column]) for _, packed in items]
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    mask = (torch.arange(longest) < lengths[:, None]).long()
    ids = [name for name, _ in items]
    return LanguageBatch(ids, padded(0, pad_id), mask, padded(1, IGNORED), padded(2, 0), padded(3, 0), padded(4, 0))


def packed_lengths(items: Sequence[Conversation], encode: Encode, times_in_sounds: bool = False) -> list[int]:
    """Ids of each conversation's packed sequence, without writing its codes: a code is one id, and a sound that
    dialogues share is written once. times_in_sounds: it may have others in it, and is written.
    """
    if times_in_sounds:
        written = iter(encode([dialogue for item in items for dialogue in item.dialogues]))
        return [len(pack([next(written) for _ in item.dialogues]).input_ids) for item in items]
    silent = [
        [[(role, [_silent(part) for part in parts]) for role, parts in dialogue] for dialogue in item.dialogues]
        for item in items
    ]
    encoded = iter(encode([dialogue for dialogues in silent for dialogue in dialogues]))
    lengths = []
    for item in items:
        packed = pack([next(encoded) for _ in item.dialogues])
        first, *others = [
            [len(part) for _, parts in dialogue for part in parts if not isinstance(part, str)]
            for dialogue in item.dialogues
        ]
        shared = 0 if isinstance(item.dialogues[0][0][1][0], str) else 1  # sounds that all begin with
        lengths.append(len(packed.input_ids) + sum(first) + sum(sum(codes[shared:]) for codes in others))
    return lengths


def _silent(segment: Segment) -> Segment:
    return segment if isinstance(segment, str) else []
