"""What the benchmarks of questions share: MMAU, MMAR, MMSU, MMAU-Pro."""

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.corpora.published.records import QuestionAnswer
from datamodules.errors import DataError

TEXTS = ("question", "choices", "answer")


def choice_question(
    item: Mapping[str, Any], where: str, kind: str, choices: Sequence[Any], answer: Any, needed: Sequence[str] = ("id",)
) -> QuestionAnswer:
    """kind, needed: fields that must not be empty; kind's value is the kind of question. choices: null and empty ones are
    none. The item's other texts become the question's fields. Raises DataError that begins with `where`.
    """
    _require(item, where, (*needed, "question", kind))
    if isinstance(choices, str):
        raise DataError(f"{where}: choices is {choices[:60]!r}; a list of texts is expected")
    texts = tuple(str(choice) for choice in choices if choice is not None and str(choice).strip())
    if len(texts) < 2 or answer in (None, ""):
        what = f"{len(texts)} choices, and two are the least" if len(texts) < 2 else "no answer"
        raise DataError(f"{where}: {what}; it has {', '.join(item)}")
    question = f"{str(item['question']).strip()} Choose one of: {'; '.join(texts)}."
    return QuestionAnswer(str(item[kind]), question, str(answer), texts, _fields(item))


def open_question(item: Mapping[str, Any], where: str, kind: str) -> QuestionAnswer:
    """One that is answered in words of one's own. Raises DataError that begins with `where`."""
    _require(item, where, ("id", "question", "answer", kind))
    return QuestionAnswer(str(item[kind]), str(item["question"]).strip(), str(item["answer"]), (), _fields(item))


def _require(item: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
    if lacking := [key for key in keys if item.get(key) in (None, "", [])]:
        raise DataError(f"{where}: no {lacking[0]}; it has {', '.join(item)}")


def _fields(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    own = ((key, value) for key, value in item.items() if key not in TEXTS and isinstance(value, str))
    return ("id", str(item["id"])), *own
