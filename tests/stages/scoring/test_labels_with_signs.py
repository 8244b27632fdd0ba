"""Labels that differ in a sign or a leading "A" alone: notes, keys, levels. Each was read wrongly once."""

import pytest

from stages.scoring.english import differ_in_signs, label_key
from stages.scoring.exact_match import is_right
from stages.scoring.reading_rules import SEVERAL, Label, choice, exact, labelled, named, whole_word

KEYS = ["C major", "C# major", "D minor", "A minor"]
LEVELS = ["+3 dB", "-3 dB", "0 dB", "6 dB"]
NOTES = ["C", "C#", "D", "A"]
MAJOR = ["A major", "E major", "D major", "G major"]


@pytest.mark.parametrize(
    ("choices", "answer", "read"),
    [
        (KEYS, "C major", "C major"),
        (KEYS, "C# major", "C# major"),
        (KEYS, "C\u266f major", "C# major"),
        (KEYS, "(B) C# major", "C# major"),
        (["Bb7", "B7", "F#m", "Fm"], "Fm", "Fm"),
        (["Bb7", "B7", "F#m", "Fm"], "It is F#m.", "F#m"),
        (LEVELS, "-3 dB", "-3 dB"),
        (LEVELS, "\u22123 dB", "-3 dB"),
        (LEVELS, "3 dB", "+3 dB"),
        (LEVELS, "B. -3 dB", "-3 dB"),
        (["3 dB", "+3 dB"], "+3 dB", "+3 dB"),
        (["50", "50%"], "It is 50%.", "50%"),
        (["<5", ">5"], ">5", ">5"),
        (NOTES, "C", "C"),
        (NOTES, "A", "A"),  # the letter says C; the whole answer is the text of another choice
        (["A", "B", "C", "D"], "A", "A"),
        (["A", "B", "C", "D"], "The answer is B.", "B"),
        (MAJOR, "B major", None),
        (MAJOR, "It is in F major.", None),
        (MAJOR, "A major", "A major"),
        (MAJOR, "major", "A major"),
        (["A flat", "flat"], "A flat", "A flat"),
        (["a dog", "a cat"], "(B) a cat", "a cat"),
        (["a dog", "a cat"], "dog", "a dog"),
    ],
)
def test_a_choice_is_read_with_its_signs(choices: list[str], answer: str, read: str | None):
    assert choice(answer, [Label(text) for text in choices]).label == read


def test_a_letter_in_brackets_that_says_otherwise_is_two_answers():
    assert choice("(A)", [Label(text) for text in NOTES]) == (None, SEVERAL)


def test_labels_of_notes_are_four_labels():
    notes = labelled(["A", "B", "C", "C#"])
    for rule in (exact, whole_word):
        assert [rule(label.name, notes).label for label in notes] == ["A", "B", "C", "C#"]
    assert whole_word("The note is C#, not C.", notes).label == "C#"
    assert named("A and C# are played", notes) == {"A", "C#"}


def test_without_labels_two_answers_are_the_same_but_for_case_articles_and_punctuation():
    assert is_right("A", "a") and is_right("The dog.", "dog") and is_right("+3 dB", "3 dB")
    assert not is_right("C", "C#") and not is_right("-3 dB", "3 dB") and not is_right("B major", "A major")
    assert label_key("1990-1995") == "1990 1995" and label_key("twenty-one") == "twenty one"


def test_signs_are_read_where_labels_would_else_be_one_and_only_there():
    assert not differ_in_signs(("dog", "Dog.", "cat")) and differ_in_signs(("3 dB", "+3 dB"))
    assert whole_word("50%", labelled(["50", "60"])).label == "50"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["dog", "Dog."], r"the labels 'dog' and 'Dog\.' are both called 'Dog\.'"),
        (["dog", "?"], "the label '\\?' has no letter and no digit"),
    ],
)
def test_labels_that_stay_one_are_refused(labels: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        labelled(labels)
