"""Cached cuts to conversations, and conversations to batches of ids.

    cut: codes, captions, questions ──► conversation: turns of text and sound ──► ids, labels, kinds ──► LanguageBatch
                                         (one direction, or several questions)     (encode, from the stage)

Sound to text and text to sound are the paper's two directions; questions on one sound share its tokens in one
sequence, each blind to the others, so that none learns its answer from another's.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import DynamicBucketingSampler, SimpleCutSampler
from lhotse.dataset.sampling.base import CutSampler
from lhotse.dataset.sampling.dynamic_bucketing import FixedBucketBatchSizeConstraint
from torch import Tensor

from datamodules.sampler import ResumableDataModule, hash_ids

Segment = str | list[int]  # text, or the codes of a sound
Turn = tuple[str, list[Segment]]  # ("user" | "assistant", segments)


class Conversation(NamedTuple):
    id: str
    kind: str  # sound_to_text | text_to_sound | question
    source: str
    talks: list[list[Turn]]  # several share their beginning, the sound, and are blind to each other


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


class Mixture(NamedTuple):
    sound_to_text: float
    text_to_sound: float
    question: float


def conversations(
    cuts: Iterable[Any],
    mixture: Mixture,
    sound_to_text: Sequence[str],
    text_to_sound: Sequence[str],
    questions_together: int,
    kinds: Sequence[str] = (),
) -> list[Conversation]:
    """All conversations of one epoch; of the questions those of `kinds`, or all where it is empty.

    Wordings, shares and orders hang on the cut's id alone: the same on every rank and every run.
    """
    found: list[Conversation] = []
    for cut in cuts:
        codes, source = list(cut.custom["codes"]), cut.custom["source"]
        captions = [sup for sup in cut.supervisions if sup.custom["task"] == "caption"]
        questions = [sup for sup in cut.supervisions if is_asked(sup, kinds)]
        for sup in captions:
            for copy in range(_copies(mixture.sound_to_text, f"{sup.id}>text")):
                prompt = sound_to_text[_number(f"{sup.id}>{copy}") % len(sound_to_text)]
                turn = [("user", [codes, f"\n{prompt}"]), ("assistant", [sup.text])]
                found.append(Conversation(f"{sup.id}-text-{copy}", "sound_to_text", source, [turn]))
            for copy in range(_copies(mixture.text_to_sound, f"{sup.id}>sound")):
                prompt = text_to_sound[_number(f"{sup.id}<{copy}") % len(text_to_sound)].format(caption=sup.text)
                turn = [("user", [prompt]), ("assistant", [codes])]
                found.append(Conversation(f"{sup.id}-sound-{copy}", "text_to_sound", source, [turn]))
        for copy in range(max(_copies(mixture.question, f"{sup.id}?") for sup in questions) if questions else 0):
            asked = [sup for sup in questions if copy < _copies(mixture.question, f"{sup.id}?")]
            random.Random(_number(f"{cut.id}?{copy}")).shuffle(asked)
            for begin in range(0, len(asked), questions_together):
                talks: list[list[Turn]] = [
                    [("user", [codes, f"\n{sup.custom['question']}"]), ("assistant", [sup.custom["answer"]])]
                    for sup in asked[begin : begin + questions_together]
                ]
                found.append(Conversation(f"{cut.id}-questions-{copy}-{begin}", "question", source, talks))
    return found


def is_asked(supervision: Any, kinds: Sequence[str]) -> bool:
    """Whether it is a question of one of the kinds; of any where `kinds` is empty."""
    return supervision.custom["task"] == "question" and (not kinds or supervision.custom["kind"] in kinds)


class LanguageDataModule(ResumableDataModule):
    """Conversations bucketed by token count, a token budget a batch.

    `encode` turns the turns of a conversation into ids (the vocabulary is the stage's). A conversation above `max_tokens` is left out, counted in
    `too_long` and never cut.
    """

    def __init__(
        self,
        train: list[Conversation],
        validation: list[Conversation],
        encode: Callable[[list[Turn]], Encoded],
        pad_id: int,
        tokens_per_batch: int,
        num_buckets: int,
        max_tokens: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.encode = encode
        self.dataset = _Encode(encode, pad_id)
        self.tokens_per_batch, self.num_buckets = tokens_per_batch, num_buckets
        self.too_long: list[str] = []
        self.train_items = self._measure(train, max_tokens)
        self.validation_items = self._measure(validation, max_tokens)

    def train_sampler(self, rank: int, world: int) -> CutSampler:
        return self._sampler(self.train_items, rank, world, shuffle=True)

    def validation_sampler(self, rank: int, world: int) -> CutSampler | None:
        return self._sampler(self.validation_items, rank, world, shuffle=False) if self.validation_items else None

    def fingerprint(self) -> str:
        return hash_ids(self.train_items)

    def _sampler(self, items: list[MonoCut], rank: int, world: int, shuffle: bool) -> CutSampler:
        """Buckets of like length; fewer buckets than asked where there are few different lengths.

        A bucket's batches have as many items as fit the budget at its greatest length: Lhotse's TokenConstraint looks at what is in the batch
        already, so one longer item at its end goes beyond the budget.
        """
        lengths = sorted(cut.duration for cut in items)
        edges = sorted(
            {lengths[len(lengths) * number // self.num_buckets] for number in range(1, self.num_buckets)}
            - {lengths[-1]}
        )
        if not edges:
            return SimpleCutSampler(
                CutSet.from_cuts(items), max_cuts=max(1, self.tokens_per_batch // int(lengths[-1])), shuffle=shuffle,
                seed=self.seed, rank=rank, world_size=world,
            )  # fmt: skip
        longest = [*edges, lengths[-1]]  # of each bucket
        sizes = [max(1, int(self.tokens_per_batch // length)) for length in longest]
        return DynamicBucketingSampler(
            CutSet.from_cuts(items), constraint=FixedBucketBatchSizeConstraint(longest, sizes), duration_bins=edges,
            buffer_size=20_000, shuffle=shuffle, seed=self.seed, rank=rank, world_size=world, drop_last=False,
        )  # fmt: skip

    def _measure(self, items: list[Conversation], max_tokens: int) -> list[MonoCut]:
        cuts = []
        for item in items:
            length = len(pack([self.encode(talk) for talk in item.talks]).input_ids)
            if length > max_tokens:
                self.too_long.append(item.id)
            else:
                cuts.append(
                    MonoCut(
                        item.id, start=0, duration=length, channel=0, custom={"num_tokens": length, "talks": item.talks}
                    )
                )
        return cuts


class _Encode(torch.utils.data.Dataset):
    """CutSet of conversations -> LanguageBatch."""

    def __init__(self, encode: Callable[[list[Turn]], Encoded], pad_id: int) -> None:
        self.encode, self.pad_id = encode, pad_id

    def __getitem__(self, cuts: CutSet) -> LanguageBatch:
        return collate(
            [(cut.id, pack([self.encode(talk) for talk in cut.custom["talks"]])) for cut in cuts], self.pad_id
        )


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


def _copies(weight: float, name: str) -> int:
    """How often an item of this weight comes in an epoch: its whole part, and once more for the fractional share of the names."""
    whole = int(weight)
    return whole + (_number(name) % 10_000 < 10_000 * (weight - whole))


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
