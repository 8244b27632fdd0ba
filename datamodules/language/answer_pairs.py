"""Pairs of answers to one request about a sound: one to choose and one to reject.

    labels ─────► "Is there a dog?" of a recording without one: no, not yes; of one that has one: yes, not no
    questions ──► yes or no: the other one; a number: one more or less; one of two sounds that are named: the other one
    swapped ────► the caption, or the answer to such a question, of another recording, where it is wrong of this one
    JSONL ──────► {"sound": ID, "prompt": ..., "chosen": ..., "rejected": ...}: two texts, or the codes of two sounds

An item's dialogues are chosen, rejected, chosen, rejected, ...: in one sequence they share the sound, and are blind to
each other. What is absent is asked in three ways (absent_sounds.py), each as often as what is present.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.cuts import Cut, captions, questions
from datamodules.errors import DataError
from datamodules.hashing import digest, hash_number
from datamodules.language.absent_sounds import Absent, AbsentSounds, labels_of, presence_questions
from datamodules.language.conversations import PAIR, Conversation, Turn, label_words, sound_answer
from datamodules.language.line_files import LineFile
from datamodules.store.index import CachedCuts

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OTHER = {"yes": "no", "no": "yes"}
KEYS = ("sound", "prompt", "chosen", "rejected")
TOKENIZER = "tokenizer"  # key of a line of two sounds: hash of the tokenizer whose codes they are
CAPTION = "caption"
MOST_READ = 10_000  # training cuts that say what is usual, evenly spread: more would change no label that is frequent
TRIES = 16  # other recordings that are looked at for an answer that is wrong here


class Making(NamedTuple):
    """How a recording becomes pairs."""

    absent: Sequence[Absent]
    kinds: Sequence[str]  # of question, of which wrong answers are made
    question: str  # with {label}; where the corpus asks nothing about a label
    together: int  # pairs in one sequence at most
    swapped: Sequence[str] = ()  # kinds of question, or CAPTION, whose answer of another recording is rejected
    caption_prompts: Sequence[str] = ()  # what a caption answers


Answer = str | list[int]  # a text, or the codes of a sound


class AnswerPair(NamedTuple):
    prompt: str  # of two texts, after the recording; of two sounds, alone
    chosen: Answer
    rejected: Answer


class CutPairs:
    """The pairs of the cuts of the cache. train: the cuts that say what is usual, and how it is asked for."""

    def __init__(self, cuts: CachedCuts, train: CachedCuts, making: Making) -> None:
        self.cuts, self.making = cuts, making
        read = train[:: max(1, -(-len(train) // MOST_READ))] if making.absent else []
        self.usual, self.wordings = AbsentSounds(read), presence_questions(read)
        self.key = digest(f"{cuts.digest()} {train.digest()} {making}")

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> list[Conversation]:
        cut = self.cuts[index]
        made = [*self._of_labels(cut), *_of_questions(cut, self.making.kinds), *self._swapped(cut)]
        pairs = list(dict.fromkeys(made))
        return [
            _conversation(f"{cut.id}-pairs-{begin}", cut, pairs[begin : begin + self.making.together])
            for begin in range(0, len(pairs), self.making.together)
        ]

    def digest(self) -> str:
        return self.key

    def _of_labels(self, cut: Cut) -> Iterator[AnswerPair]:
        own = labels_of(cut)
        for way in self.making.absent if own else ():
            absent = self.usual.choose(own, way, cut.id)
            if absent is not None:
                yield AnswerPair(self._asked(absent, f"{cut.id}-{way}"), "no", "yes")
                present = own[hash_number(f"{cut.id}+{way}") % len(own)]
                yield AnswerPair(self._asked(present, f"{cut.id}+{way}"), "yes", "no")

    def _swapped(self, cut: Cut) -> Iterator[AnswerPair]:
        for kind in self.making.swapped:
            own = list(self._answered(cut, kind))
            if not own:
                continue
            asked, answer = own[hash_number(f"{cut.id}/{kind}") % len(own)]
            for attempt in range(TRIES):
                other = self.cuts[hash_number(f"{cut.id}/{kind}/{attempt}") % len(self.cuts)]
                theirs = [text for _, text in self._answered(other, kind)]
                if not theirs:
                    continue
                wrong = theirs[hash_number(f"{cut.id}/{other.id}") % len(theirs)]
                if not _may_be_right(wrong, kind, other, cut, [text for _, text in own]):
                    yield AnswerPair(asked, answer, wrong)
                    break

    def _answered(self, cut: Cut, kind: str) -> Iterator[tuple[str, str]]:
        """What is asked and its answer; not yes and no, of which another recording's belongs to another question."""
        if kind != CAPTION:
            for one in questions(cut, [kind]):
                if one.custom["answer"].lower() not in OTHER:
                    yield one.custom["question"], one.custom["answer"]
            return
        prompts = self.making.caption_prompts
        for one in captions(cut):
            yield prompts[hash_number(one.id) % len(prompts)], str(one.text)

    def _asked(self, label: str, name: str) -> str:
        texts = self.wordings.get(label) or [self.making.question.format(label=label)]
        return texts[hash_number(name) % len(texts)]


