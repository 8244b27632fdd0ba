"""Scores as the page draws them: a bar for each condition and baseline, with its interval."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from stages.reports.confusion_matrix import ConfusionMatrix, from_scores
from stages.reports.reconstruction_table import SIGNAL, latent_errors

NAMES = {
    "with_sound": "with the sound",
    "without_sound": "the same LLM without it",
    "other_sound": "with another clip's sound",
    "shuffled_choices": "with the sound, choices in another order",
    "best_guess": "best text-only guess",
    "needs_sound": "share of the accuracy that needs the sound",
    "above_both": "interval above the baselines",
    "latent_nmse": "latent error",
    "kad": "KAD x 100",
    "stft": "STFT",
    **SIGNAL,
}
SHARES = ("accuracy", "macro_f1", "mean_average_precision", "needs_sound")  # from 0 to 1: drawn, in percent


class MetricBars(NamedTuple):
    """One metric of a task, over all its items or over a kind of them."""

    name: str
    items: int
    bars: list[tuple[str, Mapping[str, Any]]]  # (condition or baseline, interval)
    is_share: bool


class TaskSection(NamedTuple):
    """What the page shows of a task of conf/tasks."""

    title: str
    notes: dict[str, Any]
    metrics: list[MetricBars]
    coverage: float | None
    confusion: ConfusionMatrix | None


def task_section(task: Mapping[str, Any]) -> TaskSection:
    """task: what stages/scoring/task_scores.py returned."""
    groups = {"": task} | task.get("groups", {})
    metrics = [one for kind, group in groups.items() for one in _metrics(kind, group)]
    with_sound: Mapping[str, Any] = task["conditions"].get("with_sound", {})
    notes = {key: task[key] for key in ("version", "source", "reading", "expected", "scored", "failed")}
    return TaskSection(task["title"], notes, metrics, with_sound.get("coverage"), from_scores(with_sound))


def bars(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Whatever has a value, each as an interval; a plain share has none around it."""
    intervals: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in scores.items():
        if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
            intervals.append((key, value))
        elif isinstance(value, float):
            intervals.append((key, {"value": value, "low": value, "high": value}))
    return [(key, value) for key, value in intervals if not math.isnan(value["value"])]


def latent_error_bars(reconstruction: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Latent error of each decoder over all windows."""
    errors = []
    for (decoder, steps, condition), error in latent_errors(reconstruction).items():
        evaluations = f", {steps} evaluation{'s' if steps > 1 else ''}" if steps else ""
        errors.append((decoder + evaluations + ("" if condition == "sample" else f", {condition}"), error))
    return errors


def name_of(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))


def _metrics(kind: str, group: Mapping[str, Any]) -> list[MetricBars]:
    conditions = group["conditions"]
    first: Mapping[str, Any] = next(iter(conditions.values()), {})
    metrics = []
    for metric in [key for key, value in first.items() if isinstance(value, dict) and "value" in value]:
        scores = [(name, part[metric]) for name, part in conditions.items() if metric in part]
        if metric == "accuracy":
            scores += bars(group["baselines"])
        name = f"{kind}: {name_of(metric)}" if kind else name_of(metric)
        drawn = [score for score in scores if not math.isnan(score[1]["value"])]
        metrics.append(MetricBars(name, first[metric]["count"], drawn, metric in SHARES))
    if (share := group.get("needs_sound")) and not math.isnan(share["value"]):
        name = f"{kind}: {name_of('needs_sound')}" if kind else name_of("needs_sound")
        metrics.append(MetricBars(name, share["count"], [("needs_sound", share)], True))
    return metrics
