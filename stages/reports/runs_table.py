"""`stage runs` and `stage compare`: experiments in one table, and some of them side by side. No torch here."""

import time
from collections.abc import Mapping, Sequence
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


def comparison(experiments: Sequence[Path], whole: bool = False, only: str | None = None) -> list[str]:
    """Configurations and metrics of the experiments' stages, a column each: what differs, or with `whole` everything.
    only: a stage.
    """
    names = [folder.name for folder in experiments]
    confs: list[list[str]] = []
    metrics: list[list[str]] = []
    missing: list[str] = []
    for stage in STAGES if only is None else (only,):
        sides = [_side(folder / stage) for folder in experiments]
        having = [name for name, side in zip(names, sides, strict=True) if side]
        if len(having) > 1:
            confs += _rows(stage, [side and side.conf for side in sides], whole)
            metrics += _rows(stage, [side and side.metrics for side in sides], whole)
        if 0 < len(having) < len(names):
            missing.append(f"{stage} is in {', '.join(having)} alone")
    lines = []
    for heading, rows in (("configuration", confs), ("metric", metrics)):
        headings = ["stage", heading, *names]
        lines += [*(markdown_table(headings, rows) if rows else [f"{heading}: no difference"]), ""]
    return [*lines, *missing]


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


def _rows(stage: str, sides: Sequence[Mapping[str, Any] | None], whole: bool) -> list[list[str]]:
    """A row a key that differs. A side is None where the experiment has no run of the stage."""
    runs = [side for side in sides if side is not None]
    keys = dict.fromkeys(key for side in runs for key in side)
    differing = [key for key in keys if whole or any(side.get(key) != runs[0].get(key) for side in runs)]
    return [[stage, key, *(ABSENT if side is None else _cell(side, key) for side in sides)] for key in differing]


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
