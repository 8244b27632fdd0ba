"""A task's answers to its scores: read, compared, and set beside what needs no ears. From rows alone: scoring again asks no model.

A row: {id, source, kind, condition, question, references, choices, prediction}; condition sound, other, text or shuffled. A prediction that is
None failed, and counts as wrong. What a row may hold more: scores, the LLM's log-probability of each label.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from conf.errors import UsageError
from conf.sections.tasks import EvaluationTask
from stages.scoring import classes, registry
from stages.scoring.answers import BestGuess, Interval, bootstrap, drawn, interval, is_right, resampled
from stages.scoring.captions.coco import Scored
from stages.scoring.captions.scores import Tools, scores
from stages.scoring.protocols import cut, mmau_official
from stages.scoring.reading import EMPTY, READ, REFUSAL, RULES, Label, Reading, labelled, named, nearest
from stages.scoring.words import refusal, words

Row = dict[str, Any]
CONDITIONS = {"sound": "with_sound", "other": "other_sound", "text": "without_sound", "shuffled": "shuffled_choices"}


def tools(task: EvaluationTask) -> Tools:
    """What a task's metrics and reading need, loaded. Raises UsageError with all that is not here."""
    from stages.hub import weights

    metrics = require(task, None)
    wanted = {name for name in (task.encoder, *(metric.encoder for metric in metrics)) if name}
    checker = weights.load_fluency(registry.cached(registry.CHECKER_FILE)) if "fense" in task.metrics else None
    return Tools(
        registry.folder_of("pycocoevalcap"),
        {name: weights.load_sentences(name) for name in sorted(wanted)},
        checker,
    )


def require(task: EvaluationTask, count: int | None) -> list[registry.Metric]:
    """Raises one UsageError that says all that a task's metrics and reading lack, before anything is generated. count: clips, where known."""
    from stages.hub import weights

    kinds = {"captions": ("captions",), "questions": ("answers", "captions")}.get(task.ask, ("answers",))
    metrics = registry.chosen(task.metrics, kinds)
    encoder = task.encoder
    reading = [registry.Metric(f"reading {task.reading}", "answers", "", "", encoder=encoder)] if encoder else []
    try:
        registry.require([*metrics, *reading], count, weights.sentences_missing)
    except ValueError as error:
        raise UsageError(f"task {task.name}: {error}") from None
    return metrics


