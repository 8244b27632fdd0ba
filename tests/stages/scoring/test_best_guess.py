"""The best guess without a sound: worked out by hand."""

import math

from stages.scoring.best_guess import BestGuess
from stages.scoring.exact_match import is_right

TRAIN = [
    *[("count", "How many dogs?", "two")] * 3,
    *[("count", "How many cats?", "Three.")] * 4,
    ("order", "Which is first, the dog or the rain?", "the dog"),
    ("order", "Which is first, the rain or the bell?", "rain"),
    ("order", "Which is first, the bell or the rain?", "bell"),
    ("order", "Which is first, the rain or the dog?", "dog"),
    ("scene", "Where is it?", "outside"),
    ("scene", "Where is it?", "outside"),
    ("scene", "What place is it?", "a street"),
]


def test_best_guess_by_hand():
    guess = BestGuess(TRAIN)
    assert guess.strategies == {"count": "words", "order": "first", "scene": "words"}
    assert guess.guess("count", "how many DOGS") == "two"  # the words' answer, though the kind's is three
    assert guess.guess("count", "How many horses?") == "three"
    assert guess.guess("order", "Which is first, the bell or the dog?") == "bell"
    assert guess.guess("when", "How many dogs?") == ""  # another kind's words
    assert not is_right(guess.guess("when", "How many dogs?"), "two")
    assert (guess.chance("count"), guess.chance("order"), guess.chance("scene")) == (0.5, 0.5, 0.5)
    assert math.isnan(guess.chance("when"))


def test_remembered_questions_do_not_make_a_good_guess():
    """Every question is new: its own words are no way to answer another's."""
    guess = BestGuess(
        [("open", f"What about {number}?", "no" if number % 3 else f"it is {number}") for number in range(30)]
    )
    assert guess.guess("open", "What about 31?") == "no"


def test_best_guess_does_not_depend_on_the_order_of_reading():
    forward, backward = BestGuess(TRAIN), BestGuess(reversed(TRAIN))
    assert (forward.by_kind, forward.by_words, forward.answers) == (
        backward.by_kind,
        backward.by_words,
        backward.answers,
    )
