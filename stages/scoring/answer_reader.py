"""Reads the answers to a task as the task says, and judges them."""

from collections.abc import Callable, Sequence

from conf.errors import UsageError
from conf.sections.tasks import EvaluationTask
from stages.scoring.answer_rows import Row
from stages.scoring.captions.caption_scores import Tools
from stages.scoring.english import differ_in_signs, key_among, label_key, refusal, words
from stages.scoring.published_protocols import cut, mmau_official, mmsu_official
from stages.scoring.reading_rules import (
    EMPTY,
    NONE,
    READ,
    REFUSAL,
    RULES,
    Label,
    Reading,
    final_answer,
    labelled,
    named,
    nearest,
)


class AnswerReader:
    """Row -> Reading, and whether it is right."""

    def __init__(self, task: EvaluationTask, labels: Sequence[str], tools: Tools) -> None:
        """labels: the corpus' label names, for a task that has no labels with aliases."""
        self.task, self.tools = task, tools
        given = task.labels
        self.labels = labelled(given if isinstance(given, dict) else list(labels))
        texts = tuple(name for label in self.labels for name in (label.name, *label.aliases))
        self.exact, self.key = differ_in_signs(texts), key_among(texts)
        self.names = {self.key(label.name): label.name for label in self.labels}

    def __call__(self, row: Row) -> Reading:
        text = cut(row["prediction"] or "", self.task.cut)
        labels = [Label(choice) for choice in row.get("choices") or ()] or self.labels
        rule = self.task.reading
        if row["prediction"] is None or not words(text):
            return Reading(None, EMPTY)
        if rule == "mmau":
            return Reading(text, READ)  # its match is of words with words, and reads no label
        if rule == "mmsu":
            number = mmsu_official(text, len(labels))
            return Reading(None, NONE) if number is None else Reading(labels[number].name, READ)
        if rule == "likelihood":
            return RULES["exact"](text, labels)
        if rule == "ltu":
            return Reading(self._most_similar(text, labels, self.task.template), READ)
        text = final_answer(text)
        if rule == "nearest":
            return nearest(text, labels, lambda answer, names: self._cosines(answer, names, self.task.template))
        if not labels:  # an open question
            return Reading(None, REFUSAL) if refusal(text) and not matches(text, row) else Reading(text, READ)
        return RULES[rule](text, labels)

    def is_right(self, row: Row) -> bool:
        if self.task.reading == "mmau":
            return mmau_official(row["prediction"] or "", row["references"][0], row["choices"])
        label = self(row).label
        return label is not None and matches(label, row, self.key)

    def scores(self, row: Row) -> dict[str, float]:
        """Label -> score, for the average precision."""
        if row["prediction"] is None:
            return {}
        text, names = cut(row["prediction"], self.task.cut), [label.name for label in self.labels]
        if self.task.reading == "likelihood" and row.get("scores"):
            return dict(zip(names, row["scores"], strict=True))
        if self.task.reading == "ltu":
            return dict(zip(names, self._cosines(text, names, self.task.template), strict=True))
        return dict.fromkeys(named(final_answer(text), self.labels), 1.0)

    def reference(self, row: Row) -> str:
        """The label that is right. Raises UsageError for one that the task does not have."""
        answer: str = row["references"][0]
        if self.key(answer) not in self.names:
            raise UsageError(
                f"task {self.task.name}: the corpus has the label {answer!r}, which the task has not. Add it to a copy of the task's YAML, "
                f"and type --tasks=[FILE.yaml]. It has: {', '.join(list(self.names.values())[:12])}, ..."
            )
        return self.names[self.key(answer)]

    def _cosines(self, text: str, names: Sequence[str], template: str) -> list[float]:
        assert self.task.encoder is not None, "a law of the task"
        return self.tools.encoders[self.task.encoder].cosines(text, names, template)

    def _most_similar(self, text: str, labels: Sequence[Label], template: str) -> str:
        cosines = self._cosines(text, [label.name for label in labels], template)
        return labels[max(range(len(labels)), key=cosines.__getitem__)].name


def matches(text: str, row: Row, key: Callable[[str], str] = label_key) -> bool:
    """Whether a text is one of the row's references, but for case, articles and punctuation.

    key: what texts of one label share; of a row with choices, that of these.
    """
    key = key_among(row["choices"]) if row.get("choices") else key
    return bool(key(text)) and any(key(text) == key(answer) for answer in row["references"])
