"""Twins differ in one thing: the same question, and the same answer but in minimal pairs, where it is the other one."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.diagnostic import music, render, speech
from datamodules.diagnostic.held_out import MINIMAL_PAIRS, QUIETER, Twins, twins
from datamodules.diagnostic.scene import AXES, KINDS, mix, plan
from datamodules.diagnostic.wordings import HELD_OUT_WORDINGS, WORDINGS
from tests.datamodules.diagnostic.test_render import SIZES, manifest
from tests.datamodules.diagnostic.timeline import RATE

TRAINING = plan(0, "train", 300, [5.0])


def made(axis: str, count: int = 20) -> list[Twins]:
    return twins(axis, 0, count, [5.0], [], TRAINING)


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis not in (*MINIMAL_PAIRS, "combinations")])
def test_of_what_training_has_not_the_same_is_asked_and_the_answer_is_the_same(axis: str) -> None:
    for pair in made(axis):
        assert len(pair.usual_questions) == len(pair.other_questions)
        for usual, other in zip(pair.usual_questions, pair.other_questions, strict=True):
            assert usual.kind == other.kind and (usual.question == other.question) == (axis != "wordings")
            assert usual.answer == other.answer or (axis, usual.kind) == ("length", "when")
        assert [one.kind for one in pair.usual.events] == [one.kind for one in pair.other.events]


@pytest.mark.parametrize("axis", MINIMAL_PAIRS)
def test_of_a_minimal_pair_every_question_has_two_answers(axis: str) -> None:
    first_named = Counter()
    for pair in made(axis, 40):
        for usual, other in zip(pair.usual_questions, pair.other_questions, strict=True):
            assert usual.question == other.question and usual.answer != other.answer
            first_named[
                usual.question.index(usual.answer) < usual.question.index(other.answer)
                if axis != "exchanged"
                else usual.answer
            ] += 1
        changed = set(pair.other.events) - set(pair.usual.events)
        assert len(changed) == (1 if axis == "exchanged" else 2) and pair.usual.seconds == pair.other.seconds
    assert min(first_named.values()) > 0.3 * sum(first_named.values()), "neither answer is the usual one"


def test_a_minimal_pair_worked_out_from_its_timelines() -> None:
    for pair in made("exchanged"):
        (question, other), answers = pair.usual_questions, [one.answer for one in pair.usual_questions]
        assert answers == ["yes", "no"]
        a, b = ({one.kind for one in scene.events} for scene in (pair.usual, pair.other))
        assert [KINDS[kind].phrases.noun in question.question for kind in a - b] == [True]
        assert [KINDS[kind].phrases.noun in other.question for kind in b - a] == [True]
    for axis, value in (("moved", "onset"), ("louder", "gain_db")):
        for pair in made(axis):
            for scene, asked in ((pair.usual, pair.usual_questions[0]), (pair.other, pair.other_questions[0])):
                named = [one for one in scene.events if f"the {one.kind}" in asked.question]
                chosen = (
                    min(named, key=lambda one: one.onset)
                    if axis == "moved"
                    else max(named, key=lambda one: getattr(one, value))
                )
                assert chosen.kind == asked.answer


def test_what_is_held_out_is_in_no_ordinary_scene() -> None:
    seen = [{one.kind for one in scene.events} for scene in TRAINING]
    for pair in made("combinations"):
        usual, other = ({one.kind for one in scene.events} for scene in pair[:2])
        assert any(usual <= kinds for kinds in seen) and not any(other <= kinds for kinds in seen)
        assert len(usual & other) == len(usual) - 1
    variants = {one.timbre for pair in made("voices") for one in pair.other.events} - {None}
    assert variants and not variants & {name for voice in speech.VOICES.values() for name in voice.variants}
    programs = {one.timbre for pair in made("programs") for one in pair.other.events} - {None}
    assert programs and not programs & {number for one in music.INSTRUMENTS.values() for number in one.programs}
    assert {name: len(texts) for name, texts in WORDINGS.items()} == {
        name: len(texts) for name, texts in HELD_OUT_WORDINGS.items()
    }
    assert not {text for texts in WORDINGS.values() for text in texts} & {
        text for texts in HELD_OUT_WORDINGS.values() for text in texts
    }
    assert all(pair.other.seconds == 10 and pair.usual.seconds == 5 for pair in made("length"))
    for pair in made("level"):
        assert [
            a.gain_db - b.gain_db for a, b in zip(*(scene.events for scene in pair[:2]), strict=True)
        ] == pytest.approx([QUIETER] * len(pair.usual.events))


def test_an_axis_that_changes_no_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="axis voices: no scene of the kinds bell"):
        twins("voices", 0, 2, [5.0], ["bell", "rain", "dog", "cat", "bird"], TRAINING)


def test_another_voice_is_heard_and_the_rest_of_the_scene_stays(sound_font: Path) -> None:
    pair = next(pair for pair in made("voices") if len(pair.usual.events) == 1)
    usual, other = (mix(scene, RATE, sound_font) for scene in pair[:2])
    onset = round(pair.usual.events[0].onset * RATE)
    assert not other[:, :onset].any() and other.any() and not np.allclose(usual, other)


def test_axes_become_corpora_of_a_test_split_alone(tmp_path: Path, sound_font: Path) -> None:
    sizes = SIZES | {"test_scenes": 2, "train_scenes": 0}
    for axis, recordings in (("programs", 2), ("louder", 4)):
        lengths = render(tmp_path / axis, **sizes, axis=axis, sound_font=sound_font, workers=1)
        cuts = manifest(tmp_path / axis)
        assert {split: len(values) for split, values in lengths.items()} == {
            "train": 0,
            "validation": 0,
            "test": recordings,
        }
        assert (
            len(cuts)
            == recordings
            == len({cut["id"] for cut in cuts})
            == len(list((tmp_path / axis / "audio").glob("*.flac")))
        )
        assert {(cut["custom"]["split"], cut["custom"]["corpus"]) for cut in cuts} == {("test", f"diagnostic-{axis}")}
        assert len({cut["custom"]["source"] for cut in cuts}) == 2, "both of a minimal pair are of one source"
    timbres = [
        one.get("timbre") for cut in manifest(tmp_path / "programs") for one in cut["custom"]["metadata"]["events"]
    ]
    assert all(isinstance(one, int) for one in timbres if one is not None) and any(timbres)
    assert json.loads((tmp_path / "louder/audio/settings.json").read_text())["axis"] == "louder"