def score(
    task: EvaluationTask, rows: Sequence[Row], expected: int, labels: Sequence[str], train: Iterable[tuple[str, str, str]],
    using: Tools, samples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """rows: of one task; labels: of it; train: (kind, question, answer) of the training split, for the baselines; kind `label` for labels.

    The result's values are {value, low, high, count}, the 95 % interval by clip, NaN where there is none.
    """
    failed = sum(row["prediction"] is None for row in rows) + expected - len(rows)
    found: dict[str, Any] = {
        key: getattr(task, key) for key in ("version", "title", "source", "ask", "reading", "encoder", "cut", "prompt")
    } | {"expected": expected, "scored": expected - failed, "failed": failed}
    by_condition = {name: [row for row in rows if row["condition"] == key] for key, name in CONDITIONS.items()}
    held = {name: some for name, some in by_condition.items() if some}
    if task.ask == "captions":
        scored = {name: _captions(task, some, using, samples, seed) for name, some in held.items()}
        return found | {"conditions": scored, "baselines": {}}
    read = Reader(task, labels, using)
    train = list(train)
    guess = BestGuess(train)
    if task.ask == "labels":
        return found | {
            "labels": len(labels),
            "conditions": {name: _labels(task, some, read, labels, samples, seed) for name, some in held.items()},
            "baselines": _label_baselines(task, held.get("with_sound", []), labels, train, samples, seed),
        }
    groups: dict[str, dict[str, Any]] = {}
    for kind in (None, *sorted({row["kind"] for row in rows})):
        some = {name: [row for row in part if kind in (None, row["kind"])] for name, part in held.items()}
        groups[kind or "all"] = {
            "conditions": {name: _answers(task, part, read, using, samples, seed) for name, part in some.items()},
            "baselines": _question_baselines(some.get("with_sound", []), guess, samples, seed),
        }
    return found | groups.pop("all") | {"kinds": groups}


class Reader:
    """Row -> Reading, and whether it is right."""

    def __init__(self, task: EvaluationTask, labels: Sequence[str], using: Tools) -> None:
        self.task, self.using = task, using
        given = task.labels
        self.labels = labelled(given if isinstance(given, dict) else list(labels))
        self.names = {_key(label.name): label.name for label in self.labels}

    def __call__(self, row: Row) -> Reading:
        text = cut(row["prediction"] or "", self.task.cut)
        labels = [Label(choice) for choice in row.get("choices") or ()] or self.labels
        way = self.task.reading
        if row["prediction"] is None or not words(text):
            return Reading(None, EMPTY)
        if way == "mmau":
            return Reading(text, READ)  # its match is of words with words, and reads no label
        if way == "likelihood":
            return RULES["exact"](text, labels)
        if way == "ltu":
            return Reading(self._argmax(text, labels, self.task.template), READ)
        if way == "nearest":
            return nearest(text, labels, lambda said, texts: self._cosines(said, texts, self.task.template))
        if not labels:  # an open question
            return Reading(None, REFUSAL) if refusal(text) and not _among(text, row) else Reading(text, READ)
        return RULES[way](text, labels)

    def right(self, row: Row) -> bool:
        if self.task.reading == "mmau":
            return mmau_official(row["prediction"] or "", row["references"][0], row["choices"])
        label = self(row).label
        return label is not None and any(
            _key(label) == _key(answer) or is_right(label, answer) for answer in row["references"]
        )

    def scores(self, row: Row) -> dict[str, float]:
        """Label -> score, for the average precision."""
        if row["prediction"] is None:
            return {}
        text, names = cut(row["prediction"], self.task.cut), [label.name for label in self.labels]
        if self.task.reading == "likelihood" and row.get("scores"):
            return dict(zip(names, row["scores"], strict=True))
        if self.task.reading == "ltu":
            return dict(zip(names, self._cosines(text, names, self.task.template), strict=True))
        return dict.fromkeys(named(text, self.labels), 1.0)

    def _cosines(self, text: str, names: Sequence[str], template: str) -> list[float]:
        assert self.task.encoder is not None, "a law of the task"
        return self.using.encoders[self.task.encoder].cosines(text, names, template)

    def _argmax(self, text: str, labels: Sequence[Label], template: str) -> str:
        numbers = self._cosines(text, [label.name for label in labels], template)
        return labels[max(range(len(labels)), key=numbers.__getitem__)].name


def _labels(
    task: EvaluationTask, rows: Sequence[Row], read: Reader, labels: Sequence[str], samples: int, seed: int
) -> Row:
    sources = [row["source"] for row in rows]
    if "mean_average_precision" in task.metrics:
        ranked = [read.scores(row) for row in rows]
        answers = [[read.names.get(_key(name), name) for name in row["references"]] for row in rows]
        return {
            "mean_average_precision": _precision(ranked, answers, list(read.names.values()), sources, samples, seed)
        }
    found = _answers(task, rows, read, read.using, samples, seed)
    got = [read(row).label for row in rows]
    answers = [_known(row["references"][0], read, task) for row in rows]
    if "macro_f1" in task.metrics:
        found["macro_f1"] = _macro_f1(got, answers, sources, samples, seed)._asdict()
    if "confusion" in task.metrics:
        found["confusion"] = classes.confusion(got, answers, list(read.names.values()))._asdict()
    return found


def _answers(task: EvaluationTask, rows: Sequence[Row], read: Reader, using: Tools, samples: int, seed: int) -> Row:
    readings = [read(row) for row in rows]
    unread = Counter(reading.why for reading in readings if reading.label is None)
    found: Row = {
        "accuracy": bootstrap(
            [read.right(row) for row in rows], [row["source"] for row in rows], samples, seed
        )._asdict(),
        "coverage": 1 - sum(unread.values()) / len(rows) if rows else math.nan,
        "unread": dict(sorted(unread.items())),
    }
    if similar := [name for name in task.metrics if name.startswith("similarity[")]:
        found |= _captions(replace(task, metrics=similar), rows, using, samples, seed)
    return found


def _captions(task: EvaluationTask, rows: Sequence[Row], using: Tools, samples: int, seed: int) -> Row:
    said = [cut(row["prediction"] or "", task.cut) for row in rows]
    sources = [row["source"] for row in rows]
    draws = drawn(sources, samples, seed) if rows else None
    found = scores(task.metrics, said, [row["references"] for row in rows], using, draws)

    def told(one: Scored) -> Row:
        if one.drawn is not None:
            return interval(one.corpus, one.drawn, len(rows))._asdict()
        return resampled(one.items, sources, samples, seed)._asdict() if one.items else _value(one.corpus, len(rows))

    return {name: told(one) for name, one in found.items()}


def _macro_f1(
    read: Sequence[str | None], answers: Sequence[str], sources: Sequence[str], samples: int, seed: int
) -> Interval:
    """Each draw has the mean over the labels that are an answer in it."""
    if not answers:
        return Interval(math.nan, math.nan, math.nan, 0)
    labels = {label: place for place, label in enumerate(sorted(set(answers)))}
    told, right = (torch.zeros(len(answers), len(labels), dtype=torch.float64) for _ in range(2))
    for index, (got, answer) in enumerate(zip(read, answers, strict=True)):
        right[index, labels[answer]] = 1
        if got in labels:
            told[index, labels[got]] = 1
    draws = drawn(sources, samples, seed)
    there = draws @ right
    scores_ = 2 * (draws @ (told * right)) / (draws @ told + there).clamp(min=1)
    means = (scores_ * (there > 0)).sum(1) / (there > 0).sum(1)
    return interval(classes.macro_f1(read, answers), means, len(answers))


def _precision(
    ranked: Sequence[dict[str, float]],
    answers: Sequence[Sequence[str]],
    labels: Sequence[str],
    sources: Sequence[str],
    samples: int,
    seed: int,
) -> Row:
    """With an interval where it takes seconds: resampling ranks every label anew. Few clips lie above chance, the share of positives, without any
    skill: what the LLM scores with another clip's sound is the fairer floor.
    """
    import random

    whole = classes.mean_average_precision(ranked, answers, labels)
    low = high = math.nan
    if len(ranked) * len(labels) * samples <= MOST:
        clips: dict[str, list[int]] = defaultdict(list)
        for index, source in enumerate(sources):
            clips[source].append(index)
        generator, names = random.Random(seed), sorted(clips)
        drawn = []
        for _ in range(samples):
            chosen = [index for name in generator.choices(names, k=len(names)) for index in clips[name]]
            drawn.append(
                classes.mean_average_precision([ranked[i] for i in chosen], [answers[i] for i in chosen], labels).mean
            )
        drawn.sort()
        low, high = drawn[int(0.025 * (len(drawn) - 1))], drawn[math.ceil(0.975 * (len(drawn) - 1))]
    return {
        "value": whole.mean, "low": low, "high": high, "count": len(ranked), "labels": len(whole.by_label),
        "labels_without_a_clip": len(whole.empty),
    }  # fmt: skip


MAIN = ("accuracy", "mean_average_precision")  # what baselines stand beside
MOST = 20_000_000  # label scores that are ranked for an interval: about a minute


def _label_baselines(
    task: EvaluationTask,
    rows: Sequence[Row],
    labels: Sequence[str],
    train: Sequence[tuple[str, str, str]],
    samples: int,
    seed: int,
) -> Row:
    if "mean_average_precision" in task.metrics:
        given = [[_key(name) for name in row["references"]] for row in rows]
        shares = [
            sum(label in names for names in given) / len(given) for label in {name for names in given for name in names}
        ]
        return {"chance": sum(shares) / len(shares) if shares else math.nan}
    counted = Counter(_key(answer) for kind, _, answer in train if kind == "label")
    of = "train" if counted else "test"  # a corpus that is all test has no training split to count in
    counted = counted or Counter(_key(row["references"][0]) for row in rows)
    most = min(counted, key=lambda name: (-counted[name], name)) if counted else ""
    return {
        "chance": 1 / len(labels) if labels else math.nan,
        "majority": _share([_key(row["references"][0]) == most for row in rows], rows, samples, seed)
        | {"label": most, "of": of},
    }


def _question_baselines(rows: Sequence[Row], guess: BestGuess, samples: int, seed: int) -> Row:
    """Chance among the choices or the kind's answers, the best text-only guess of the training split, and blind ways to choose."""
    chances = [
        1 / len({_key(choice) for choice in row["choices"]}) if row.get("choices") else guess.chance(row["kind"])
        for row in rows
    ]
    found: Row = {
        "chance": sum(chances) / len(chances) if chances else math.nan,
        "best_guess": _share(
            [_equal(guess.guess(row["kind"], row["question"]), row) for row in rows], rows, samples, seed
        ),
    }
    blind: dict[str, Callable[[Sequence[str]], str]] = {
        "always_first": lambda choices: choices[0],
        "always_longest": lambda choices: max(choices, key=len),
    }
    if rows and all(row.get("choices") for row in rows):
        for name, way in blind.items():
            found[name] = _share([_equal(way(row["choices"]), row) for row in rows], rows, samples, seed)
    return found


def _share(right: Sequence[bool], rows: Sequence[Row], samples: int, seed: int) -> Row:
    return bootstrap(right, [row["source"] for row in rows], samples, seed)._asdict()


def _equal(text: str, row: Row) -> bool:
    return any(_key(text) == _key(answer) or is_right(text, answer) for answer in row["references"])


def _among(text: str, row: Row) -> bool:
    return any(_key(text) == _key(answer) for answer in row["references"])


def _known(answer: str, read: Reader, task: EvaluationTask) -> str:
    if _key(answer) not in read.names:
        raise UsageError(
            f"task {task.name}: the corpus has the label {answer!r}, which the task has not. Add it to a copy of the task's YAML, "
            f"and type --tasks=[FILE.yaml]. It has: {', '.join(list(read.names.values())[:12])}, ..."
        )
    return read.names[_key(answer)]


def _value(value: float, count: int) -> Row:
    return {"value": value, "low": math.nan, "high": math.nan, "count": count}


def _key(text: str) -> str:
    return " ".join(words(text))


def document(title: str, found: dict[str, dict[str, Any]]) -> str:
    """report.md of a run that asked tasks, or of a file of predictions."""
    head = [
        f"# {title}", "",
        "Each value with its 95 % interval by clip (bootstrap; Wilson's where all are right, or all wrong). Coverage: the share of answers "
        "that were read; unread ones are wrong.", "",
    ]  # fmt: skip
    return "\n".join([*head, *markdown(found)])


def markdown(found: dict[str, dict[str, Any]]) -> list[str]:
    """The tasks' tables."""
    lines: list[str] = []
    for name, row in found.items():
        how = (
            f"Read by `{row['reading']}`" + (f" with {row['encoder']}" if row["encoder"] else "")
            if row["reading"] != "none"
            else "Not read"
        )
        lines += [
            f"## {row['title']} (`{name}`, version {row['version']})", "",
            f"{row['source']}. {how}. {row['expected']} items expected, {row['scored']} scored, {row['failed']} failed.", "",
        ]  # fmt: skip
        groups = {"all": row} | row.get("kinds", {})
        names = list(dict.fromkeys(key for group in groups.values() for key in group["conditions"]))
        extra = list(dict.fromkeys(key for group in groups.values() for key in group["baselines"]))
        lines += [
            "| | n | " + " | ".join([*(key.replace("_", " ") for key in (*names, *extra)), "coverage"]) + " |",
            "|---|" + "---|" * (len(names) + len(extra) + 2),
        ]
        for kind, group in groups.items():
            first = next(iter(group["conditions"].values()), {})
            for metric in [key for key in first if key not in ("coverage", "unread", "confusion")]:
                cells = [_cell(group["conditions"].get(key, {}).get(metric)) for key in names]
                cells += [_cell(group["baselines"].get(key)) if metric in MAIN else "" for key in extra]
                cells.append(_cell(first["coverage"]) if metric == "accuracy" else "")
                count = first[metric]["count"]
                lines.append(
                    f"| {metric if kind == 'all' else f'{kind}: {metric}'} | {count} | " + " | ".join(cells) + " |"
                )
        lines.append("")
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        if math.isnan(value["value"]):
            return "n/a"
        ends = "" if math.isnan(value["low"]) else f" [{value['low']:.3f}, {value['high']:.3f}]"
        return f"{value['value']:.3f}{ends}"
    return "n/a" if math.isnan(value) else f"{value:.3f}"
