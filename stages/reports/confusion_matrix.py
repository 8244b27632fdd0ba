"""What is taken for what: confusion matrices as the page draws them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stages.reports.answer_examples import kind_of
from stages.scoring.english import label_key

MAX_LABELS = 60  # that a person can read
OTHER = "another answer"


class ConfusionMatrix(NamedTuple):
    labels: list[str]  # rows: what is right
    columns: list[str]  # what was answered: the labels, and one more column where it is not empty
    counts: list[list[int]]  # by row and column
    totals: list[int]  # of the rows
    worst: list[tuple[str, str, int]]  # right, answered, times


def from_predictions(predictions: Sequence[Mapping[str, Any]], kinds: Iterable[str]) -> dict[str, ConfusionMatrix]:
    """The kinds of question that are a closed set of answers, the small ones first."""
    matrices = {kind: matrix for kind in kinds if (matrix := of_kind(predictions, kind))}
    return dict(sorted(matrices.items(), key=lambda item: len(item[1].labels)))


def of_kind(predictions: Sequence[Mapping[str, Any]], kind: str) -> ConfusionMatrix | None:
    """The answers with the sound; None where the kind is no closed set of at most 60 answers, or has fewer than two
    rows an answer.
    """
    pairs = [
        (label_key(row["references"][0]), label_key(row["prediction"] or ""))
        for row in predictions
        if kind_of(row) == kind and row["condition"] == "sound"
    ]
    labels = sorted({answer for answer, _ in pairs})
    if not 2 <= len(labels) <= min(MAX_LABELS, len(pairs) // 2):
        return None
    index_of = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for answer, predicted in pairs:
        counts[index_of[answer]][index_of.get(predicted, len(labels))] += 1
    return _matrix(labels, [*labels, OTHER], counts)


def from_scores(scores: Mapping[str, Any]) -> ConfusionMatrix | None:
    """scores: of a task under one condition; None where it has no matrix, or a larger one than a person can read."""
    if "confusion" not in scores or len(scores["confusion"]["labels"]) > MAX_LABELS:
        return None
    confusion = scores["confusion"]
    return _matrix(confusion["labels"], confusion["columns"], confusion["counts"])


def _matrix(labels: list[str], columns: list[str], counts: list[list[int]]) -> ConfusionMatrix:
    """columns: the labels, and one more, which is left out where it is empty."""
    wrong = [
        (labels[row], columns[column], times)
        for row, line in enumerate(counts)
        for column, times in enumerate(line)
        if times and column != row
    ]
    kept = len(columns) - (not any(line[-1] for line in counts))
    worst = sorted(wrong, key=lambda item: (-item[2], item))[:3]
    totals = [sum(line) for line in counts]
    return ConfusionMatrix(labels, columns[:kept], [line[:kept] for line in counts], totals, worst)
