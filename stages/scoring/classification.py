"""Scores of labels: the confusion matrix, macro F1, average precision. No torch here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from conf.errors import UsageError

UNREAD = "(unread)"


class Confusion(NamedTuple):
    labels: list[str]  # rows: the right label
    columns: list[str]  # what was read; UNREAD last
    counts: list[list[int]]


def confusion(read: Sequence[str | None], answers: Sequence[str], labels: Sequence[str]) -> Confusion:
    """Answers that were not read have a column of their own; raises UsageError for an answer that is no label."""
    columns = [*labels, UNREAD]
    index_of = {label: index for index, label in enumerate(columns)}
    counts = [[0] * len(columns) for _ in labels]
    for got, answer in zip(read, answers, strict=True):
        if answer not in index_of:
            raise UsageError(
                f"the right answer {answer!r} is none of the {len(labels)} labels: {', '.join(labels[:8])}, ..."
            )
        counts[index_of[answer]][index_of[UNREAD if got is None else got]] += 1
    return Confusion(list(labels), columns, counts)


def macro_f1(read: Sequence[str | None], answers: Sequence[str]) -> float:
    """Mean over the labels that are an answer of 2 TP / (2 TP + FP + FN); an unread answer is a miss of its label. NaN
    for none.
    """
    labels = sorted(set(answers))
    scores = []
    for label in labels:
        hits = sum(got == label == answer for got, answer in zip(read, answers, strict=True))
        scores.append(2 * hits / (sum(got == label for got in read) + sum(answer == label for answer in answers)))
    return sum(scores) / len(scores) if scores else float("nan")


def average_precision(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Area under the steps of precision over recall; equal scores come as one step. NaN without a positive (Everingham
    et al. 2010 without interpolation).
    """
    total = sum(positive)
    if not total:
        return float("nan")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    area, hits, seen = 0.0, 0, 0
    while seen < len(order):
        end = seen
        while end < len(order) and scores[order[end]] == scores[order[seen]]:
            end += 1
        new_hits = sum(positive[index] for index in order[seen:end])
        hits += new_hits
        area += new_hits / total * hits / end
        seen = end
    return area


class MeanAveragePrecision(NamedTuple):
    mean: float
    by_label: dict[str, float]
    empty: list[str]  # labels that no recording has: left out


def mean_average_precision(
    scores: Sequence[Mapping[str, float]], answers: Sequence[Sequence[str]], labels: Sequence[str]
) -> MeanAveragePrecision:
    """scores: of each recording label -> score, 0 where it has none; answers: the labels of each recording."""
    precisions = {
        label: average_precision([one.get(label, 0.0) for one in scores], [label in given for given in answers])
        for label in labels
    }
    empty = [label for label, value in precisions.items() if value != value]
    good = {label: value for label, value in precisions.items() if value == value}
    return MeanAveragePrecision(sum(good.values()) / len(good) if good else float("nan"), good, empty)
