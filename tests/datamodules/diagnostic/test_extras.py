"""Extras: the first version is untouched, and what they ask follows from the timeline and cannot be guessed."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.diagnostic.captions_and_questions import captions, questions
from datamodules.diagnostic.extras import LASTING, NAMES, TIMES, enrich, extra_questions
from datamodules.diagnostic.scene import KINDS, STRIKES, Event, Scene, from_far, loudness, mix, partners, plan
from tests.datamodules.diagnostic.timeline import RATE, event


def rich(split: str, scenes: int, seconds: float = 5.0) -> list[Scene]:
    return [enrich(scene, NAMES, 0) for scene in plan(0, split, scenes, [seconds], apart=True)]


def test_scenes_captions_and_questions_without_extras_are_those_of_the_first_version() -> None:
    lines = []
    for split in ("train", "validation", "test"):
        scenes = plan(0, split, 60, [5.0, 10.0], noise_floor_share=0.5)
        assert [enrich(scene, [], 0) for scene in scenes] == scenes
        assert not any(extra_questions(scenes, [], 0))
        for scene, asked in zip(scenes, questions(scenes, 0), strict=True):
            events, floor = [tuple(one)[:7] for one in scene.events], scene.noise_floor and tuple(scene.noise_floor)
            lines.append(repr([scene.seconds, events, floor, captions(scene, 0), [tuple(one) for one in asked]]))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "11f520b1d96846760e867425456f84df887ca393dae5d73a08a080dbb638e380"


@pytest.mark.parametrize("seconds", [4.0, 5.0])
def test_richer_scenes_are_legible(seconds: float) -> None:
    together = Counter()
    for plain, scene in zip(plan(0, "train", 400, [seconds], apart=True), rich("train", 400, seconds), strict=True):
        ends = [one.onset + one.seconds for one in scene.events]
        assert all(end <= scene.seconds + 1e-6 for end in ends)
        assert [Event.of_dict(one.as_dict()) for one in scene.events] == list(scene.events)
        assert [one.onset for one in scene.events] == sorted(one.onset for one in scene.events)
        gaps = [abs(a.gain_db - b.gain_db) for a in scene.events for b in scene.events]
        assert all(gap <= 2.01 or gap >= 5.99 for gap in gaps)
        assert [one._replace(seconds=0, gain_db=0, onset=0, strikes=(), far=False) for one in scene.events] == [
            one._replace(seconds=0, gain_db=0, onset=0) for one in plain.events
        ], "the kinds and takes are those of the plain scene"
        for one in scene.events:
            assert abs(one.onset - one.second) <= 0.1 + 1e-9
            assert (not one.strikes) or (one.kind in STRIKES and len(one.strikes) <= len(TIMES))
            assert all(b - a > STRIKES[one.kind] + 0.1 for a, b in zip(one.strikes, one.strikes[1:], strict=False))
        times = np.arange(0, scene.seconds, 0.1)
        together.update(sum((times >= a.onset) & (times < b) for a, b in zip(scene.events, ends, strict=True)).tolist())
    assert together[2] > 500 and together[3] > 10


def test_answers_of_extras_worked_out_by_hand() -> None:
    rain, bell = event("rain", 0.5, seconds=3.45), event("bell", 2.0, seconds=1.2, strikes=(0.0, 0.7))
    scene = Scene("test", 0, 5.0, (rain, bell, event("dog", 4.2, seconds=0.7)))
    allowed = {
        "times": {("bell", "two")},
        "together": {("bell", "rain"), ("rain", "bell")},
        "at": {("1", "rain"), ("1.5", "rain"), ("4.5", "dog")},
        "end": {("rain", "4")},
    }
    got: dict[str, set[tuple[str, str]]] = {kind: set() for kind in allowed}
    for seed in range(60):
        for one in extra_questions([scene], ["layers", "repeats", "moments"], seed)[0]:
            names = [kind for kind in ("rain", "bell", "dog") if kind in one.question]
            number = one.question.split(" seconds")[0].split()[-1] if one.kind == "at" else ""
            assert len(names) == 1 or number
            got[one.kind].add((number or names[0], one.answer))
    assert got["times"] == allowed["times"] and got["together"] == allowed["together"] and got["end"] == allowed["end"]
    assert got["at"] and got["at"] <= allowed["at"]


def test_answers_of_extras_cannot_be_guessed_from_the_text() -> None:
    by_text: dict[str, Counter] = {}
    for scenes in extra_questions(rich("train", 1500), NAMES, 0):
        for one in scenes:
            by_text.setdefault(one.question, Counter())[one.answer] += 1
            by_text.setdefault(one.kind, Counter())[one.answer] += 1
    right, total = Counter(), Counter()
    for scenes in extra_questions(rich("test", 800), NAMES, 0):
        for one in scenes:
            total[one.kind] += 1
            right[one.kind] += by_text.get(one.question, by_text[one.kind]).most_common(1)[0][0] == one.answer
    assert (
        total.pop("unanswerable") == 800
        and set(total) == {"times", "together", "at", "end", "grounding", "side", "distance"}
        and min(total.values()) > 60
    )
    ceilings = {
        "times": 0.3,
        "together": 0.25,
        "at": 0.12,
        "end": 0.4,
        "grounding": 0.4,
        "side": 0.57,
        "distance": 0.57,
    }
    assert all(right[kind] / total[kind] <= ceilings[kind] for kind in total), (right, total)


def test_a_question_that_the_sound_does_not_answer_is_worded_as_one_that_it_does() -> None:
    scenes = rich("train", 600)
    answered, unanswered = Counter(), Counter()
    for scene, plain, extra in zip(scenes, questions(scenes, 0), extra_questions(scenes, NAMES, 0), strict=True):
        present, families = {one.kind for one in scene.events}, {one.family for one in scene.events}
        for one in [*plain, *extra]:
            names = {kind for kind in KINDS if re.search(rf"the {kind}\b", one.question)}
            wording = re.sub(
                "|".join(f"the {kind}" for kind in sorted(names, key=len, reverse=True)) or "$^", "X", one.question
            )
            (unanswered if one.kind == "unanswerable" else answered)[wording] += 1
            if one.kind == "unanswerable":
                assert one.answer == "not heard" and (names - present or not {"music", "speech"} <= families)
                assert not names or len(names - present) == 1
    assert len(unanswered) >= 12
    assert all(0.05 < unanswered[one] / (unanswered[one] + answered[one]) < 0.8 for one in unanswered), (
        unanswered,
        answered,
    )


def test_from_when_to_when_is_asked_of_every_sound_and_of_one_that_is_not_heard() -> None:
    scenes = [enrich(scene, ["layers"], 0) for scene in plan(0, "train", 300, [5.0])]
    positions, absent = Counter(), Counter()
    for scene, asked in zip(scenes, extra_questions(scenes, ["grounding"], 0), strict=True):
        answers = {}
        for one in asked:
            assert one.kind == "grounding"
            name = max((kind for kind in KINDS if f"the {kind}" in one.question), key=len)
            answers[name] = one.answer
        for one in scene.events:
            start, end = re.fullmatch(r"<\|(\d\.\d\d)\|> to <\|(\d\.\d\d)\|>", answers.pop(one.kind)).groups()
            assert abs(float(start) - one.onset) < 0.0051 and abs(float(end) - one.onset - one.seconds) < 0.0051
        assert list(answers.values()) == ["not heard"] and len(asked) == len(scene.events) + 1
        absent.update(list(answers))
        positions[len(asked), [one.answer for one in asked].index("not heard")] += 1
    assert len(absent) == len(KINDS) and max(absent.values()) < 30, "every kind is missed about equally often"
    assert all(positions[2, place] > 30 for place in (0, 1)), "the place in the list says nothing"


def test_places_are_added_to_a_scene_that_stays_as_it_is() -> None:
    scenes, others = plan(0, "train", 300, [5.0]), [name for name in NAMES if name != "place"]
    before, after = ([enrich(scene, extras, 0) for scene in scenes] for extras in (others, NAMES))
    assert before == [scene._replace(events=tuple(one._replace(far=False) for one in scene.events)) for scene in after]
    asked = [extra_questions(made, extras, 0) for made, extras in ((before, others), (after, NAMES))]
    assert asked[0] == [[one for one in of_scene if one.kind not in ("side", "distance")] for of_scene in asked[1]]


def test_places_that_are_asked_about_follow_from_the_scene_and_each_comes_as_often() -> None:
    scenes = [enrich(scene, ["place"], 0) for scene in plan(0, "train", 300, [5.0])]
    answers = {"side": Counter(), "distance": Counter()}
    for scene, asked in zip(scenes, extra_questions(scenes, ["place"], 0), strict=True):
        events = {one.kind: one for one in scene.events}
        assert not any(one.far for one in scene.events if one.kind in LASTING)
        for one in asked:
            event = events[max((kind for kind in events if f"the {kind}" in one.question), key=len)]
            if one.kind == "side":
                assert one.answer == ("left" if event.pan <= -0.4 else "right" if event.pan >= 0.4 else None)
            else:
                assert one.answer == ("far" if event.far else "near") and event.kind not in LASTING
            answers[one.kind][one.answer] += 1
    for counts in answers.values():
        assert len(counts) == 2 and len(set(counts.values())) == 1 and sum(counts.values()) > 250


def test_a_far_sound_is_as_loud_and_rings_on_and_is_on_its_side(sound_font: Path) -> None:
    near = event("violin", 0.5, seconds=0.6, pan=-0.6)
    sounds = [mix(Scene("test", 0, 3.0, (near._replace(far=far),)), RATE, sound_font) for far in (False, True)]
    levels = [loudness(sound[0], RATE) for sound in sounds]
    assert abs(levels[0] - levels[1]) < 1.0
    after = round(1.15 * RATE)
    assert not sounds[0][:, after:].any() and np.square(sounds[1][:, after:]).sum() > 0.01 * np.square(sounds[1]).sum()
    for sound in sounds:
        difference = 10 * np.log10(np.square(sound[0]).sum() / np.square(sound[1]).sum())
        assert abs(difference - 20 * np.log10(1 / np.tan(0.4 * np.pi / 4))) < 0.01  # 9.8 dB to the left
    again = mix(Scene("test", 0, 3.0, (near._replace(far=True),)), RATE, sound_font)
    assert np.array_equal(again, sounds[1])


def test_the_direct_sound_of_what_is_far_is_nine_decibels_below_its_room() -> None:
    impulse = np.zeros(100, np.float32)
    impulse[0] = 1.0
    power = np.square(from_far(impulse, 1, RATE).astype(np.float64))
    assert abs(10 * np.log10(power[1:].sum() / power[0]) - 9) < 0.01
    early, late = power[1 : RATE // 10].sum(), power[round(0.3 * RATE) : round(0.4 * RATE)].sum()
    assert abs(10 * np.log10(early / late) - 30) < 3  # 60 dB in 0.6 s


def test_kinds_that_are_apart_are_never_heard_together_and_every_kind_is() -> None:
    apart = partners(KINDS)
    scenes = rich("train", 400)
    assert all(apart[apart[kind]] == kind for kind in apart) and len(apart) == len(KINDS)
    for scene in scenes:
        kinds = {one.kind for one in scene.events}
        assert not kinds & {apart[kind] for kind in kinds}
    assert {one.kind for scene in scenes for one in scene.events} == set(KINDS)
    with pytest.raises(ValueError, match="kinds: 8 given; more than 8"):
        plan(0, "train", 1, [5.0], list(KINDS)[:8], apart=True)


@pytest.mark.parametrize("kind", STRIKES)
def test_a_sound_is_heard_as_often_as_it_is_struck(kind: str, sound_font: Path) -> None:
    gap = STRIKES[kind] + 0.2
    struck = event(kind, 0.5, seconds=2 * gap + STRIKES[kind], strikes=(0.0, gap, 2 * gap))
    heard = mix(Scene("test", 0, 4.0, (struck,)), RATE, sound_font)[0]
    starts = [round((0.5 + offset) * RATE) for offset in struck.strikes]
    length = round(STRIKES[kind] * RATE) - 2
    blows = [heard[start : start + length] for start in starts]
    assert np.abs(blows[0]).max() > 0.01 and all(np.allclose(blow, blows[0], atol=1e-6) for blow in blows)
    assert all(not heard[start + length + 2 : start + length + 1000].any() for start in starts), "silence between"
    assert not set(LASTING) & set(STRIKES)
