"""Rules that read a label from a model's free text. No torch here.

    answer ──► empty? ──► exactly a label? ──► refusal? ──► mentions that no negation covers ──► one label, or a reason why not

A rule never guesses: what it cannot read is `None` with the reason, counts as wrong, and lowers `coverage`. The one
exception is `nearest`: an embedding's argmax (LTU's way, Gong et al. 2023, arXiv:2305.10790) always gives a label, and
comes last.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from conf.errors import UsageError
from stages.scoring.english import (
    differ_in_signs,
    key_among,
    mentions,
    negated_spans,
    refusal,
    statements,
    words,
)

EMPTY, REFUSAL, NONE, SEVERAL, NEGATED = "empty", "refusal", "no label", "several labels", "negated"
READ = "read"


class Label(NamedTuple):
    name: str
    aliases: tuple[str, ...] = ()  # other ways to say it; plurals need no alias


class Reading(NamedTuple):
    label: str | None  # its name; None where the answer was not read
    why: str  # READ, or the reason why not


Rule = Callable[[str, Sequence[Label]], Reading]


def exact(text: str, labels: Sequence[Label]) -> Reading:
    """The whole answer is a label, an alias or a plural of one, but for case, punctuation and a leading article."""
    if not words(text):
        return Reading(None, EMPTY)
    label = _whole(text, labels)
    return Reading(label, READ) if label else Reading(None, REFUSAL if refusal(text) else NONE)


def whole_word(text: str, labels: Sequence[Label]) -> Reading:
    """The one label that the answer names in whole words, of those that it does not deny ("a dog, not a cat" is a dog).

    A label inside a longer one ("guitar" in "acoustic guitar") is not named. Where several are, what follows "the
    answer is" decides.
    """
    if obvious := _obvious(text, labels):
        return obvious
    reading = _named(statements(text), labels)
    if reading.label is None and reading.why == SEVERAL and (tail := _conclusion(text)):
        last = _named(tail, labels)
        return last if last.label else reading
    return reading


def choice(text: str, choices: Sequence[Label]) -> Reading:
    """A choice of a question: its letter ("B", "(B)", "B.", "answer: B"), or the one choice that the answer names; both
    must agree.

    Choices that are the same text are one choice: they are compared by what they say, not by where they stand. An
    answer that is a choice's text, to the letter, is that choice: of the notes C, D and A, "A" is the third.
    """
    if verbatim := [one.name for one in choices if one.name.strip().casefold() == text.strip().casefold()]:
        return Reading(verbatim[0], READ)
    letters, denied = _letters(statements(text, keep_questions=True), len(choices))
    if len(letters) > 1:
        return Reading(None, SEVERAL)
    named = whole_word(text, choices)
    if not letters:
        return Reading(None, NEGATED) if denied and named.why == NONE else named
    chosen = choices[letters.pop()].name
    if named.label is None:
        return named if named.why in (NEGATED, REFUSAL) else Reading(chosen, READ)
    key = key_among(one.name for one in choices)
    return named if key(named.label) == key(chosen) else Reading(None, SEVERAL)


def nearest(
    text: str, labels: Sequence[Label], similarities: Callable[[str, Sequence[str]], Sequence[float]]
) -> Reading:
    """The label whose text lies nearest to an answer that names none. similarities: (answer, label names) -> one number
    each, as cosines.

    An embedding is blind to negation and never abstains: what `whole_word` reads, and what it calls denied, refused or
    several labels, stays so.
    """
    reading = whole_word(text, labels)
    if reading.label is not None or reading.why != NONE:
        return reading
    numbers = list(similarities(statements(text), [label.name for label in labels]))
    return Reading(labels[max(range(len(labels)), key=numbers.__getitem__)].name, READ)


def named(text: str, labels: Sequence[Label]) -> set[str]:
    """All labels that an answer affirms, for recordings with several."""
    if not words(text) or (refusal(text) and not _whole(text, labels)):
        return set()
    return {mention.name for mention in mentions(statements(text), labels) if not mention.denied}


def labelled(given: Sequence[str] | dict[str, Any]) -> list[Label]:
    """Labels of a task file: a list of names, or names with their aliases. Raises UsageError where two share a text, or
    one has no word.
    """
    pairs = given.items() if isinstance(given, dict) else ((name, ()) for name in given)
    labels = [Label(str(name), tuple(map(str, aliases or ()))) for name, aliases in pairs]
    key = key_among(text for label in labels for text in (label.name, *label.aliases))
    owner: dict[str, str] = {}
    for label in labels:
        for text in (label.name, *label.aliases):
            if not key(text):
                raise UsageError(f"the label {text!r} has no letter and no digit: no answer can be read as it")
            if owner.setdefault(key(text), label.name) != label.name:
                raise UsageError(f"the labels {owner[key(text)]!r} and {label.name!r} are both called {text!r}")
    return labels


def final_answer(text: str) -> str:
    """What a model that reasons answers at last: behind </think>, and there in <answer>...</answer> or \\boxed{...}; of
    other texts all.
    """
    behind = text.rpartition("</think>")[2]
    marked = re.findall(r"<answer>(.*?)(?:</answer>|$)", behind, re.DOTALL | re.IGNORECASE)
    marked = marked or re.findall(r"\\boxed\{(?:\\text\{)?([^{}]*)\}", behind)
    return marked[-1] if marked else behind


RULES: dict[str, Rule] = {"exact": exact, "whole_word": whole_word, "choice": choice}


def _obvious(text: str, labels: Sequence[Label]) -> Reading | None:
    """The reading of an answer that is empty, a label or a refusal; None for any other."""
    if not words(text):
        return Reading(None, EMPTY)
    if label := _whole(text, labels):
        return Reading(label, READ)
    return Reading(None, REFUSAL) if refusal(text) else None


def _named(text: str, labels: Sequence[Label]) -> Reading:
    mentioned = mentions(text, labels)
    key = key_among(label.name for label in labels)
    affirmed = {key(mention.name): mention.name for mention in mentioned if not mention.denied}
    if len(affirmed) > 1:
        return Reading(None, SEVERAL)
    if affirmed:
        return Reading(next(iter(affirmed.values())), READ)
    return Reading(None, NEGATED if mentioned else NONE)


def _whole(text: str, labels: Sequence[Label]) -> str | None:
    names = [name for label in labels for name in (label.name, *label.aliases)]
    tokens = words(text, differ_in_signs(tuple(names)))
    whole = {
        mention.name
        for mention in mentions(" ".join(tokens), labels, negation=False)
        if mention.end - mention.begin == len(tokens)
    }
    return min(whole) if len(set(map(key_among(names), whole))) == 1 else None


def _conclusion(text: str) -> str:
    """What follows the last "the answer is"; empty where nothing does."""
    parts = re.split(r"\b(?:answer|conclusion|choice|option|guess)\s*(?:is|would be|:|=)\s*", text, flags=re.IGNORECASE)
    return statements(parts[-1]) if len(parts) > 1 else ""


LETTER = re.compile(
    r"""(?P<cue>\b(?:answer|option|choice)\s*(?:is|would\ be|:)?\s*)?    # "the answer is B", "option B"
        (?P<open>[(\[*]+)?\b(?P<letter>[A-Za-z])\b(?P<close>[)\]*]+|[.:](?=\s|$))?""",
    re.VERBOSE | re.IGNORECASE,
)
LETTERS = re.compile(
    r"\W*[A-Za-z](?:(?:\s*[,/]\s*|\s+(?:or|and)\s+|\s*,\s*(?:or|and)\s+)[A-Za-z])+\W*"
)  # "A or B", "A, C"


def _letters(text: str, count: int) -> tuple[set[int], bool]:
    """Indices of the choices that are called by their letter, and whether one was called and denied."""
    stripped = text.strip()
    affirmed: set[int] = set()
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
        index = ord(letter.upper()) - ord("A")
        if index < count:
            negated = any(begin <= match.start() < end for begin, end in negated_spans(stripped))
            denied |= negated
            affirmed |= set() if negated else {index}
    return affirmed, denied
