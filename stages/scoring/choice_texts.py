"""Choices and right answers of a question as publishers spell them: lists, letters, fields. No torch here."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from conf.errors import UsageError

FIELDS = ("choice_a", "choice_b", "choice_c", "choice_d")  # MMSU, AIR-Bench
LETTERS = "ABCDEFGHIJ"  # NeMo-Skills has a field for each


def choices_of(record: Mapping[str, Any], where: str) -> list[str]:
    """The texts, without the letters before them; [] for an open question. Raises UsageError.

    `choices` is a list, a text that is one (lmms-eval keeps MMAU's as JSON), or letter -> text; else there are fields
    choice_a to choice_d, or A, B, ... What is null or empty is no choice: questions with two have two.
    """
    given = record.get("choices")
    if isinstance(given, str) and given.strip():
        given = _parsed(given, where)
    if isinstance(given, Mapping):
        given = [given[key] for key in sorted(given)]
    if not given:
        given = [record.get(key) for key in FIELDS]
    if not any(given) and all(key in record for key in LETTERS[:2]):
        given = [record.get(key) for key in LETTERS]
    texts = [str(choice) for choice in given if choice is not None and str(choice).strip()]
    bare = [_without_letter(text, number) for number, text in enumerate(texts)]
    return bare if len(texts) > 1 and all(bare) and bare != texts else texts


def answer_text(answer: str, choices: Sequence[str]) -> str:
    """The choice that a right answer is: its text, its letter ("B", "(B)", "B."), or both; the answer as it is where it
    is none of them.
    """
    if answer in choices:
        return answer
    letter = re.fullmatch(r"\s*\(?([A-Za-z])[).:]?\s*", answer)
    number = ord(letter[1].upper()) - ord("A") if letter else -1
    if 0 <= number < len(choices):
        return choices[number]
    both = [choice for number, choice in enumerate(choices) if _without_letter(answer, number) == choice]
    return both[0] if both else answer


def _without_letter(text: str, number: int) -> str:
    """What follows the letter of choice `number` in a text; "" where the text does not begin with it."""
    letter = chr(ord("A") + number)
    match = re.fullmatch(rf"\s*(?:\({letter}\)|{letter}[).:])\s*(\S.*)", text, re.IGNORECASE | re.DOTALL)
    return match[1] if match else ""


def _parsed(text: str, where: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(values, list | tuple | dict):
            return values
    raise UsageError(f"{where}: choices is {text[:60]!r}; a list of texts is expected")
