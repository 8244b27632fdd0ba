"""Keys on the command line: "trainer.devices=8" for all stages that have it, "tokenizer.batch_size=8" for one unit."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.errors import UsageError
from conf.schema import OPERATIONAL, UNITS, keys
from conf.suggest import did_you_mean
from conf.typed_values import typed_value

COMMAND_LINE = "command line"  # the origin of its values


def parse_overrides(words: Sequence[str]) -> list[str]:
    """`--a.b=c`, `a.b=c` and `--a.b c` -> "a.b=c"; `--slurm.x` -> "slurm.x=". Raises UsageError on others."""
    overrides, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if "=" not in word and word.startswith("--") and rest and not rest[0].startswith("--"):
            word = f"{word}={rest.pop(0)}"
        elif "=" not in word and word.startswith("--slurm."):
            word = f"{word}="
        if not re.match(r"^(--)?[A-Za-z_][\w.-]*=", word):
            raise UsageError(f"{COMMAND_LINE}: cannot read {word!r}. A configuration key is set as --trainer.devices=8")
        key, value = word.removeprefix("--").split("=", 1)
        overrides.append(f"{_underscored(key)}={value}")
    return overrides


def check_shared(units: Iterable[str], overrides: Sequence[str]) -> None:
    """Raises UsageError where an override is known to none of the units."""
    units = list(units)
    for override in overrides:
        key = _key(override)
        if key.split(".")[0] not in UNITS and not any(_is_known(unit, key) for unit in units):
            known = {f"{prefix}{path}" for unit in units for path in keys(unit) for prefix in ("", f"{unit}.")}
            raise UsageError(f"{COMMAND_LINE}: no stage has a key {key!r}. {did_you_mean(key, known)}".rstrip())


def concerns(unit: str, override: str) -> bool:
    """Whether an override that was given to several units is for this one."""
    head = _key(override).split(".")[0]
    return head == unit if head in UNITS else _is_known(unit, _key(override))


def decides(override: str) -> bool:
    """Whether an override decides results: not where a run lies, what it reads, or how fast it goes."""
    path = _key(override).split(".")
    path = path[1:] if path[0] in UNITS else path
    return not any(".".join(path[:length]) in OPERATIONAL for length in range(1, len(path) + 1))


def for_unit(unit: str, overrides: Sequence[str], shared: bool) -> list[str]:
    """Those for this unit, without its name. shared: without those that its schema does not know."""
    chosen = []
    for override in overrides:
        head, _, rest = override.partition(".")
        if head in UNITS and "=" not in head:
            chosen += [rest] if head == unit else []
        elif not shared or _is_known(unit, _key(override)):
            chosen.append(override)
    return chosen


def typed_values(unit: str, overrides: Sequence[str]) -> DictConfig:
    """Overrides of one unit as a layer: each value of its key's type (conf/typed_values.py).

    Raises UsageError where a mapping does not parse.
    """
    layer = OmegaConf.create()
    for override in overrides:
        key, text = override.split("=", 1)
        try:
            OmegaConf.update(layer, key, typed_value(_type(unit, key) or str, text))
        except (YAMLError, OmegaConfBaseException, ValueError) as error:
            raise UsageError(f"{COMMAND_LINE}: {key}: cannot read {text!r}: {' '.join(str(error).split())}") from None
    return layer


def _underscored(key: str) -> str:
    """trainer.max-steps -> trainer.max_steps. A name within a mapping, as corpus_weights.my-corpus, stays as it is."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        head = ".".join(parts[:end]).replace("-", "_")
        if head.removeprefix(f"{parts[0]}.") in _mappings() or head in _mappings():
            return ".".join([head, *parts[end:]])
    return key.replace("-", "_")


@cache
def _mappings() -> set[str]:
    """The keys of all units that are mappings."""
    return {key for unit in UNITS for key, field in keys(unit).items() if get_origin(field.type) is dict}


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _is_known(unit: str, key: str) -> bool:
    return _type(unit, key) is not None


def _type(unit: str, key: str) -> Any:
    """The type of a key; None where the unit does not have it. A mapping has any key."""
    node: Any = UNITS[unit].schema
    for part in key.split("."):
        if get_origin(node) is dict:
            node = get_args(node)[1]
            continue
        if node is Any:
            return Any
        node = {field.name: field.type for field in fields(node)}.get(part) if is_dataclass(node) else None
    return node
