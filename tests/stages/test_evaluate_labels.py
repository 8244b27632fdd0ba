"""Before anything is asked, `evaluate` ends where an answer could not be read."""

from dataclasses import replace

import pytest

from conf import evaluation_tasks
from datamodules.evaluation_items import EvaluationItem
from stages.evaluate import _check_answers


def items(*answers: str) -> list[EvaluationItem]:
    return [EvaluationItem(text, text, "label", "sound", [], "What is it?", [text], "labels") for text in answers]


def test_labels_that_differ_in_a_sign_are_said_to_be_read_with_it(caplog: pytest.LogCaptureFixture):
    task = evaluation_tasks.task("labels")
    with caplog.at_level("INFO"):
        _check_answers(task, items("C", "C#"), ["A", "C", "C#"])
        assert caplog.text == ""  # a sharp is always read
        _check_answers(task, items("3 dB", "+3 dB"), ["3 dB", "+3 dB"])
    assert "task labels: signs and a leading article are read too" in caplog.text


@pytest.mark.parametrize(
    ("labels", "answers", "message"),
    [
        (["dog", "Dog."], ["dog"], "'dog' and 'Dog.' are both called"),
        (["dog", "!"], ["dog"], "'!' has no letter and no digit"),
        ({"dog": [], "cat": []}, ["dog", "cow"], "the corpus has the label 'cow', which the task has not"),
    ],
)
def test_labels_that_no_answer_can_be_read_as_end_it(
    labels: list[str] | dict[str, list[str]], answers: list[str], message: str
):
    task = replace(evaluation_tasks.task("labels"), labels=labels if isinstance(labels, dict) else "corpus")
    with pytest.raises(ValueError, match=message):
        _check_answers(task, items(*answers), list(labels))
