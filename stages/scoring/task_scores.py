"""The scores of a task: answers read, compared, and set beside what needs no ears. From rows alone: scoring again asks
no model.

Rows are those of answer_rows.py. Every score is {value, low, high, count}: the 95 % interval by clip, NaN where there
is none.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from conf.errors import UsageError
from conf.sections.tasks import EvaluationTask
from stages.hub import weights
from stages.scoring import classification, metric_registry
from stages.scoring.answer_reader import AnswerReader
from stages.scoring.answer_rows import Row
from stages.scoring.baselines import label_baselines, question_baselines
from stages.scoring.best_guess import BestGuess
from stages.scoring.captions.caption_scores import Tools, caption_scores
from stages.scoring.captions.coco import CaptionScore
from stages.scoring.intervals import Interval, bootstrap, percentile_interval, resample_counts, resampled
from stages.scoring.localisation import localisation
from stages.scoring.needs_sound import share_that_needs_sound
from stages.scoring.published_protocols import cut
from stages.scoring.reading_rules import Reading
from stages.scoring.requirements import cache_path, package_folder

CONDITIONS = {"sound": "with_sound", "other": "other_sound", "text": "without_sound", "shuffled": "shuffled_choices"}
MAX_RANKED = 20_000_000  # label scores that are ranked for the interval of an average precision: about a minute


def require(task: EvaluationTask, count: int | None) -> list[metric_registry.Metric]:
    """Raises one UsageError with all that a task's metrics and reading lack, before anything is generated. count:
    clips, where known.
    """
    kinds = {"captions": ("captions",), "questions": ("answers", "captions")}.get(task.ask, ("answers",))
    metrics = metric_registry.chosen(task.metrics, kinds)
    reading = [metric_registry.Metric(f"reading {task.reading}", "answers", "", "", encoder=task.encoder)]
    try:
        metric_registry.require([*metrics, *(reading if task.encoder else [])], count, weights.sentences_missing)
    except UsageError as error:
        raise UsageError(f"task {task.name}: {error}") from None
    return metrics


def load_tools(task: EvaluationTask) -> Tools:
    """What a task's metrics and reading need, loaded. Raises UsageError with all that is missing."""
    metrics = require(task, None)
    encoders = {name for name in (task.encoder, *(metric.encoder for metric in metrics)) if name}
    checker = weights.load_fluency(cache_path(metric_registry.CHECKER_FILE)) if "fense" in task.metrics else None
    return Tools(
        package_folder("pycocoevalcap"),
        {name: weights.load_sentences(name) for name in sorted(encoders)},
        checker,
    )


def score(
    task: EvaluationTask, rows: Sequence[Row], expected: int, labels: Sequence[str], train: Iterable[tuple[str, str, str]],
    tools: Tools, samples: int, seed: int,
) -> Row:  # fmt: skip
    """rows, labels: of one task; expected: how many rows there should be; train: (kind, question, answer) of the
    training split, for the baselines; kind `label` for labels.
    """
    failed = sum(row["prediction"] is None for row in rows) + expected - len(rows)
    report: Row = {
        key: getattr(task, key) for key in ("version", "title", "source", "ask", "reading", "encoder", "cut", "prompt")
    } | {"expected": expected, "scored": expected - failed, "failed": failed}
    by_condition = {name: [row for row in rows if row["condition"] == key] for key, name in CONDITIONS.items()}
    asked = {name: some for name, some in by_condition.items() if some}
    if task.ask == "captions":
        conditions = {name: _captions(task, some, tools, samples, seed) for name, some in asked.items()}
        return report | {"conditions": conditions, "baselines": {}}
    if not task.metrics:  # others score the answers
        return report | {"conditions": {name: {} for name in asked}, "baselines": {}}
    reader = AnswerReader(task, labels, tools)
    train = list(train)
    if task.ask == "labels":
        report |= {
            "labels": len(labels),
            "baselines": label_baselines(task, asked.get("with_sound", []), labels, train, samples, seed),
        }
        if "mean_average_precision" in task.metrics:  # each label has a score, and no answer is right or wrong
            return report | {
                "conditions": {name: _ranking(some, reader, samples, seed) for name, some in asked.items()}
            }
    judged = {name: [Judged(row, reader(row), reader.is_right(row)) for row in some] for name, some in asked.items()}
    if task.ask == "labels":
        conditions = {name: _labels(task, some, reader, samples, seed) for name, some in judged.items()}
        return report | {"conditions": conditions} | _needs_sound(judged, samples, seed)
    guess = BestGuess(train)
    groups: dict[str, Row] = {}
    for name in (None, *sorted({one.row["kind"] for part in judged.values() for one in part}), *_values(task, rows)):
        some = {key: [one for one in part if name in (None, *_groups(task, one.row))] for key, part in judged.items()}
        with_sound = [one.row for one in some.get("with_sound", [])]
        groups[name or "all"] = {
            "conditions": {key: _answers(task, part, reader, samples, seed) for key, part in some.items()},
            "baselines": question_baselines(with_sound, guess, samples, seed),
        } | _needs_sound(some, samples, seed)
    return report | groups.pop("all") | {"groups": groups}


class Judged(NamedTuple):
    row: Row
    reading: Reading
    right: bool


def _groups(task: EvaluationTask, row: Row) -> list[str]:
    """Those that a row is in: its kind, and the values of its publisher's fields."""
    fields = row.get("fields") or {}
    return [row["kind"], *(f"{name}: {fields[name]}" for name in task.groups if fields.get(name))]


