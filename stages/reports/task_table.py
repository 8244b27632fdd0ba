"""The scores of tasks (stages/scoring/task_scores.py) as Markdown: a table a task, with baselines beside the scores."""

from collections.abc import Mapping
from typing import Any

from stages.reports.formatting import markdown_table, number, number_interval

WITH_BASELINES = ("accuracy", "mean_average_precision")  # metrics that baselines stand beside


def document(title: str, reports: Mapping[str, Mapping[str, Any]]) -> str:
    """report.md of a run that asked tasks, or of a file of predictions. reports: task -> what `score` returned."""
    head = [
        f"# {title}", "",
        "Each value with its 95 % interval by clip (bootstrap; Wilson's where all are right, or all wrong). Coverage: the share of answers "
        "that were read; unread ones are wrong. Needs the sound: the share of the accuracy that is lost without the clip's sound, with none or "
        "with another clip's, whichever is better.", "",
    ]  # fmt: skip
    return "\n".join([*head, *(line for name, report in reports.items() for line in _task(name, report))])


def _task(name: str, report: Mapping[str, Any]) -> list[str]:
    reader = "Not read"
    if report["reading"] != "none":
        reader = f"Read by `{report['reading']}`" + (f" with {report['encoder']}" if report["encoder"] else "")
    groups = {"all": report} | report.get("groups", {})
    conditions = list(dict.fromkeys(key for group in groups.values() for key in group["conditions"]))
    baselines = list(dict.fromkeys(key for group in groups.values() for key in group["baselines"]))
    asked_without = any("needs_sound" in group for group in groups.values())
    headings = ["", "n", *(key.replace("_", " ") for key in (*conditions, *baselines))]
    headings += ["needs the sound", "coverage"] if asked_without else ["coverage"]
    rows = [row for kind, group in groups.items() for row in _rows(kind, group, conditions, baselines, asked_without)]
    counts = f"{report['expected']} items expected, {report['scored']} {'scored' if rows else 'answered'}, {report['failed']} failed."
    return [
        f"## {report['title']} (`{name}`, version {report['version']})",
        "",
        f"{report['source']}. {reader}. {counts}",
        "",
        *(markdown_table(headings, rows) if rows else ["Not scored here: `--write` gives the answers to who does."]),
        "",
    ]


def _rows(
    kind: str, group: Mapping[str, Any], conditions: list[str], baselines: list[str], asked_without: bool
) -> list[list[object]]:
    """A row a metric: over all questions, or over a group of them."""
    first: Mapping[str, Any] = next(iter(group["conditions"].values()), {})
    rows: list[list[object]] = []
    for metric in [key for key in first if key not in ("coverage", "unread", "confusion")]:
        rows.append([
            metric if kind == "all" else f"{kind}: {metric}",
            first[metric]["count"],
            *(_cell(group["conditions"].get(key, {}).get(metric)) for key in conditions),
            *(_cell(group["baselines"].get(key)) if metric in WITH_BASELINES else "" for key in baselines),
            *([_cell(group.get("needs_sound")) if metric == "accuracy" else ""] if asked_without else []),
            _cell(first["coverage"]) if metric == "accuracy" else "",
        ])  # fmt: skip
    return rows


def _cell(value: Mapping[str, Any] | float | None) -> str:
    if value is None:
        return ""
    return number_interval(value) if isinstance(value, Mapping) else number(value)
