"""Scores of labels, against hand computations and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from stages.scoring.classification import UNREAD, average_precision, confusion, macro_f1, mean_average_precision


def test_average_precision_is_scikit_learns_and_the_one_worked_by_hand():
    assert average_precision([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0.5, 0.5], [True, False]) == pytest.approx(0.5)  # a tie is one step
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 9, 200) / 10, generator.random(200) < 0.2
    assert average_precision(scores.tolist(), positive.tolist()) == pytest.approx(
        average_precision_score(positive, scores)
    )
    actual = mean_average_precision([{"a": 1.0}, {"b": 0.5}], [["a"], ["a"]], ["a", "b"])
    assert actual.by_label == {"a": 1.0} and actual.empty == ["b"]


def test_macro_f1_is_scikit_learns_and_unread_answers_are_misses():
    answers = ["a", "a", "b", "b", "c"]
    read = ["a", "b", "b", None, "a"]
    expected = f1_score(
        answers, [got or UNREAD for got in read], labels=["a", "b", "c"], average="macro", zero_division=0
    )
    assert macro_f1(read, answers) == pytest.approx(expected)
    table = confusion(read, answers, ["a", "b", "c"])
    assert table.columns == ["a", "b", "c", UNREAD]
    assert table.counts == [[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'d' is none of the 3 labels"):
        confusion(["a"], ["d"], ["a", "b", "c"])
