"""Absent sounds: none of the recording's own, in three ways, worked out by hand."""

from lhotse import MonoCut, SupervisionSegment

from datamodules.language.absent_sounds import ABSENT, NEAREST, AbsentSounds, presence_questions


def made(name: str, *labels: str, questions: tuple[tuple[str, str, str], ...] = ()) -> MonoCut:
    cut = MonoCut(name, 0, 1.0, 0, custom={"labels": list(labels)})
    cut.supervisions = [
        SupervisionSegment(
            f"{name}-{n}", name, 0, 1.0, custom={"task": "question", "kind": kind, "question": text, "answer": answer}
        )
        for n, (kind, text, answer) in enumerate(questions)
    ]
    return cut


def test_absent_sounds_are_any_frequent_or_often_together_with_the_recording_s_own():
    rare = [f"rare {n}" for n in range(20)]
    cuts = [made(f"dog-{n}", "dog", "bark", "bark") for n in range(3)]  # twice in one recording counts once
    cuts += [made(f"rain-{n}", "rain", f"usual {n % NEAREST}") for n in range(60)]
    cuts += [made(f"rare-{n}", label) for n, label in enumerate(rare)]
    usual = AbsentSounds(cuts)
    names = [f"recording {n}" for n in range(200)]

    def chosen(labels: list[str], way: str) -> set[str | None]:
        return {usual.choose(labels, way, name) for name in names}

    assert chosen(["dog"], "cooccurring") == {"bark"}
    assert chosen(["rain"], "cooccurring") == {f"usual {n}" for n in range(NEAREST)}
    assert chosen(["rare 3"], "cooccurring") == {None}, "it was always alone"
    assert chosen(["dog"], "frequent") == {"rain", *(f"usual {n}" for n in range(NEAREST - 1))}
    assert chosen(["rain"], "frequent") == {f"usual {n}" for n in range(NEAREST)}
    assert chosen(["dog", "rare 3"], "random") == set(usual.counts) - {"dog", "rare 3"}
    for way in ABSENT:
        assert chosen(list(usual.counts), way) == {None}
        assert usual.choose(["dog"], way, "a") == usual.choose(["dog"], way, "a")


def test_a_question_about_a_sound_is_one_that_asks_for_it_alone():
    asked = (("presence", "Is there a dog?", "yes"), ("presence", "Is there rain?", "no"), ("what", "What?", "yes"))
    cuts = [
        made("one", "dog", questions=asked),
        made("two", "dog", "rain", questions=(("presence", "Do you hear it?", "yes"),)),
        made("three", "dog", questions=(("presence", "A dog?", "yes"),)),
        made("four", "rain", questions=(("presence", "Is there a dog?", "no"),)),
    ]
    assert presence_questions(cuts) == {"dog": ["A dog?", "Is there a dog?"]}
