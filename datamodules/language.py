"""Cached cuts to conversations, and conversations to batches of ids.

    cut: codes, captions, questions ──► conversation: turns of text and sound ──► ids, labels, kinds ──► LanguageBatch
                                         (one direction, or several questions)     (encode, from the stage)

Sound to text and text to sound are the paper's two directions; questions on one sound may share its tokens as turns of one conversation.
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
    turns: list[Turn]


class Encoded(NamedTuple):
    """One conversation: all of length S."""

    input_ids: Sequence[int]
    labels: Sequence[int]  # -100 is ignored
    kinds: Sequence[int]  # token kind of each label: models.vocabulary


class LanguageBatch(NamedTuple):
    """Right-padded. Padding has attention 0, label -100 and the id `pad_id`; no position of it is ever a code."""

    ids: list[str]
    input_ids: Tensor  # (B, S) long
    attention_mask: Tensor  # (B, S) long
    labels: Tensor  # (B, S) long
    kinds: Tensor  # (B, S) long


class Mixture(NamedTuple):
    sound_to_text: float
    text_to_sound: float
    question: float


def conversations(
    cuts: Iterable[Any], mixture: Mixture, sound_to_text: Sequence[str], text_to_sound: Sequence[str], turns: int
) -> list[Conversation]:
    """All conversations of one epoch. Wordings, shares and turn orders hang on the cut's id alone: the same on every rank and every run."""
    found: list[Conversation] = []
    for cut in cuts:
        codes, source = list(cut.custom["codes"]), cut.custom["source"]
        captions = [sup for sup in cut.supervisions if sup.custom["task"] == "caption"]
        questions = [sup for sup in cut.supervisions if sup.custom["task"] == "question"]
        for sup in captions:
            for copy in range(_copies(mixture.sound_to_text, f"{sup.id}>text")):
                prompt = sound_to_text[_number(f"{sup.id}>{copy}") % len(sound_to_text)]
                turn = [("user", [codes, f"\n{prompt}"]), ("assistant", [sup.text])]
                found.append(Conversation(f"{sup.id}-text-{copy}", "sound_to_text", source, turn))
            for copy in range(_copies(mixture.text_to_sound, f"{sup.id}>sound")):
                prompt = text_to_sound[_number(f"{sup.id}<{copy}") % len(text_to_sound)].format(caption=sup.text)
                turn = [("user", [prompt]), ("assistant", [codes])]
                found.append(Conversation(f"{sup.id}-sound-{copy}", "text_to_sound", source, turn))
        for copy in range(max(_copies(mixture.question, f"{sup.id}?") for sup in questions) if questions else 0):
            asked = [sup for sup in questions if copy < _copies(mixture.question, f"{sup.id}?")]
            random.Random(_number(f"{cut.id}?{copy}")).shuffle(asked)
            for begin in range(0, len(asked), turns):
                talk: list[Turn] = []
                for sup in asked[begin : begin + turns]:
                    question = sup.custom["question"]
                    talk += [
                        ("user", [question] if talk else [codes, f"\n{question}"]),
                        ("assistant", [sup.custom["answer"]]),
                    ]
                found.append(Conversation(f"{cut.id}-questions-{copy}-{begin}", "question", source, talk))
    return found


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
            length = len(self.encode(item.turns).input_ids)
            if length > max_tokens:
                self.too_long.append(item.id)
            else:
                cuts.append(
                    MonoCut(
                        item.id, start=0, duration=length, channel=0, custom={"num_tokens": length, "turns": item.turns}
                    )
                )
        return cuts


class _Encode(torch.utils.data.Dataset):
    """CutSet of conversations -> LanguageBatch."""

    def __init__(self, encode: Callable[[list[Turn]], Encoded], pad_id: int) -> None:
        self.encode, self.pad_id = encode, pad_id

    def __getitem__(self, cuts: CutSet) -> LanguageBatch:
        return collate([(cut.id, self.encode(cut.custom["turns"])) for cut in cuts], self.pad_id)


def collate(items: Sequence[tuple[str, Encoded]], pad_id: int) -> LanguageBatch:
    length = max(len(encoded.input_ids) for _, encoded in items)

    def padded(column: int, value: int) -> Tensor:
        rows = [list(encoded[column]) for _, encoded in items]
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    lengths = torch.tensor([len(encoded.input_ids) for _, encoded in items])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return LanguageBatch([name for name, _ in items], padded(0, pad_id), mask, padded(1, -100), padded(2, 0))


def _copies(weight: float, name: str) -> int:
    """How often an item of this weight comes in an epoch: its whole part, and once more for the fractional share of the names."""
    whole = int(weight)
    return whole + (_number(name) % 10_000 < 10_000 * (weight - whole))


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
