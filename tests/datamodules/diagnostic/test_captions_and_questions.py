"""Words about a scene: captions in order, answers that follow from the timeline and cannot be guessed."""

from collections import Counter

import pytest

from datamodules.diagnostic.captions_and_questions import TEMPLATES, Question, captions, questions
from datamodules.diagnostic.scene import (
    KINDS,
    Scene,
    plan,
)
from tests.datamodules.diagnostic.timeline import event


def test_questions_of_a_scene_worked_out_by_hand() -> None:
    bell, rain = event("bell", 0.46, gain_db=-9.5), event("rain", 2.04, gain_db=-0.5)
    man, violin = event("man", 3.0, gain_db=-9.0, word="tiger"), event("violin", 3.9, gain_db=-9.1)
    allowed = {
        "what": {"bell", "violin"},
        "presence": {"yes"},
        "order": {"bell", "rain", "man"},
        "when": {"0.5", "2", "3", "4"},
        "loudness": {"rain"},
        "instrument": {"violin"},
        "word": {"tiger"},
    }
    for seed in range(20):
        actual = questions([Scene("train", 0, 5.0, (bell, rain, man, violin))], seed)[0]
        assert {q.kind for q in actual} == set(allowed) and all(q.answer in allowed[q.kind] for q in actual)
        for q in actual:
            named = sorted((name for name in KINDS if f"the {name}" in q.question), key=q.question.index)
            if q.kind == "order":
                assert q.answer == min(named, key=["bell", "rain", "man", "violin"].index) and len(named) == 2
            if q.kind == "when":
                assert q.answer == {"bell": "0.5", "rain": "2", "man": "3", "violin": "4"}[named[0]]
            if q.kind == "what":
                assert q.answer == ("violin" if "last" in q.question else "bell")
    assert [q.answer for q in questions([Scene("train", 0, 5.0, (bell,))], 0)[0]] == ["bell", "yes", "0.5"]


def test_captions_name_every_event_in_order() -> None:
    rain, man = event("rain", 0.5), event("man", 2.0, word="tiger")
    actual = {text for seed in range(40) for text in captions(Scene("test", 0, 5.0, (rain, man)), seed)}
    assert 'Rain falls, then a man says "tiger".' in actual and len(TEMPLATES) >= 6 and len(actual) > 20
    assert all(text.lower().index("rain") < text.index("tiger") for text in actual)
    for scene in plan(0, "train", 100, [5.0]):
        texts = captions(scene, 0)
        assert len(set(texts)) == 3 and all(text.endswith(".") and "{" not in text for text in texts)


def ask(split: str, scenes: int) -> list[Question]:
    return [question for asked in questions(plan(0, split, scenes, [5.0]), 0) for question in asked]


def test_yes_and_no_are_asked_equally_often_about_every_kind_and_every_count_equally_often() -> None:
    asked, scenes = questions(plan(0, "test", 300, [5.0]), 0), plan(0, "test", 300, [5.0])
    answers: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for scene, actual in zip(scenes, asked, strict=True):
        present = {e.kind for e in scene.events}
        assert Counter(q.answer for q in actual if q.kind == "presence") == {"yes": 1, "no": 1}
        for q in (q for q in actual if q.kind == "presence"):
            kind = next(k for k in KINDS if KINDS[k].phrases.noun in q.question)
            assert (kind in present) == (q.answer == "yes")
            answers[kind][q.answer] += 1
    assert all(count["yes"] == count["no"] for count in answers.values())
    counts = Counter(q.answer for actual in asked for q in actual if q.kind == "count")
    assert set(counts) == {"one", "two", "three", "four"} and len(set(counts.values())) == 1
    assert all(len(q.answer.split()) <= 2 for actual in asked for q in actual)


def test_answers_cannot_be_guessed_from_the_text() -> None:
    """Guess: the most frequent answer in train to the exact text, else to the kind; or the one of two named first."""
    by_text: dict[str, Counter] = {}
    for q in ask("train", 3000):
        by_text.setdefault(q.question, Counter())[q.answer] += 1
        by_text.setdefault(q.kind, Counter())[q.answer] += 1
    right, first, total = Counter(), Counter(), Counter()
    for q in ask("test", 1000):
        total[q.kind] += 1
        right[q.kind] += by_text.get(q.question, by_text[q.kind]).most_common(1)[0][0] == q.answer
        first[q.kind] += q.question.partition(f"the {q.answer}")[0].count("the ") == 0
    ceilings = {"what": 0.1, "presence": 0.55, "count": 0.31, "order": 0.55, "when": 0.2}
    ceilings |= {"loudness": 0.55, "instrument": 0.17, "word": 0.15}
    assert set(total) == set(ceilings) and min(total.values()) > 100
    assert all(right[kind] / total[kind] <= ceiling for kind, ceiling in ceilings.items()), (right, total)
    assert all(0.44 < first[kind] / total[kind] < 0.56 for kind in ("order", "loudness"))


def test_scenes_hold_only_the_kinds_that_were_asked_for() -> None:
    only = ["bell", "rain", "violin", "man", "drums"]
    scenes = plan(0, "train", 200, [5.0], only)
    assert {event.kind for scene in scenes for event in scene.events} == set(only)
    asked = [q for actual in questions(scenes, 0) for q in actual if q.kind == "what"]
    assert {q.answer for q in asked} == set(only)
    with pytest.raises(ValueError, match="kinds: zebra not among bell"):
        plan(0, "train", 1, [5.0], ["zebra", *only])
    with pytest.raises(ValueError, match="kinds: 3 given; more than 4"):
        plan(0, "train", 1, [5.0], only[:3])
