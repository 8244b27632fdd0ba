"""A conversation as a corpus and a text file tell it: turns, user first, each of text and sounds. No torch here.

    [{"role": "user", "content": [{"sound": "self"}, "What is it?"]}, {"role": "assistant", "content": "A bell."},
     {"role": "user", "content": ["And this? ", {"sound": "other.wav"}]}, {"role": "assistant", "content": "A dog."}]

What a turn's content lists is written one after the other, nothing between. "self" is the recording that carries the conversation.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from datamodules.errors import DataError

SELF = "self"
ROLES = ("user", "assistant")


def read_turns(value: Any, where: str) -> list[dict[str, Any]]:
    """-> [{"role", "content": [str or {"sound": name}, ...]}, ...]: content always a list. Raises DataError that begins with `where`."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f'{where}: a list of turns is expected, as [{{"role": "user", "content": "..."}}, ...], here {str(value)[:60]!r}'
        )
    turns = []
    for number, turn in enumerate(value):
        wanted = ROLES[number % 2]
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise DataError(f"{where}, turn {number + 1}: role and content are expected, here {str(turn)[:60]!r}")
        if turn["role"] != wanted:
            hint = ". A system message is set by prompts.system" if turn["role"] == "system" else ""
            raise DataError(
                f"{where}, turn {number + 1}: the role is {turn['role']!r}; {wanted} is expected, user and assistant in turn{hint}"
            )
        content = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
        if not content or not all(_is_part(part) for part in content):
            raise DataError(
                f'{where}, turn {number + 1}: content is text, or a list of texts and {{"sound": NAME}}, here {str(turn["content"])[:60]!r}'
            )
        turns.append({"role": wanted, "content": content})
    if len(turns) % 2:
        raise DataError(f"{where}: it ends with the user; the assistant has the last turn")
    return turns


class NamedRecording(Protocol):
    """A recording of a table."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def split(self) -> str: ...


def placed(
    text: str, where: str, own: NamedRecording, table: Mapping[str, NamedRecording], path: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The JSON of a recording's conversation -> its turns, with the ids of the recordings whose paths they name.

    path: what a name is in `table`. Raises DataError for a sound that the table has no row of, or that is of another split.
    """
    try:
        turns = read_turns(json.loads(text), where)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: no JSON ({error})") from None
    for part in (part for turn in turns for part in turn["content"] if isinstance(part, dict)):
        if part["sound"] == SELF:
            continue
        other = table.get(path(part["sound"]))
        if other is None:
            raise DataError(
                f"{where}: the sound {part['sound']!r} has no row of its own; name a path of the table, or {SELF!r}"
            )
        if other.split != own.split:
            raise DataError(
                f"{where}: {own.path} is in the split {own.split} and {other.path} in {other.split}; the sounds of a conversation "
                "are in one. Give both the same split"
            )
        part["sound"] = other.id
    return turns


def sounds_of(turns: list[dict[str, Any]]) -> list[str]:
    return [part["sound"] for turn in turns for part in turn["content"] if isinstance(part, dict)]


def _is_part(part: Any) -> bool:
    named = isinstance(part, dict) and set(part) == {"sound"} and isinstance(part["sound"], str) and bool(part["sound"])
    return named or (isinstance(part, str) and bool(part))
