"""Twins: two scenes that differ in one thing. What a model learned of it, and whether the sound decides its answers.

    of what training has, and of what no ordinary scene has; the questions are the same (but for combinations):
        combinations  a kind is exchanged, so that no training scene has these kinds together
        wordings      questions in other words, about the same scene
        voices        another eSpeak variant speaks
        programs      another General MIDI program of the same instrument plays
        length        the scene is twice as long
        level         every event is 16 dB quieter
    minimal pairs, of which each question has two answers, one for either scene:
        exchanged     one event is of another kind: "is there A", "is there B"
        moved         two events change places: "which comes first"
        louder        two events change their gains: "which is louder"

A model that does not listen is right of both scenes of a minimal pair never. In the spirit of contrast sets (Gardner et al.
2020, arXiv:2004.02709).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from numpy.random import Generator

from datamodules.diagnostic import music, speech
from datamodules.diagnostic.captions_and_questions import LOUDER, Question, compare, question, questions
from datamodules.diagnostic.scene import CHANGES, COUNTS, KINDS, Event, Scene, generator, plan
from datamodules.diagnostic.wordings import HELD_OUT_WORDINGS, WORDINGS
from datamodules.errors import DataError

MINIMAL_PAIRS = ("exchanged", "moved", "louder")
QUIETER = 16.0  # dB
SEARCHED = 12  # scenes that are planned for each one that is wanted
Family = Mapping[str, music.Instrument | speech.Voice]
FAMILIES: dict[str, Family] = {"voices": speech.VOICES, "programs": music.INSTRUMENTS}


class Twins(NamedTuple):
    usual: Scene
    other: Scene  # which differs along the axis
    usual_questions: list[Question]
    other_questions: list[Question]  # in the same order, but of combinations


def twins(
    axis: str,
    seed: int,
    count: int,
    scene_seconds: Sequence[float],
    only: Sequence[str],
    training: Iterable[Scene],
    noise_floor_share: float = 0.0,
) -> list[Twins]:
    """At most `count` of them. training: the scenes with whose kinds combinations are compared; others do not read them.

    Raises DataError where no scene can be changed so.
    """
    seen = _combinations(training) if axis == "combinations" else set()
    cards = [kind for kind in KINDS if not only or kind in only]
    pairs: list[tuple[Scene, Scene]] = []
    for scene in plan(seed, axis, SEARCHED * count, scene_seconds, only, noise_floor_share):
        other = _change(axis, scene, generator(seed, axis, scene.number, CHANGES), cards, seen)
        if other is not None and len(pairs) < count:
            pairs.append((scene, other))
    if not pairs:
        raise DataError(f"axis {axis}: no scene of the kinds {', '.join(cards)} can be changed so.")
    if axis in MINIMAL_PAIRS:
        asked = [_minimal(axis, *pair, generator(seed, axis, pair[0].number, CHANGES)) for pair in pairs]
        return [Twins(*pair, *both) for pair, both in zip(pairs, asked, strict=True)]
    usual = questions([scene for scene, _ in pairs], seed)
    words = HELD_OUT_WORDINGS if axis == "wordings" else WORDINGS
    changed = questions([scene for _, scene in pairs], seed, words)
    about = FAMILIES.get(axis, {})
    return [
        Twins(*pair, *([one for one in asked if not about or _is_about(one, about)] for asked in both))
        for pair, *both in zip(pairs, usual, changed, strict=True)
    ]


def _change(axis: str, scene: Scene, rng: Generator, cards: Sequence[str], seen: set[frozenset[str]]) -> Scene | None:
    """The other scene; None where this one cannot differ so."""
    events = list(scene.events)
    first, second = rng.permutation(len(events))[:2] if len(events) > 1 else (0, 0)
    if axis == "wordings":
        return scene
    if axis in FAMILIES:
        return _in_other_timbre(scene, FAMILIES[axis], rng)
    if axis == "length":
        later = [event._replace(onset=round(event.onset + event.second, 3)) for event in events]
        return scene._replace(seconds=2 * scene.seconds, events=tuple(later))
    if axis == "level":
        quieter = [event._replace(gain_db=round(event.gain_db - QUIETER, 2)) for event in events]
        return scene._replace(events=tuple(quieter))
    if axis == "combinations":
        return _unseen(scene, rng, cards, seen)
    if axis == "exchanged":
        exchanged = _exchanged(scene, rng, cards, lambda kinds: True)
        return exchanged[rng.integers(len(exchanged))] if exchanged else None
    if first == second:
        return None
    a, b = events[first], events[second]
    if axis == "moved":
        events[first], events[second] = _at_the_place_of(b, a), _at_the_place_of(a, b)
        return scene._replace(events=tuple(events))
    if abs(a.gain_db - b.gain_db) < LOUDER:
        return None
    events[first], events[second] = a._replace(gain_db=b.gain_db), b._replace(gain_db=a.gain_db)
    return scene._replace(events=tuple(events))


def _combinations(scenes: Iterable[Scene]) -> set[frozenset[str]]:
    """All sets of two or more kinds that are heard together in a scene."""
    kinds = {frozenset(event.kind for event in scene.events) for scene in scenes}
    return {frozenset(some) for one in kinds for n in range(2, max(COUNTS) + 1) for some in combinations(one, n)}


def _unseen(scene: Scene, rng: Generator, cards: Sequence[str], seen: set[frozenset[str]]) -> Scene | None:
    if len(scene.events) < 2 or frozenset(event.kind for event in scene.events) not in seen:
        return None
    choices = _exchanged(scene, rng, cards, lambda kinds: kinds not in seen)
    return choices[rng.integers(len(choices))] if choices else None


def _exchanged(
    scene: Scene, rng: Generator, cards: Sequence[str], allowed: Callable[[frozenset[str]], bool]
) -> list[Scene]:
    """The scene with one event of another kind, which none of it has; a voice, which has a word, stays."""
    kinds = [event.kind for event in scene.events]
    others = [kind for kind in cards if kind not in kinds and kind not in speech.VOICES]
    return [
        scene._replace(events=(*scene.events[:n], event._replace(kind=kind), *scene.events[n + 1 :]))
        for n, event in enumerate(scene.events)
        for kind in others
        if event.word is None and allowed(frozenset({*kinds, kind} - {event.kind}))
    ]


def _in_other_timbre(scene: Scene, family: Family, rng: Generator) -> Scene | None:
    drawn = [rng.random() for _ in scene.events]
    events = tuple(
        event._replace(timbre=choices[int(share * len(choices))])
        if event.kind in family and (choices := family[event.kind].held_out)
        else event
        for event, share in zip(scene.events, drawn, strict=True)
    )
    return scene._replace(events=events) if events != scene.events else None


def _at_the_place_of(event: Event, other: Event) -> Event:
    return event._replace(onset=other.onset, seconds=other.seconds)


def _minimal(axis: str, usual: Scene, other: Scene, rng: Generator) -> tuple[list[Question], list[Question]]:
    """Each question once for either scene: what is asked is the same, the answers differ."""
    if axis == "exchanged":
        a, b = (
            next(one for one in mine.events if one.kind not in {event.kind for event in theirs.events})
            for mine, theirs in ((usual, other), (other, usual))
        )
        asked = [question(rng, WORDINGS, "presence", "yes", noun=one.phrases.noun) for one in (a, b)]
        no = [one._replace(answer="no") for one in asked]
        return [asked[0], no[1]], [no[0], asked[1]]
    before = {event.kind: event for event in usual.events}
    if axis == "moved":
        changed = [event for event in other.events if event.onset != before[event.kind].onset]
        winner, loser = sorted((before[event.kind] for event in changed), key=lambda event: event.onset)
        of_usual = compare(rng, WORDINGS, "order", winner, loser)
    else:
        changed = [event for event in other.events if event.gain_db != before[event.kind].gain_db]
        loser, winner = sorted((before[event.kind] for event in changed), key=lambda event: event.gain_db)
        of_usual = compare(rng, WORDINGS, "loudness", winner, loser)
    return [of_usual], [of_usual._replace(answer=loser.kind)]


def _is_about(asked: Question, family: Family) -> bool:
    """Whether it asks for a sound of the family, or its answer is one."""
    named = any(f"the {kind}" in asked.question or KINDS[kind].phrases.noun in asked.question for kind in family)
    return named or asked.answer in family or (family is speech.VOICES and asked.kind == "word")
