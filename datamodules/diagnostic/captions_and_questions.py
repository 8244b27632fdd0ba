"""From a timeline to words: captions, and questions whose answers follow from the timeline and from nothing else.

Nothing in a question's text tells its answer: the kinds named in "no" questions are those named in "yes" questions,
dealt out to other scenes; the counts asked about are equally often one to four; the order in which two sounds are named
is random.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from numpy.random import Generator

from datamodules.diagnostic.scene import ABSENT, CAPTIONS, QUESTIONS, Event, Scene, generator
from datamodules.diagnostic.wordings import WORDINGS

WORDINGS_A_SCENE = 3  # captions
NUMBERS = ("one", "two", "three", "four")
LOUDER = 6.0  # dB; the least difference asked about


class Question(NamedTuple):
    kind: str  # what, presence, count, order, when, loudness, instrument, word; times, together, at, end, grounding, side, distance
    question: str
    answer: str  # one or two words, lower case; when: "0", "0.5", ... (seconds); grounding: two times


def captions(scene: Scene, seed: int) -> list[str]:
    """Different sentences that name every event in the order of its onset."""
    rng = generator(seed, scene.split, scene.number, CAPTIONS)
    sentences: list[str] = []
    for template in rng.permutation(len(TEMPLATES)):
        clauses = [_pick(rng, event.phrases.clauses).format(word=event.word) for event in scene.events]
        nominals = [_pick(rng, event.phrases.nominals).format(word=event.word) for event in scene.events]
        text = TEMPLATES[template](clauses, nominals)
        text = text[0].upper() + text[1:] + "."
        if text not in sentences:
            sentences.append(text)
    return sentences[:WORDINGS_A_SCENE]


def _and(parts: list[str], last: str) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + last + parts[-1]


TEMPLATES = (
    lambda clauses, nominals: ", then ".join(clauses),
    lambda clauses, nominals: ", followed by ".join(nominals),
    lambda clauses, nominals: (
        f"first {', then '.join(clauses[:-1])}, and finally {clauses[-1]}" if clauses[1:] else f"just {nominals[0]}"
    ),
    lambda clauses, nominals: "you can hear " + _and(nominals, ", and then "),
    lambda clauses, nominals: "a recording of " + _and(nominals, " and then "),
    lambda clauses, nominals: _and(clauses, ", and after that "),
    lambda clauses, nominals: (
        "the sounds in order are: " + ", ".join(nominals) if nominals[1:] else "the only sound is " + nominals[0]
    ),
    lambda clauses, nominals: (
        nominals[0] + " comes before " + ", then ".join(nominals[1:]) if nominals[1:] else clauses[0]
    ),
)


def questions(scenes: list[Scene], seed: int, wordings: Mapping[str, Sequence[str]] = WORDINGS) -> list[list[Question]]:
    """For every scene all kinds of question that apply. Balanced over the list, so pass a whole split."""

    def ask(rng: Generator, wording: str, answer: str, **names: str) -> Question:
        return question(rng, wordings, wording, answer, **names)

    asked = []
    present, absent = _presence(scenes, seed)
    counted = _counted(scenes)
    for position, scene in enumerate(scenes):
        rng = generator(seed, scene.split, scene.number, QUESTIONS)
        events = scene.events
        of_scene: list[Question] = []
        if len(events) == 1:
            of_scene.append(ask(rng, "what", events[0].kind))
        else:
            of_scene.append(ask(rng, "what first", events[0].kind))
            of_scene.append(ask(rng, "what last", events[-1].kind))
            of_scene.append(compare(rng, wordings, "order", *_pair(rng, events)))
        of_scene.append(ask(rng, "presence", "yes", noun=present[position].phrases.noun))
        if (no := absent[position]) is not None:
            of_scene.append(ask(rng, "presence", "no", noun=no.phrases.noun))
        if scene.number in counted:
            of_scene.append(ask(rng, "count", NUMBERS[len(events) - 1]))
        timed = events[rng.integers(len(events))]
        of_scene.append(ask(rng, "when", f"{timed.second:g}", a=timed.kind))
        gaps = [(a, b) for a in events for b in events if a.gain_db - b.gain_db >= LOUDER]
        if gaps:
            of_scene.append(compare(rng, wordings, "loudness", *gaps[rng.integers(len(gaps))]))
        for kind, family in (("instrument", "music"), ("word", "speech")):
            of_family = [event for event in events if event.family == family]
            if len(of_family) == 1:
                of_scene.append(ask(rng, kind, of_family[0].word or of_family[0].kind))
        asked.append(of_scene)
    return asked


def question(rng: Generator, wordings: Mapping[str, Sequence[str]], kind: str, answer: str, **names: str) -> Question:
    """kind: a key of the wordings; its first word is the question's kind."""
    return Question(kind.split()[0], _pick(rng, wordings[kind]).format(**names), answer)


def compare(rng: Generator, wordings: Mapping[str, Sequence[str]], kind: str, winner: Event, other: Event) -> Question:
    """Of two events, named in random order, the one that is earlier or louder."""
    a, b = (winner, other) if rng.random() < 0.5 else (other, winner)
    return question(rng, wordings, kind, winner.kind, a=a.kind, b=b.kind)


def _pair(rng: Generator, events: tuple[Event, ...]) -> tuple[Event, Event]:
    first, second = sorted(rng.choice(len(events), 2, replace=False))
    return events[first], events[second]


def _pick(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _presence(scenes: list[Scene], seed: int) -> tuple[list[Event], list[Event | None]]:
    """An event of each scene to ask "yes" about; the same events, dealt to scenes that lack their kind, for "no".

    So every kind is asked about equally often with either answer. None where no other scene can give one (tiny splits).
    """
    if not scenes:
        return [], []
    rng = generator(seed, scenes[0].split, 0, ABSENT)
    present = [scene.events[rng.integers(len(scene.events))] for scene in scenes]
    kinds = [{event.kind for event in scene.events} for scene in scenes]
    dealt = [present[k] for k in rng.permutation(len(scenes))]
    for i in range(len(scenes)):
        if dealt[i].kind not in kinds[i]:
            continue
        for j in rng.permutation(len(scenes)):
            if dealt[j].kind not in kinds[i] and dealt[i].kind not in kinds[j]:
                dealt[i], dealt[j] = dealt[j], dealt[i]
                break
    return present, [event if event.kind not in kinds[i] else None for i, event in enumerate(dealt)]


def _counted(scenes: list[Scene]) -> set[int]:
    """Indices of scenes to ask "how many": equally many of each number of events."""
    groups = [[scene.number for scene in scenes if len(scene.events) == n] for n in range(1, len(NUMBERS) + 1)]
    return {index for group in groups for index in group[: min(map(len, groups))]}
