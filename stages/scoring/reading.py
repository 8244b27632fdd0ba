"""Free text to a label: what a model said, read by a rule that is written down. No torch here.

    answer ──► empty? ──► exactly a label? ──► refusal? ──► mentions that no negation covers ──► one label, or a reason why not

A rule never guesses: what it cannot read is `None` with the reason, counts as wrong, and lowers `coverage`. The one exception is `nearest`: an
embedding's argmax (LTU's way, Gong et al. 2023, arXiv:2305.10790) always finds a label, and is asked last.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from conf.errors import UsageError
from stages.scoring.words import cues, mentions, refusal, said, words

EMPTY, REFUSAL, NONE, SEVERAL, NEGATED = "empty", "refusal", "no label", "several labels", "negated"
READ = "read"


class Label(NamedTuple):
    name: str
    aliases: tuple[str, ...] = ()  # other ways to say it; plurals of each are found by themselves


class Reading(NamedTuple):
    label: str | None  # its name; None where the answer was not read
    why: str  # READ, or the reason why not


class Read(NamedTuple):
    """Of many answers."""

    accuracy: float  # share right of ALL answers; unread ones are wrong
    coverage: float  # share that was read
    unread: dict[str, int]  # reason -> answers


Rule = Callable[[str, Sequence[Label]], Reading]


def exact(text: str, labels: Sequence[Label]) -> Reading:
    """The whole answer is a label, an alias or a plural of one, but for case, punctuation and a leading article."""
    tokens = words(text)
    if not tokens:
        return Reading(None, EMPTY)
    found = _whole(tokens, labels)
    return Reading(found, READ) if found else Reading(None, REFUSAL if refusal(text) else NONE)


def whole_word(text: str, labels: Sequence[Label]) -> Reading:
    """The one label that the answer names in whole words, of those that it does not deny ("a dog, not a cat" is a dog).

    A label inside a longer one ("guitar" in "acoustic guitar") is not named. Where several are, what follows "the answer is" decides.
    """
    caught = _caught(text, labels)
    if caught:
        return caught
    found = _named(said(text), labels)
    if found.label is None and found.why == SEVERAL and (tail := _conclusion(text)):
        last = _named(tail, labels)
        return last if last.label else found
    return found


def choice(text: str, choices: Sequence[Label]) -> Reading:
    """Of a question with choices: its letter ("B", "(B)", "B.", "answer: B"), or the one choice that the answer names; both must agree.

    Choices that are the same text are one choice: they are compared by what they say, not by where they stand.
    """
    letters, denied = _letters(said(text, keep_questions=True), len(choices))
    if len(letters) > 1:
        return Reading(None, SEVERAL)
    named = whole_word(text, choices)
    if not letters:
        return Reading(None, NEGATED) if denied and named.why == NONE else named
    chosen = choices[letters.pop()].name
    if named.label is None:
        return named if named.why in (NEGATED, REFUSAL) else Reading(chosen, READ)
    return named if _key(named.label) == _key(chosen) else Reading(None, SEVERAL)


def nearest(
    text: str, labels: Sequence[Label], similarities: Callable[[str, Sequence[str]], Sequence[float]]
) -> Reading:
    """The label whose text lies nearest to an answer that names none. similarities: (answer, label names) -> one number each, as cosines.

    An embedding is blind to negation and never abstains: what `whole_word` reads, finds denied, refused or named several times over stands.
    """
    found = whole_word(text, labels)
    if found.label is not None or found.why != NONE:
        return found
    numbers = list(similarities(said(text), [label.name for label in labels]))
    return Reading(labels[max(range(len(labels)), key=numbers.__getitem__)].name, READ)


def named(text: str, labels: Sequence[Label]) -> set[str]:
    """All labels that an answer affirms, for recordings with several."""
    if not words(text) or (refusal(text) and not _whole(words(text), labels)):
        return set()
    return {mention.name for mention in mentions(said(text), labels) if not mention.denied}


def summary(readings: Iterable[Reading], answers: Iterable[str]) -> Read:
    """answers: the right label's name of each; compared but for case and punctuation."""
    pairs = list(zip(readings, answers, strict=True))
    unread: dict[str, int] = {}
    for reading, _ in pairs:
        if reading.label is None:
            unread[reading.why] = unread.get(reading.why, 0) + 1
    right = sum(reading.label is not None and _key(reading.label) == _key(answer) for reading, answer in pairs)
    total = len(pairs)
    if not total:
        return Read(float("nan"), float("nan"), {})
    return Read(right / total, 1 - sum(unread.values()) / total, dict(sorted(unread.items())))


