"""Answers that the page shows: right ones and wrong ones of each kind, chosen by the hash of their ids."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from datamodules.cuts import Cut
from datamodules.hashing import choose_by_hash
from stages.reports.embedded_audio import Drawing, EmbeddedAudio, Track
from stages.scoring.exact_match import is_right

# whether an answer is right; None for what is neither right nor wrong
Judge = Callable[[Mapping[str, Any]], bool | None]


class AnswerExample(NamedTuple):
    question: str
    expected: list[str]
    answer: str
    right: bool | None  # None: a caption, which is neither
    sound: Track | None
    attention: Drawing | None = None  # a row a token of the answer, over the clip


def exact(row: Mapping[str, Any]) -> bool | None:
    """Whether an answer is the reference to the word; None for what is neither right nor wrong, or is judged by a
    task's rule.
    """
    if row["kind"] == "caption" or row.get("task"):
        return None
    return is_right(row["prediction"] or "", row["references"][0])


def choose(predictions: Sequence[dict[str, Any]], count: int, judge: Judge = exact) -> list[dict[str, Any]]:
    """Up to `count` right and `count` wrong answers of each kind, and as many that are neither, all given with the
    sound; the same ones on every run.
    """
    with_sound = [row for row in predictions if row["condition"] == "sound"]
    chosen: list[dict[str, Any]] = []
    for kind in sorted({kind_of(row) for row in with_sound}):
        rows = [row for row in with_sound if kind_of(row) == kind]
        verdicts = [judge(row) for row in rows]
        for wanted in (True, False, None):
            part = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is wanted]
            chosen += choose_by_hash(part, count, lambda row: row["id"])
    return chosen


def in_turn_of_kind(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each kind, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for row in rows:
        ranked.append((seen[kind_of(row)], row))
        seen[kind_of(row)] += 1
    return [row for _, row in sorted(ranked, key=lambda one: one[0])]


def with_audio(
    rows: Sequence[Mapping[str, Any]],
    cuts: Mapping[str, Cut],
    audio: EmbeddedAudio,
    judge: Judge = exact,
    attention: Mapping[str, Drawing] = MappingProxyType({}),
) -> dict[str, list[AnswerExample]]:
    """The chosen rows by kind, each with its sound where the page has it. cuts: `cuts_by_question`; attention: of some, by
    id of the row.
    """
    examples: dict[str, list[AnswerExample]] = {}
    for row in rows:
        cut = cuts.get(question_id(row))
        track = audio.recordings.get(cut.id) if cut else None
        example = AnswerExample(
            row["question"], row["references"], row["prediction"] or "", judge(row), track, attention.get(row["id"])
        )
        examples.setdefault(kind_of(row), []).append(example)
    return examples


def kind_of(row: Mapping[str, Any]) -> str:
    kind: str = row["kind"]
    return f"{row['task']}: {kind}" if row.get("task") else kind


def question_id(row: Mapping[str, Any]) -> str:
    """A row's id without its task and its condition: the question or recording of the corpus."""
    name: str = row["id"]
    return name.rpartition(":")[0].removeprefix(f"{row.get('task', '')}:")


def cuts_by_question(cuts: Sequence[Cut]) -> dict[str, Cut]:
    """`question_id` -> the recording that is asked about."""
    by_supervision = {supervision.id: cut for cut in cuts for supervision in cut.supervisions}
    return by_supervision | {cut.id: cut for cut in cuts} | {f"{cut.id}:caption": cut for cut in cuts}
