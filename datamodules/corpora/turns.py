"""A conversation as a corpus and a text file tell it: turns, user first, each of text and sounds. No torch here.

    [{"role": "user", "content": [{"sound": "self"}, "What is it?"]}, {"role": "assistant", "content": "A bell."},
     {"role": "user", "content": ["And this? ", {"sound": "other.wav"}]}, {"role": "assistant", "content": "A dog."}]

What a turn's content lists is written one after the other, nothing between. "self" is the recording that carries the conversation.
"""

from typing import Any

SELF = "self"
ROLES = ("user", "assistant")


def read_turns(value: Any, where: str) -> list[dict[str, Any]]:
    """-> [{"role", "content": [str or {"sound": name}, ...]}, ...]: content always a list. Raises ValueError that begins with `where`."""
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'{where}: a list of turns is expected, as [{{"role": "user", "content": "..."}}, ...], here {str(value)[:60]!r}'
        )
    turns = []
    for number, turn in enumerate(value):
        wanted = ROLES[number % 2]
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise ValueError(f"{where}, turn {number + 1}: role and content are expected, here {str(turn)[:60]!r}")
        if turn["role"] != wanted:
            hint = ". A system message is set by prompts.system" if turn["role"] == "system" else ""
            raise ValueError(
                f"{where}, turn {number + 1}: the role is {turn['role']!r}; {wanted} is expected, user and assistant in turn{hint}"
            )
        content = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
        if not content or not all(_is_part(part) for part in content):
            raise ValueError(
                f'{where}, turn {number + 1}: content is text, or a list of texts and {{"sound": NAME}}, here {str(turn["content"])[:60]!r}'
            )
        turns.append({"role": wanted, "content": content})
    if len(turns) % 2:
        raise ValueError(f"{where}: it ends with the user; the assistant has the last turn")
    return turns


def sounds_of(turns: list[dict[str, Any]]) -> list[str]:
    return [part["sound"] for turn in turns for part in turn["content"] if isinstance(part, dict)]


def _is_part(part: Any) -> bool:
    named = isinstance(part, dict) and set(part) == {"sound"} and isinstance(part["sound"], str) and bool(part["sound"])
    return named or (isinstance(part, str) and bool(part))
