"""What a key means and why it has its value: the remarks beside it, in the YAML files and in conf/sections. No torch here."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from conf.schema import UNITS

ROOT = Path(__file__).parent
KEY = re.compile(r"^( *)([\w-]+):(?:.*?[ \t]#[ \t]*(.*))?")
FIELD = re.compile(r"^ +(\w+): .*?  # (.*)$")


def reasons(unit: str, presets: Sequence[str], files: Sequence[str], origins: dict[str, str]) -> dict[str, str]:
    """ "optimizer.weight_decay" -> "not on norms, biases, codebook". origins: the layer that set each key; what another layer says of its own
    value stands behind that layer's name."""
    found = {key: [text] for key, text in _meanings(UNITS[unit].schema).items()}
    own = [ROOT / folder / f"{name}.yaml" for name in ("base", *presets) for folder in UNITS[unit].folders]
    for path, layer in [
        *((path, f"conf/{path.relative_to(ROOT)}") for path in own),
        *((Path(file), file) for file in files),
    ]:
        for key, text in _beside(path).items() if path.is_file() else ():
            here = layer == origins.get(key, layer)
            found.setdefault(key, []).append(text if here else f"({layer}: {text})")
    return {key: "; ".join(dict.fromkeys(texts)) for key, texts in found.items()}


def _meanings(owner: Any, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in reversed([one for one in owner.__mro__ if is_dataclass(one)]):
        for line in inspect.getsourcelines(kind)[0]:
            if match := FIELD.match(line):
                found[prefix + match[1]] = match[2].strip()
    for field in fields(owner):
        if is_dataclass(field.type):
            found |= _meanings(field.type, f"{prefix}{field.name}.")
    return found


def _beside(path: Path) -> dict[str, str]:
    """Remarks at the end of the lines of a YAML file of mappings, by dotted key."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # indent and key of the sections around a line
    for line in path.read_text().splitlines():
        if match := KEY.match(line):
            indent = len(match[1])
            above = [(depth, key) for depth, key in above if depth < indent]
            above.append((indent, match[2]))
            if match[3]:
                found[".".join(key for _, key in above)] = match[3].strip()
    return found
