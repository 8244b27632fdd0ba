"""What the value of a key may be: the dataclasses of conf/sections give help and ranges, and, as `laws`, what must fit.

width: int = field(metadata=about("features; a multiple of 2 x heads", low=2))

def laws(self) -> Iterable[Problem]:
    if self.width % (2 * self.heads):
        yield Problem("width", "...")
"""

import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple


class Problem(NamedTuple):
    key: str  # within the section; "" for the section itself
    text: str  # what came, what is allowed, what to type


def about(help: str, low: float = -math.inf, high: float = math.inf) -> dict[str, Any]:
    """The metadata of a field: what the key means, with its unit, and the range of its value, both ends included."""
    return {"help": help, "low": low, "high": high}


def problems(section: Any, prefix: str = "") -> Iterable[Problem]:
    """What is wrong in a section and those inside it, ranges before laws. prefix: of its keys, as "encoder."."""
    for field in fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if is_dataclass(value):
            yield from problems(value, f"{key}.")
        elif isinstance(value, int | float):
            low, high = field.metadata["low"], field.metadata["high"]
            if not low <= value <= high:
                span = f"at least {low}" if high == math.inf else f"{low} to {high}"
                yield Problem(key, f"{value}; {span} is allowed")
    for key, text in section.laws() if hasattr(section, "laws") else ():
        yield Problem(f"{prefix}{key}".rstrip("."), text)


def exceptions(values: Iterable[str], known: Iterable[str]) -> list[str]:
    """The values that are not known, each once, in their order."""
    known = set(known)
    return [value for value in dict.fromkeys(values) if value not in known]
