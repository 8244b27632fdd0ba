"""Does a model know what it cannot know? How much it answers, and how often it is right where it does.

Coverage against accuracy, of selective prediction (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017, arXiv:1705.08500).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.scoring.exact_match import is_right
from stages.scoring.intervals import bootstrap

UNANSWERABLE = "unanswerable"  # the kind of such questions: their answer says that there is none


def abstention(predictions: Sequence[Mapping[str, Any]], samples: int, seed: int) -> dict[str, dict[str, Any]] | None:
    """predictions: as of question_accuracy; those with the sound count. None where no question is unanswerable.

    answered: share of the answerable questions that get an answer; accuracy: share right of all answers, among them those to
    questions that have none, which are wrong; abstained: share of the unanswerable questions that get no answer.
    """
    rows = [row for row in predictions if row["condition"] == "sound"]
    none = sorted({row["answer"] for row in rows if row["kind"] == UNANSWERABLE})
    if not none:
        return None
    answered = [not any(is_right(row["prediction"], text) for text in none) for row in rows]
    unanswerable = [row["kind"] == UNANSWERABLE for row in rows]
    sources = [row["source"] for row in rows]

    def share(values: Sequence[bool], chosen: Sequence[bool]) -> dict[str, Any]:
        part = [(value, source) for value, source, one in zip(values, sources, chosen, strict=True) if one]
        return asdict(bootstrap([value for value, _ in part], [source for _, source in part], samples, seed))

    return {
        "answered": share(answered, [not one for one in unanswerable]),
        "accuracy": share([is_right(row["prediction"], row["answer"]) for row in rows], answered),
        "abstained": share([not one for one in answered], unanswerable),
    }
