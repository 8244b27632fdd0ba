"""Coverage and accuracy, worked out by hand."""

import math

from stages.reports.evaluation_table import abstention_text
from stages.scoring.abstention import abstention


def row(kind: str, answer: str, prediction: str, number: int, condition: str = "sound") -> dict[str, str]:
    values = {"kind": kind, "answer": answer, "prediction": prediction, "condition": condition}
    return values | {"id": str(number), "source": str(number), "question": "?"}


def test_what_is_answered_and_how_often_that_is_right():
    rows = [
        row("what", "dog", "A dog.", 0),
        row("what", "cat", "dog", 1),
        row("what", "rain", "Not heard.", 2),
        row("what", "bell", "", 3),
        row("unanswerable", "not heard", "not heard", 4),
        row("unanswerable", "not heard", "piano", 5),
        row("what", "dog", "not heard", 6, "text"),
    ]
    actual = abstention(rows, 200, 0)
    assert actual is not None
    assert {name: (one["value"], one["count"]) for name, one in actual.items()} == {
        "answered": (0.75, 4),
        "accuracy": (0.25, 4),
        "abstained": (0.5, 2),
    }
    text = abstention_text({"abstention": actual})
    assert "answers 75.0 " in text and "right in 25.0 " in text and "50.0 " in text


def test_where_every_question_has_an_answer_there_is_nothing_to_measure():
    assert abstention([row("what", "dog", "not heard", 0)], 10, 0) is None and abstention_text({}) == ""


def test_who_answers_nothing_is_right_of_no_answer():
    actual = abstention([row("unanswerable", "not heard", "not heard", 0)], 10, 0)
    assert actual is not None and math.isnan(actual["accuracy"]["value"]) and actual["abstained"]["value"] == 1
    assert actual["answered"]["count"] == 0
