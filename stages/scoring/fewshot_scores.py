"""The scores of stage `fewshot`: share of episodes whose class has the best score, under each condition, beside what
needs no LLM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.scoring.intervals import by_recording

SCORES = {
    "mean": "log-likelihood a token",
    "sum": "log-likelihood",
    "greedy": "what greedy decoding writes where only the classes may be written",
    "calibrated": "log-likelihood a token, less that after an empty query",
}
CONDITIONS = ("codes", "shuffled_codes", "shuffled_labels")
BASELINES = ("nearest", "majority")


def fewshot_scores(rows: Sequence[Mapping[str, Any]], samples: int, seed: int) -> list[dict[str, Any]]:
    """A line for each number of shots and each condition or baseline, its accuracy with each score, with the
    intervals of `by_recording`.

    A row: {episode, shots, condition, labels, answer, scores, lengths, greedy, empty, nearest, majority, recordings},
    the last the recordings whose codes are shown, the query's first.
    """

    def accuracy(part: Sequence[Mapping[str, Any]], predicted: Sequence[str]) -> dict[str, Any]:
        right = [label == row["answer"] for label, row in zip(predicted, part, strict=True)]
        recordings = [row["recordings"] for row in part]
        return asdict(
            by_recording(right, [one[0] for one in recordings], [one[1:] for one in recordings], samples, seed)
        )

    lines: list[dict[str, Any]] = []
    for shots in dict.fromkeys(row["shots"] for row in rows):
        for condition in dict.fromkeys(row["condition"] for row in rows):
            part = [row for row in rows if row["shots"] == shots and row["condition"] == condition]
            available = [score for score in SCORES if score != "calibrated" or part[0]["empty"] is not None]
            scores = {score: accuracy(part, [best_label(row, score) for row in part]) for score in available}
            lines.append({"shots": shots, "answers": condition, **scores, "by_class": _by_class(part)})
            if condition == "codes":
                for name in BASELINES:
                    lines.append({"shots": shots, "answers": name, "mean": accuracy(part, [row[name] for row in part])})
    order = [*CONDITIONS, *BASELINES]
    return sorted(lines, key=lambda line: (line["shots"], order.index(line["answers"])))


def best_label(row: Mapping[str, Any], score: str) -> str:
    """The label with the highest score; the first among equals."""
    if score == "greedy":
        return str(row["greedy"])
    labels: list[str] = row["labels"]
    empty = row["empty"] if score == "calibrated" else [0.0] * len(labels)
    values = [
        total if score == "sum" else (total - without) / length
        for total, without, length in zip(row["scores"], empty, row["lengths"], strict=True)
    ]
    return labels[max(range(len(values)), key=values.__getitem__)]


def _by_class(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share right, of the first score, by the class of the query."""
    right: dict[str, list[bool]] = {}
    for row in rows:
        right.setdefault(row["answer"], []).append(best_label(row, "mean") == row["answer"])
    return {label: sum(some) / len(some) for label, some in sorted(right.items())}
