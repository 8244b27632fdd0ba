"""Answers right and wrong, their intervals, and the best guess without a sound: worked out by hand."""

import math

import pytest

from stages.scoring.answers import BestGuess, Interval, bootstrap, is_right, normalise, resampled
from stages.scoring.captions import caption_scores


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("A dog.", "dog"),
        ("the  Dog  barks!", "dog barks"),
        ("an", ""),
        ("theatre", "theatre"),
        ("dog, the cat", "dog the cat"),  # an article within stays
        ("twenty-one", "twenty one"),
        ("Ünder", "ünder"),
        ("  ", ""),
    ],
)
def test_normalise(answer: str, expected: str):
    assert normalise(answer) == expected
    assert normalise("THE " + expected.upper()) == expected


def test_is_right():
    assert is_right("The dog.", "dog") and is_right("a Dog", "an dog")
    assert not is_right("dogs", "dog") and not is_right("dog cat", "dog")
    assert not is_right("", "dog") and not is_right("...", "") and not is_right("", "")


def test_bootstrap_draws_whole_clips():
    """Three right questions on one clip, one wrong on another: draws of two clips give 0, 3/4, 1 and nothing between.
    Drawn by question, fewer than 1 % of the means would be 0, and the interval would begin at 1/4 or above.
    """
    actual = bootstrap([True, True, True, False], ["a", "a", "a", "b"], 2000, 0)
    assert actual == Interval(0.75, 0.0, 1.0, 4)
    assert bootstrap([True, False, True, False], ["a"] * 4, 100, 0) == Interval(0.5, 0.5, 0.5, 4)


def test_bootstrap_interval():
    """Contains the mean, is the binomial's where clips have one question each, narrows with the root of their number,
    and depends on the seed alone.
    """
    right = [number % 4 != 0 for number in range(400)]
    clips = [str(number) for number in range(400)]
    actual, fewer = bootstrap(right, clips, 4000, 0), bootstrap(right[:100], clips[:100], 4000, 0)
    deviation = math.sqrt(0.75 * 0.25 / 400)
    assert actual.low < actual.value == 0.75 < actual.high and actual.count == 400
    assert actual.value - actual.low == pytest.approx(1.96 * deviation, rel=0.1)
    assert actual.high - actual.value == pytest.approx(1.96 * deviation, rel=0.1)
    assert (fewer.high - fewer.low) / (actual.high - actual.low) == pytest.approx(2, rel=0.15)
    assert bootstrap(right, clips, 4000, 0) == actual != bootstrap(right, clips, 4000, 1)


def test_where_all_clips_agree_the_interval_is_wilsons():
    """z squared is 3.8415, and of n clips it reaches 3.8415 / (n + 3.8415) away: 4 clips 49.0 %, 2 clips 65.8 %."""
    wrong = bootstrap([False] * 4, list("abcd"), 100, 0)
    assert wrong[:2] == (0.0, 0.0) and wrong.high == pytest.approx(0.4899, abs=1e-4) and wrong.count == 4
    right = bootstrap([True] * 4, list("aabb"), 100, 0)
    assert right.value == right.high == 1.0 and right.low == pytest.approx(1 - 0.6576, abs=1e-4), "two clips, not four"
    assert resampled([0.0] * 4, list("abcd"), 100, 0) == Interval(0.0, 0.0, 0.0, 4), "a score may have no upper end"


def test_bootstrap_takes_questions_in_any_order():
    one = bootstrap([True, False, True, True], ["a", "a", "b", "b"], 500, 0)
    assert bootstrap([True, True, False, True], ["a", "b", "a", "b"], 500, 0) == one


def test_bootstrap_of_nothing_is_no_number():
    actual = bootstrap([], [], 100, 0)
    assert actual.count == 0 and all(math.isnan(x) for x in actual[:3])


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
    assert guess.ways == {"count": "words", "order": "first", "scene": "words"}
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


def test_captions_by_hand():
    """ROUGE-L: the longest common run in order, `dog barks` of 3 and of 2 words: 2 x 2 / (3 + 2). BLEU-4 needs four."""
    same = caption_scores(["A dog barks at night twice."], [["dog barks at night twice"]])
    assert same == pytest.approx({"torchmetrics_bleu4": 1.0, "torchmetrics_rouge_l": 1.0})
    part = caption_scores(["the dog now barks"], [["a cat", "dog barks"]])
    assert part == pytest.approx({"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.8})
    none = caption_scores(["rain"], [["dog barks"]])
    assert none == {"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.0}
    assert all(math.isnan(score) for score in caption_scores([], []).values())