class FilePairs:
    """The pairs of a JSONL file about the sounds of this view; a line about another split's sound gives none.

    every: all cuts of the cache. tokenizer: hash of the one whose codes the LLM writes. labels_before_sound: the recording's
    labels stand in words before either sound. Raises DataError, when a line is read, where it is no pair, no corpus has its
    sound, or its codes are another tokenizer's.
    """

    def __init__(
        self, path: Path, cuts: CachedCuts, every: CachedCuts, tokenizer: str, labels_before_sound: bool = False
    ) -> None:
        self.lines = LineFile(path, "pairs.files", '{"sound", "prompt", "chosen", "rejected"}')
        self.cuts, self.every, self.tokenizer, self.labels_before_sound = cuts, every, tokenizer, labels_before_sound

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> list[Conversation]:
        where, text = self.lines.where(index), self.lines.text(index)
        if not text.strip():
            return []
        values = read_pair(text, where)
        cut = self.cuts.find(values["sound"])
        if cut is None and self.every.find(values["sound"]) is None:
            known = next((one.id for one in self.every), "none")
            raise DataError(f"{where}: no recording has the id {values['sound']!r}. One that there is: {known}")
        if values.get(TOKENIZER, self.tokenizer) != self.tokenizer:
            raise DataError(
                f"{where}: codes of the tokenizer {values[TOKENIZER][:16]}, and this stage's is {self.tokenizer[:16]}. "
                "`stage pairs` draws others"
            )
        if cut is None:
            return []
        name, pair = f"{cut.id}-pair-{digest(text)[:12]}", AnswerPair(*(values[key] for key in KEYS[1:]))
        return [_conversation(name, cut, [pair], label_words(cut) if self.labels_before_sound else "")]

    def digest(self) -> str:
        return f"{self.lines.digest()}-{self.cuts.digest()}" + "-labels" * self.labels_before_sound


def answers_of(item: Conversation) -> list[str]:
    """The texts chosen, rejected, chosen, ... of an item of pairs, "" for a sound; none of another item."""
    if item.kind != PAIR:
        return []
    return ["".join(part for part in dialogue[-1][1] if isinstance(part, str)) for dialogue in item.dialogues]


def read_pair(text: str, where: str) -> Mapping[str, Any]:
    """A line of JSONL. Raises DataError that begins with `where`."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: no JSON ({error})") from None
    keys = set(values) if isinstance(values, dict) else set()
    answers = [_kind(values[key]) for key in KEYS[2:]] if keys.issuperset(KEYS) else []
    expected = {*KEYS, TOKENIZER} if answers == ["sound", "sound"] else set(KEYS)
    texts = keys - set(KEYS[2:]) if answers == ["sound", "sound"] else keys
    if keys != expected or len(set(answers)) != 1 or any(_kind(values[key]) != "text" for key in texts):
        raise DataError(
            f"{where}: the keys {', '.join(KEYS)} are expected, each a text; or {TOKENIZER} too, and the codes of a sound "
            f"as chosen and as rejected; here {text[:60]!r}"
        )
    if values["chosen"] == values["rejected"]:
        raise DataError(f"{where}: 'chosen' and 'rejected' are the same {answers[0]}, {str(values['chosen'])[:60]!r}")
    return values


def _kind(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return "text"
    is_sound = isinstance(value, list) and value and all(type(code) is int and code >= 0 for code in value)
    return "sound" if is_sound else "neither"


def wrong_answer(question: str, answer: str, labels: Sequence[str], name: str) -> str | None:
    """An answer that is wrong because this one is right; None where none follows from it. name: decides among two."""
    text = answer.lower()
    if text in OTHER:
        return OTHER[text]
    numbers = list(NUMBERS) if text in NUMBERS else [str(number) for number in range(1, 100)]
    if text in numbers:
        index = numbers.index(text)
        near = numbers[max(0, index - 1) : index] + numbers[index + 1 : index + 2]
        return near[hash_number(name) % len(near)]
    others = sorted({label for label in labels if label != answer and label in question})
    return others[hash_number(name) % len(others)] if answer in labels and others else None


def _may_be_right(text: str, kind: str, other: Cut, cut: Cut, own: Sequence[str]) -> bool:
    """Whether an answer of the other recording may be one of this cut: it is its own, or names nothing that the cut has not."""
    labels = set(labels_of(cut))
    if text.lower() in {one.lower() for one in (*own, *labels)}:
        return True
    return kind == CAPTION and bool(labels) and set(labels_of(other)) <= labels


def _of_questions(cut: Cut, kinds: Sequence[str]) -> Iterator[AnswerPair]:
    for one in questions(cut, kinds) if kinds else ():
        question, answer = one.custom["question"], one.custom["answer"]
        wrong = wrong_answer(question, answer, labels_of(cut), one.id)
        if wrong is not None:
            yield AnswerPair(question, answer, wrong)


def _conversation(name: str, cut: Cut, pairs: Sequence[AnswerPair], words: str = "") -> Conversation:
    """words: before an answer that is a sound."""
    codes = list(cut.custom["codes"])
    dialogues: list[list[Turn]] = [
        [("user", [codes, f"\n{pair.prompt}"]), ("assistant", [answer])]
        if isinstance(answer, str)
        else [("user", [pair.prompt]), ("assistant", sound_answer(words, answer))]
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]
    return Conversation(name, PAIR, cut.custom["source"], dialogues)
