"""The table of stage `fewshot`, as JSON and Markdown."""

from collections.abc import Mapping
from typing import Any

from stages.reports.formatting import markdown_table, percent_interval
from stages.scoring.fewshot_scores import SCORES

NAMES = {
    "codes": "the LLM",
    "shuffled_codes": "the LLM, other recordings' codes",
    "shuffled_labels": "the LLM, shots' labels shuffled",
    "nearest": "nearest histogram of codes",
    "majority": "majority of the shots",
}


def markdown(report: Mapping[str, Any]) -> str:
    return "\n".join([f"# {report['experiment']}: few-shot, {report['ways']} ways", "", *body(report)])


def body(report: Mapping[str, Any]) -> list[str]:
    """The lines of Markdown below the heading."""
    failed, scores = report["expected"] - report["scored"], scores_in(report)
    rows = [
        [
            row["shots"],
            NAMES[row["answers"]],
            row["mean"]["count"],
            *(percent_interval(row[score]) if score in row else "" for score in scores),
        ]
        for row in report["table"]
    ]
    return [
        f"{report['llm']} reads the codes as {report['codes_are']}{_part(report)}; {report['recordings']} recordings of {', '.join(report['corpora'])} in "
        f"{report['classes']} classes; chance is {100 / report['ways']:.1f} %. Accuracy in percent with the 95 % interval by recording. "
        "Columns: how a class is scored; " + "; ".join(f"{key}: {text}" for key, text in scores.items()) + ".",
        "",
        *markdown_table(["shots", "", "n", *scores], rows),
        "",
        f"{report['expected']} prompts expected, {report['scored']} scored, {failed} failed.",
        "",
    ]


def _part(report: Mapping[str, Any]) -> str:
    """What of a recording is read, where it is not all."""
    levels, seconds = report.get("levels"), report.get("seconds")
    first = f" of the first {'level' if levels == 1 else f'{levels} levels'}" if levels else ""
    return first + (f", {seconds:g} s of a recording" if seconds else "")


def scores_in(report: Mapping[str, Any]) -> dict[str, str]:
    """The scores of `SCORES` that a line of the report has, with what they are."""
    return {score: text for score, text in SCORES.items() if any(score in row for row in report["table"])}
