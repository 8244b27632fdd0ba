"""`stage runs` and `stage compare`: experiments in one table, and two of them side by side. No torch here."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages import STAGES
from stages.reports.formatting import ABSENT, markdown_table, number, percent
from stages.runs import receipts
from stages.runs.identity import deciding
from stages.runs.progress import progress
from stages.runs.receipts import Receipt
from stages.runs.state import max_steps, stored_conf

# heading -> stages, of which the last finished one counts, and the metric of its receipt
KEY_METRICS = {
    "latent NMSE": (("tokenizer",), "val/latent_nmse"),
    "codebook perplexity": (("tokenizer",), "val/codebook_perplexity"),
    "text loss": (("caption", "openaqa"), "val/text_loss"),
    "caption gap, nats": (("caption", "openaqa"), "val/caption_gap"),
}
RIGHT = "questions right, %"


def experiments_table(runs: Path) -> list[str]:
    """A line an experiment of the folder, the newest first."""
    rows: list[tuple[float, list[str]]] = []
    for folder in runs.iterdir() if runs.is_dir() else ():
        finished = {stage: receipt for stage in STAGES if (receipt := receipts.read(folder / stage))}
        begun = _unfinished(folder)
        if not finished and not begun:
            continue
        newest = max((folder / stage).stat().st_mtime for stage in (*finished, *begun))
        cells = [folder.name, ", ".join(finished), ", ".join(f"{stage}: {done}" for stage, done in begun.items())]
        cells.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(newest)))
        for stages, metric in KEY_METRICS.values():
            values = [finished[stage]["metrics"].get(metric) for stage in stages if stage in finished]
            cells.append(number(values[-1] if values else None, absent=ABSENT))
        cells.append(_questions_right(finished.get("evaluate")))
        rows.append((newest, cells))
    if not rows:
        return [f"no experiment in {runs}/. Start one:   stage run all --preset demo"]
    headings = ["experiment", "done", "under way", "newest", *KEY_METRICS, RIGHT]
    return markdown_table(headings, [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def comparison(first: Path, second: Path, whole: bool = False) -> list[str]:
    """Configurations and metrics of two experiments' stages: what differs, or with `whole` everything."""
    confs: list[list[str]] = []
    metrics: list[list[str]] = []
    only: list[str] = []
    for stage in STAGES:
        one, other = _side(first / stage), _side(second / stage)
        if one and other:
            confs += _rows(stage, one.conf, other.conf, whole)
            metrics += _rows(stage, one.metrics, other.metrics, whole)
        elif one or other:
            only.append(f"{stage} is in {first.name if one else second.name} alone")
    lines = []
    for heading, rows in (("configuration", confs), ("metric", metrics)):
        headings = ["stage", heading, first.name, second.name]
        lines += [*(markdown_table(headings, rows) if rows else [f"{heading}: no difference"]), ""]
    return [*lines, *only]


class _Side(NamedTuple):
    """A run of one experiment, by key."""

    conf: dict[str, Any]
    metrics: dict[str, Any]  # none while it is not finished


def _side(folder: Path) -> _Side | None:
    """None where there is no run."""
    if receipt := receipts.read(folder):
        about = {"steps": receipt["steps"], "seconds": receipt["seconds"]}
        return _Side(deciding(receipt["conf"]), about | _flat(receipt["metrics"]))
    stored = stored_conf(folder)
    return _Side(deciding(stored), {}) if stored else None


def _rows(stage: str, first: Mapping[str, Any], second: Mapping[str, Any], whole: bool) -> list[list[str]]:
    keys = [key for key in {**first, **second} if whole or first.get(key) != second.get(key)]
    return [[stage, key, *(_cell(side, key) for side in (first, second))] for key in keys]


def _cell(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, ABSENT)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "null" if value is None else str(value).replace("|", "\\|")


def _flat(node: object, path: str = "") -> dict[str, Any]:
    """ "key.key" -> number or text. A row of a table is named by its texts and whole numbers."""
    if isinstance(node, dict):
        inside = {f"{path}.{key}" if path else str(key): value for key, value in node.items()}
        return {key: one for name, value in inside.items() for key, one in _flat(value, name).items()}
    if isinstance(node, list) and all(isinstance(row, dict) for row in node):
        named: dict[str, Any] = {}
        for row in node:
            name = ", ".join(str(value) for value in row.values() if isinstance(value, str | int))
            named |= _flat({key: value for key, value in row.items() if isinstance(value, float)}, f"{path}[{name}]")
        return named
    return {path: node}


def _unfinished(folder: Path) -> dict[str, str]:
    runs = {stage: folder / stage for stage in STAGES if receipts.read(folder / stage) is None}
    done = {stage: progress(run, max_steps(stored_conf(run) or {})) for stage, run in runs.items()}
    return {stage: str(one) for stage, one in done.items() if one}


def _questions_right(evaluated: Receipt | None) -> str:
    """Of all questions of `evaluate`, with the sound."""
    scores = (
        [kind["with_sound"] for kind in (evaluated["metrics"].get("questions") or {}).values()] if evaluated else []
    )
    count = sum(score["count"] for score in scores)
    return percent(sum(score["value"] * score["count"] for score in scores) / count) if count else ABSENT
