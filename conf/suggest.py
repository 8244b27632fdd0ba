"""The one "did you mean" of the project: the known name that is most like a mistyped one."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """None where no known name is like it."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """ "Did you mean 'devices'?", or `otherwise`."""
    near = closest(name, known)
    return f"Did you mean {near!r}?" if near else otherwise


def allowed(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'esc50'? Allowed: audiocaps, clotho, esc50"."""
    known = sorted(known)
    return f"{did_you_mean(name, known)} Allowed: {', '.join(known) or 'none'}".strip()
