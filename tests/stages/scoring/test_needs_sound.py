"""The share of an accuracy that needs the sound, and accuracy by a publisher's fields: worked out by hand."""

import math
from typing import Any

import pytest

from conf import evaluation_tasks
from stages.reports import score_bars, task_table
from stages.scoring import task_scores
from stages.scoring.captions.caption_scores import Tools
from stages.scoring.intervals import resample_counts
from stages.scoring.needs_sound import share_that_needs_sound


def rows(accuracies: dict[str, list[int]], **more: Any) -> list[dict[str, Any]]:
    """condition -> of each clip 1 where it is right."""
    return [
        {
            "id": f"{condition}-{number}", "source": f"clip {number}", "kind": "sound", "condition": condition, "question": "Which?",
            "references": ["piano"], "choices": ["piano", "violin"], "prediction": "piano" if right else "violin", **more,
        }
        for condition, part in accuracies.items()
        for number, right in enumerate(part)
    ]  # fmt: skip


def scored(given: list[dict[str, Any]], task: str = "mmau") -> dict[str, Any]:
    return task_scores.score(evaluation_tasks.task(task), given, len(given), [], [], Tools(), 500, 0)


def test_it_is_what_is_lost_without_the_sound_as_a_share_of_what_is_right_with_it():
    """4 of 5 right with the sound, 2 without, 1 with another clip's: 1 - 2 / 4, the better of both without."""
    given = rows({"sound": [1, 1, 1, 1, 0], "text": [1, 1, 0, 0, 0], "other": [0, 0, 0, 0, 1]})
    share = scored(given)["needs_sound"]
    assert share["value"] == pytest.approx(0.5) and share["count"] == 5 and share["low"] < 0.5 < share["high"]


@pytest.mark.parametrize(
    ("sound", "text", "value"),
    [([1, 0, 1, 0], [0, 1, 0, 1], 0.0), ([1, 0], [1, 1], -1.0), ([1, 1], [0, 0], 1.0), ([0, 0], [1, 0], math.nan)],
)
def test_at_its_ends(sound: list[int], text: list[int], value: float):
    """0 for a model that is as good without, whichever clips it is right on: chance needs no sound."""
    share = scored(rows({"sound": sound, "text": text}))["needs_sound"]
    assert share["value"] == pytest.approx(value, nan_ok=True)


def test_where_nothing_is_right_without_the_sound_the_interval_is_as_wide_as_wilsons():
    few, many = (scored(rows({"sound": [1] * n, "text": [0] * n}))["needs_sound"] for n in (2, 200))
    assert few["high"] == many["high"] == 1.0 and few["low"] < 0.5 < 0.97 < many["low"] < 1.0


def test_its_interval_equals_a_slow_resampling_of_the_same_clips_under_all_conditions():
    answers = {
        "with_sound": [("a", True), ("a", True), ("b", True), ("c", False)],
        "without_sound": [("a", True), ("a", False), ("b", False), ("c", False)],
    }
    actual = share_that_needs_sound(answers, 200, 3)
    values = []
    for times in resample_counts(["a", "b", "c"], 200, 3).tolist():
        often = dict(zip("abc", times, strict=True))
        right, count = (
            {name: sum(often[source] * (wanted or ok) for source, ok in part) for name, part in answers.items()}
            for wanted in (False, True)
        )
        both = {name: right[name] / count[name] for name in answers}
        values.append(1 - both["without_sound"] / both["with_sound"] if both["with_sound"] else 0.0)
    values.sort()
    assert actual.value == pytest.approx(1 - 1 / 3)
    assert values[0] <= actual.low <= values[10] and values[-10] <= actual.high <= values[-1]


def test_accuracy_stands_by_the_fields_that_the_publisher_prints():
    easy, hard = ({"fields": {"difficulty": name, "sub-category": "Order"}} for name in ("easy", "hard"))
    given = rows({"sound": [1, 1], "text": [0, 1]}, **easy) + rows(
        {"sound": [0, 1], "text": [0, 0]}, kind="music", **hard
    )
    report = scored(given)
    accuracy = {
        name: group["conditions"]["with_sound"]["accuracy"]["value"] for name, group in report["groups"].items()
    }
    assert accuracy == {
        "music": 0.5, "sound": 1.0, "difficulty: easy": 1.0, "difficulty: hard": 0.5, "sub-category: Order": 0.75,
    }  # fmt: skip
    text = task_table.document("x", {"mmau": report})
    assert "| difficulty: hard: accuracy | 2 | 0.500" in text and "| needs the sound | coverage |" in text
    names = [one.name for one in score_bars.task_section(report).metrics]
    assert "share of the accuracy that needs the sound" in names and "difficulty: easy: accuracy" in names


def test_without_another_condition_there_is_no_share():
    report = scored(rows({"sound": [1, 0]}), "mmsu")
    assert "needs_sound" not in report and "needs the sound |" not in task_table.document("x", {"mmsu": report})
