"""The turns of a conversation in a corpus or a text file: user first, each of text and sounds. No torch here.

    [{"role": "user", "content": [{"sound": "self"}, "What is it?"]}, {"role": "assistant", "content": "A bell."},
     {"role": "user", "content": ["And this? ", {"sound": "other.wav"}]}, {"role": "assistant", "content": "A dog."}]

What a turn's content lists is written one after the other, nothing between. "self" is the recording that carries the
conversation.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from datamodules.errors import DataError

SELF = "self"
ROLES = ("user", "assistant")

TurnFields = dict[str, Any]  # {"role": str, "content": [str or {"sound": name}, ...]}


def read_turns(value: object, where: str) -> list[TurnFields]:
    """Turns whose content is always a list. Raises DataError that begins with `where`."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f'{where}: a list of turns is expected, as [{{"role": "user", "content": "..."}}, ...], '
            f"here {str(value)[:60]!r}"
        )
    turns = []
    for number, turn in enumerate(value):
        expected = ROLES[number % 2]
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise DataError(f"{where}, turn {number + 1}: role and content are expected, here {str(turn)[:60]!r}")
        if turn["role"] != expected:
            hint = ". A system message is set by prompts.system" if turn["role"] == "system" else ""
            raise DataError(
                f"{where}, turn {number + 1}: the role is {turn['role']!r}; {expected} is expected, user and assistant "
                f"in turn{hint}"
            )
        content = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
        if not content or not all(_is_part(part) for part in content):
            raise DataError(
                f'{where}, turn {number + 1}: content is text, or a list of texts and {{"sound": NAME}}, '
                f"here {str(turn['content'])[:60]!r}"
            )
        turns.append({"role": expected, "content": content})
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


def read_conversation(
    text: str,
    where: str,
    recording: NamedRecording,
    table: Mapping[str, NamedRecording],
    normalize: Callable[[str], str],
) -> list[TurnFields]:
    """The JSON of a recording's conversation -> its turns, with the ids of the recordings whose paths they name.

    table: by path; normalize: a name -> its path in the table. Raises DataError for a sound of which the table has no
    row, or that is of another split.
    """
    try:
        turns = read_turns(json.loads(text), where)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: no JSON ({error})") from None
    for part in (part for turn in turns for part in turn["content"] if isinstance(part, dict)):
        if part["sound"] == SELF:
            continue
        other = table.get(normalize(part["sound"]))
        if other is None:
            raise DataError(
                f"{where}: the sound {part['sound']!r} has no row of its own; name a path of the table, or {SELF!r}"
            )
        if other.split != recording.split:
            raise DataError(
                f"{where}: {recording.path} is in the split {recording.split} and {other.path} in {other.split}; the "
                "sounds of a conversation are in one. Give both the same split"
            )
        part["sound"] = other.id
    return turns


def sounds_of(turns: list[TurnFields]) -> list[str]:
    """The names of the sounds of a conversation."""
    return [part["sound"] for turn in turns for part in turn["content"] if isinstance(part, dict)]


def _is_part(part: object) -> bool:
    if isinstance(part, dict):
        return set(part) == {"sound"} and isinstance(part["sound"], str) and bool(part["sound"])
    return isinstance(part, str) and bool(part)