def _values(task: EvaluationTask, rows: Sequence[Row]) -> list[str]:
    """The groups that are no kinds, field by field."""
    names = {name for row in rows for name in _groups(task, row)[1:]}
    return sorted(names, key=lambda name: (task.groups.index(name.partition(": ")[0]), name))


def _needs_sound(judged: Mapping[str, Sequence[Judged]], samples: int, seed: int) -> Row:
    """{needs_sound: interval}, the share of the accuracy that the LLM loses without the clip's sound: {} where it was not
    asked without.
    """
    counted = {
        name: [(one.row["source"], one.right) for one in judged[name]]
        for name in ("with_sound", "other_sound", "without_sound")
        if judged.get(name)
    }
    return {"needs_sound": asdict(share_that_needs_sound(counted, samples, seed))} if len(counted) > 1 else {}


def _ranking(rows: Sequence[Row], reader: AnswerReader, samples: int, seed: int) -> Row:
    right = [[reader.names.get(reader.key(name), name) for name in row["references"]] for row in rows]
    ranked, sources = [reader.scores(row) for row in rows], [row["source"] for row in rows]
    precision = _mean_average_precision(ranked, right, list(reader.names.values()), sources, samples, seed)
    return {"mean_average_precision": precision}


def _labels(task: EvaluationTask, judged: Sequence[Judged], reader: AnswerReader, samples: int, seed: int) -> Row:
    rows = [one.row for one in judged]
    sources = [row["source"] for row in rows]
    scores = _answers(task, judged, reader, samples, seed)
    read = [one.reading.label for one in judged]
    answers = [reader.reference(row) for row in rows]
    if "macro_f1" in task.metrics:
        scores["macro_f1"] = asdict(_macro_f1(read, answers, sources, samples, seed))
    if "confusion" in task.metrics:
        scores["confusion"] = classification.confusion(read, answers, list(reader.names.values()))._asdict()
    return scores


def _answers(task: EvaluationTask, judged: Sequence[Judged], reader: AnswerReader, samples: int, seed: int) -> Row:
    rows = [one.row for one in judged]
    unread = Counter(one.reading.why for one in judged if one.reading.label is None)
    right = [one.right for one in judged]
    scores: Row = {
        "accuracy": asdict(bootstrap(right, [row["source"] for row in rows], samples, seed)),
        "coverage": 1 - sum(unread.values()) / len(rows) if rows else math.nan,
        "unread": dict(sorted(unread.items())),
    }
    if similar := [name for name in task.metrics if name.startswith("similarity[")]:
        scores |= _captions(replace(task, metrics=similar), rows, reader.tools, samples, seed)
    return scores | (localisation(rows, samples, seed) or {})


def _captions(task: EvaluationTask, rows: Sequence[Row], tools: Tools, samples: int, seed: int) -> Row:
    captions = [cut(row["prediction"] or "", task.cut) for row in rows]
    sources = [row["source"] for row in rows]
    times = resample_counts(sources, samples, seed) if rows else None
    scores = caption_scores(task.metrics, captions, [row["references"] for row in rows], tools, times)

    def interval(one: CaptionScore) -> Interval:
        if one.resamples is not None:
            return percentile_interval(one.corpus, one.resamples, len(rows))
        if one.items:
            return resampled(one.items, sources, samples, seed)
        return Interval(one.corpus, math.nan, math.nan, len(rows))

    return {name: asdict(interval(one)) for name, one in scores.items()}


def _macro_f1(
    read: Sequence[str | None], answers: Sequence[str], sources: Sequence[str], samples: int, seed: int
) -> Interval:
    """Each resample has the mean over the labels that are an answer in it."""
    if not answers:
        return Interval(math.nan, math.nan, math.nan, 0)
    column = {label: index for index, label in enumerate(sorted(set(answers)))}
    predicted, right = (torch.zeros(len(answers), len(column), dtype=torch.float64) for _ in range(2))
    for index, (label, answer) in enumerate(zip(read, answers, strict=True)):
        right[index, column[answer]] = 1
        if label in column:
            predicted[index, column[label]] = 1
    times = resample_counts(sources, samples, seed)
    occurrences = times @ right
    f1 = 2 * (times @ (predicted * right)) / (times @ predicted + occurrences).clamp(min=1)
    means = (f1 * (occurrences > 0)).sum(1) / (occurrences > 0).sum(1)
    return percentile_interval(classification.macro_f1(read, answers), means, len(answers))


def _mean_average_precision(
    ranked: Sequence[Mapping[str, float]],
    answers: Sequence[Sequence[str]],
    labels: Sequence[str],
    sources: Sequence[str],
    samples: int,
    seed: int,
) -> Row:
    """With an interval where it takes seconds: resampling ranks every label anew."""
    whole = classification.mean_average_precision(ranked, answers, labels)
    low = high = math.nan
    if len(ranked) * len(labels) * samples <= MAX_RANKED:
        clips: dict[str, list[int]] = defaultdict(list)
        for index, source in enumerate(sources):
            clips[source].append(index)
        generator, names = random.Random(seed), sorted(clips)
        means = []
        for _ in range(samples):
            drawn = [index for name in generator.choices(names, k=len(names)) for index in clips[name]]
            resample = [ranked[index] for index in drawn], [answers[index] for index in drawn]
            means.append(classification.mean_average_precision(*resample, labels).mean)
        means.sort()
        low, high = means[int(0.025 * (len(means) - 1))], means[math.ceil(0.975 * (len(means) - 1))]
    return {
        "value": whole.mean, "low": low, "high": high, "count": len(ranked), "labels": len(whole.by_label),
        "labels_without_a_clip": len(whole.empty),
    }  # fmt: skip