def labelled(given: Sequence[str] | dict[str, Any]) -> list[Label]:
    """Labels of a task file: a list of names, or names with their aliases. Raises UsageError where two share a text."""
    pairs = given.items() if isinstance(given, dict) else ((name, ()) for name in given)
    labels = [Label(str(name), tuple(map(str, aliases or ()))) for name, aliases in pairs]
    owner: dict[str, str] = {}
    for label in labels:
        for text in (label.name, *label.aliases):
            if owner.setdefault(_key(text), label.name) != label.name:
                raise UsageError(f"the labels {owner[_key(text)]!r} and {label.name!r} are both called {text!r}")
    return labels


RULES: dict[str, Rule] = {"exact": exact, "whole_word": whole_word, "choice": choice}


def _caught(text: str, labels: Sequence[Label]) -> Reading | None:
    tokens = words(text)
    if not tokens:
        return Reading(None, EMPTY)
    if found := _whole(tokens, labels):
        return Reading(found, READ)
    return Reading(None, REFUSAL) if refusal(text) else None


def _named(text: str, labels: Sequence[Label]) -> Reading:
    found = mentions(text, labels)
    affirmed = {_key(mention.name): mention.name for mention in found if not mention.denied}
    if len(affirmed) > 1:
        return Reading(None, SEVERAL)
    if affirmed:
        return Reading(next(iter(affirmed.values())), READ)
    return Reading(None, NEGATED if found else NONE)


def _whole(tokens: Sequence[str], labels: Sequence[Label]) -> str | None:
    found = {
        mention.name
        for mention in mentions(" ".join(tokens), labels, negation=False)
        if mention.end - mention.begin == len(tokens)
    }
    return found.pop() if len({_key(name) for name in found}) == 1 else None


def _conclusion(text: str) -> str:
    """What follows the last "the answer is"; empty where nothing does."""
    parts = re.split(r"\b(?:answer|conclusion|choice|option|guess)\s*(?:is|would be|:|=)\s*", text, flags=re.IGNORECASE)
    return said(parts[-1]) if len(parts) > 1 else ""


LETTER = re.compile(
    r"""(?P<cue>\b(?:answer|option|choice)\s*(?:is|would\ be|:)?\s*)?    # "the answer is B", "option B"
        (?P<open>[(\[*]+)?\b(?P<letter>[A-Za-z])\b(?P<close>[)\]*]+|[.:](?=\s|$))?""",
    re.VERBOSE | re.IGNORECASE,
)


LETTERS = re.compile(
    r"\W*[A-Za-z](?:(?:\s*[,/]\s*|\s+(?:or|and)\s+|\s*,\s*(?:or|and)\s+)[A-Za-z])+\W*"
)  # "A or B", "A, C"


def _letters(text: str, count: int) -> tuple[set[int], bool]:
    """Places of the choices that are called by their letter, and whether one was called and denied."""
    stripped = text.strip()
    found: set[int] = set()
    denied = False
    several = LETTERS.fullmatch(stripped)
    for match in LETTER.finditer(stripped):
        letter, after = match["letter"], stripped[match.end() :]
        closed = bool(match["close"])
        begins = match.start("letter") == 0 or bool(match["open"]) or stripped[match.start("letter") - 1] == "\n"
        called = (
            bool(match["cue"]) and (letter.isupper() or closed) and not (letter == "A" and re.match(r"\s+[a-z]", after))
        )
        if not (several or match.group(0) == stripped or (closed and begins) or called):
            continue
        place = ord(letter.upper()) - ord("A")
        if place < count:
            away = any(begin <= match.start() < end for begin, end in cues(stripped))
            denied |= away
            found |= set() if away else {place}
    return found, denied


def _key(text: str) -> str:
    return " ".join(words(text))
