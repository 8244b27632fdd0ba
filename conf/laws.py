"""What the value of a key may be: the dataclasses of conf/sections give help and ranges, and, as `laws`, what must fit.

width: int = about("features; a multiple of 2 x heads", low=2)

def laws(self) -> Iterable[Problem]:
    if self.width % (2 * self.heads):
        yield Problem("width", "...")
"""

import math
import os
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass
from typing import Any, NamedTuple


class Problem(NamedTuple):
    key: str  # within the section; "" for the section itself
    text: str  # what came, what is allowed, what to type


def about(help: str, low: float = -math.inf, high: float = math.inf, path: bool = False) -> Any:
    """A field of a section, without a default: what the key means, with its unit, and the range of its value, ends included.

    path: the text may be a path, so that a `~` at its beginning is the user's home.
    """
    return field(metadata={"help": help, "low": low, "high": high, "path": path})


def expand_home(section: Any) -> None:
    """Replaces a `~` at the beginning of paths by the user's home: a shell does not, behind `--data.root=`."""
    for key in fields(section):
        value = getattr(section, key.name)
        if is_dataclass(value):
            expand_home(value)
        elif key.metadata["path"]:
            setattr(section, key.name, _expanded(value))


def _expanded(value: object) -> object:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) else value


def problems(section: Any, prefix: str = "") -> Iterable[Problem]:
    """What is wrong in a section and those inside it, ranges before laws. prefix: of its keys, as "encoder."."""
    for one in fields(section):
        key, value = f"{prefix}{one.name}", getattr(section, one.name)
        if is_dataclass(value):
            yield from problems(value, f"{key}.")
        elif isinstance(value, int | float):
            low, high = one.metadata["low"], one.metadata["high"]
            if not low <= value <= high:
                span = f"at least {low}" if high == math.inf else f"{low} to {high}"
                yield Problem(key, f"{value}; {span} is allowed")
    for key, text in section.laws() if hasattr(section, "laws") else ():
        yield Problem(f"{prefix}{key}".rstrip("."), text)


def exceptions(values: Iterable[str], known: Iterable[str]) -> list[str]:
    """The values that are not known, each once, in their order."""
    known = set(known)
    return [value for value in dict.fromkeys(values) if value not in known]
