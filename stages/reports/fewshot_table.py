"""The table of stage `fewshot`: share of episodes whose class has the best score, under each condition, beside what needs no LLM."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.scoring.answers import Interval, bootstrap

SCORES = {
    "mean": "log-likelihood a token",
    "sum": "log-likelihood",
    "calibrated": "log-likelihood a token, less that after an empty query",
}
NAMES = {
    "codes": "the LLM",
    "shuffled_codes": "the LLM, other recordings' codes",
    "shuffled_labels": "the LLM, shots' labels shuffled",
}
BASELINES = {"nearest": "nearest histogram of codes", "majority": "majority of the shots"}


def chosen(row: dict[str, Any], score: str) -> str:
    """The label that a row's scores say; the first among equals."""
    less = row["empty"] if score == "calibrated" else [0.0] * len(row["labels"])
    values = [
        total if score == "sum" else (total - other) / length
        for total, other, length in zip(row["scores"], less, row["lengths"], strict=True)
    ]
    return row["labels"][max(range(len(values)), key=values.__getitem__)]


def table(rows: Sequence[dict[str, Any]], samples: int, seed: int) -> list[dict[str, Any]]:
    """A line a number of shots and a way to answer, its accuracy with each score. Intervals: bootstrap by episode."""

    def accuracy(part: Sequence[dict[str, Any]], said: Sequence[str]) -> dict[str, Any]:
        right = [one == row["answer"] for one, row in zip(said, part, strict=True)]
        return bootstrap(right, [str(row["episode"]) for row in part], samples, seed)._asdict()

    found = []
    for shots in dict.fromkeys(row["shots"] for row in rows):
        for condition in dict.fromkeys(row["condition"] for row in rows):
            part = [row for row in rows if row["shots"] == shots and row["condition"] == condition]
            known = [score for score in SCORES if score != "calibrated" or part[0]["empty"] is not None]
            scores = {score: accuracy(part, [chosen(row, score) for row in part]) for score in known}
            found.append({"shots": shots, "answers": condition, **scores, "by_class": _by_class(part)})
            if condition == "codes":
                for name in BASELINES:
                    found.append({"shots": shots, "answers": name, "mean": accuracy(part, [row[name] for row in part])})
    order = [*NAMES, *BASELINES]
    return sorted(found, key=lambda line: (line["shots"], order.index(line["answers"])))


def _by_class(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share right, of the first score, by the class of the query."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(row["answer"], []).append(chosen(row, "mean") == row["answer"])
    return {label: sum(right) / len(right) for label, right in sorted(found.items())}


def write(folder: Path, found: dict[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    (folder / "report.md").write_text(markdown(found))


def markdown(found: dict[str, Any]) -> str:
    return "\n".join([f"# {found['experiment']}: few-shot, {found['ways']} ways", "", *lines(found)])


def lines(found: dict[str, Any]) -> list[str]:
    """Of Markdown, without a heading."""
    missing, scores = found["expected"] - found["scored"], scored(found)
    written = [
        f"{found['llm']} reads the codes as {found['codes_are']}; {found['recordings']} recordings of {', '.join(found['corpora'])} in {found['classes']} "
        f"classes; chance is {100 / found['ways']:.1f} %. Accuracy in percent with the 95 % interval by episode: the episodes share their recordings, so it is "
        "narrower than for new recordings. Columns: how a class is scored; "
        + "; ".join(f"{key}: {text}" for key, text in scores.items())
        + ".",
        "",
        "| shots | | n | " + " | ".join(scores) + " |",
        "|---|---|---|" + "---|" * len(scores),
    ]
    for row in found["table"]:
        values = [_percent(Interval(**row[score])) if score in row else "" for score in scores]
        written.append(f"| {row['shots']} | {name(row)} | {row['mean']['count']} | " + " | ".join(values) + " |")
    return [*written, "", f"{found['expected']} prompts expected, {found['scored']} scored, {missing} failed.", ""]


def scored(found: dict[str, Any]) -> dict[str, str]:
    """Those of `SCORES` that some line has."""
    return {score: text for score, text in SCORES.items() if any(score in row for row in found["table"])}


def name(row: dict[str, Any]) -> str:
    return (NAMES | BASELINES)[row["answers"]]


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
