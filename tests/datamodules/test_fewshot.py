"""Episodes: what is shown of what, and never the query's own recording."""

from collections import Counter

import pytest

from datamodules.fewshot import Episode, LabelledSound, Shot, disturb, episodes, prompt

SOUNDS = [
    LabelledSound(f"{label}-{source}-{take}", f"{label}-{source}", label)
    for label in ("bell", "dog", "rain")
    for source in range(4)
    for take in range(source + 1)
]
SOURCE = {sound.id: sound.source for sound in SOUNDS}
LABEL = {sound.id: sound.label for sound in SOUNDS}


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (3, 5)])
def test_an_episode_has_k_true_shots_of_each_class_and_none_of_the_querys_source(ways: int, shots: int):
    for episode in episodes(SOUNDS, ways, shots, 200, 0):
        assert len(set(episode.labels)) == ways and LABEL[episode.query] == episode.answer in episode.labels
        assert Counter(shot.label for shot in episode.shots) == dict.fromkeys(episode.labels, shots)
        assert all(LABEL[shot.sound] == shot.label for shot in episode.shots)
        assert len({shot.sound for shot in episode.shots}) == ways * shots
        assert SOURCE[episode.query] not in {SOURCE[shot.sound] for shot in episode.shots}


def test_an_episode_hangs_on_seed_and_number_alone():
    few, many = episodes(SOUNDS, 2, 1, 5, 3), episodes(SOUNDS[::-1], 2, 1, 50, 3)
    assert many[:5] == few
    assert episodes(SOUNDS, 2, 1, 50, 4) != many


def test_no_class_and_no_place_is_the_answer_more_often():
    actual = episodes(SOUNDS, 3, 1, 90, 0)
    assert Counter(episode.answer for episode in actual) == {"bell": 30, "dog": 30, "rain": 30}
    assert Counter(episode.labels.index(episode.answer) for episode in actual) == {0: 30, 1: 30, 2: 30}


@pytest.mark.parametrize(
    ("ways", "shots", "message"),
    [
        (4, 1, r"4-way episodes need 4 classes, and the recordings have 3"),
        (2, 7, r"'bell' has 6 recordings.*--shots=\[6\]"),
    ],
)
def test_too_few_recordings_are_refused(ways: int, shots: int, message: str):
    with pytest.raises(ValueError, match=message):
        episodes(SOUNDS, ways, shots, 10, 0)


def test_no_number_of_shots_is_named_that_cannot_be_typed():
    """The fewest of all classes decide, not the first class'; and no shots at all are no choice."""
    few = [LabelledSound("dog-x", "d", "dog"), LabelledSound("dog-y", "e", "dog"), *SOUNDS[:10]]
    with pytest.raises(ValueError, match=r"'dog' has 1 recordings.*Type --shots=\[1\], or take more"):
        episodes(few, 2, 5, 10, 0)
    with pytest.raises(ValueError, match=r"'dog' has 0 recordings.*1-shot needs 1\. Take more recordings") as error:
        episodes(few[1:], 2, 1, 10, 0)
    assert "--shots" not in str(error.value)


def test_the_controls_break_what_they_say_and_nothing_else():
    ids = [sound.id for sound in SOUNDS]
    moved = 0
    for episode in episodes(SOUNDS, 2, 5, 40, 0):
        heard = {shot.sound for shot in episode.shots} | {episode.query}
        same, shown = disturb(episode, "codes", ids, 0)
        assert same == episode and shown == {sound: sound for sound in heard}
        same, shown = disturb(episode, "shuffled_codes", ids, 0)
        assert same == episode and shown.keys() == heard and all(shown[sound] != sound for sound in heard)
        other, shown = disturb(episode, "shuffled_labels", ids, 0)
        assert shown == {sound: sound for sound in heard}
        assert other._replace(shots=[]) == episode._replace(shots=[])
        assert [shot.sound for shot in other.shots] == [shot.sound for shot in episode.shots]
        assert sorted(shot.label for shot in other.shots) == sorted(shot.label for shot in episode.shots)
        moved += other.shots != episode.shots
        assert disturb(episode, "shuffled_labels", ids, 0) == (other, shown)
    assert moved > 30


def test_the_prompt_is_uniaudios():
    episode = Episode(0, 1, ["bell", "dog"], [Shot("a", "dog"), Shot("b", "bell")], "c", "dog")
    actual = prompt(episode, {"a": [1, 2], "b": [3], "c": [4]}, repeats=2, induction=True)
    shots = [["###\nInput: < ", [1, 2], " >\nOutput: dog\n"], ["###\nInput: < ", [3], " >\nOutput: bell\n"]]
    induction = "For each of the following input output pairs, output is one of ['bell' or 'dog']\n"
    assert actual.head == [[induction], *shots, *shots]
    assert actual.query == ["###\nInput: < ", [4], " >\nOutput:"]
    assert prompt(episode, {"a": [1, 2], "b": [3], "c": [4]}, repeats=1, induction=False).head == shots
