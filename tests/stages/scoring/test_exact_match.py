"""Answers compared word for word: worked out by hand."""

import pytest

from stages.scoring.english import label_key
from stages.scoring.exact_match import is_right


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("A dog.", "dog"),
        ("the  Dog  barks!", "dog barks"),
        ("an", "an"),  # an article alone is an answer
        ("theatre", "theatre"),
        ("dog, the cat", "dog the cat"),  # an article within stays
        ("twenty-one", "twenty one"),
        ("Ünder", "ünder"),
        ("  ", ""),
    ],
)
def test_what_two_answers_share(answer: str, expected: str):
    assert label_key(answer) == expected
    assert not expected or label_key("THE " + expected.upper()) == expected


def test_is_right():
    assert is_right("The dog.", "dog") and is_right("a Dog", "an dog")
    assert not is_right("dogs", "dog") and not is_right("dog cat", "dog")
    assert not is_right("", "dog") and not is_right("...", "") and not is_right("", "")
