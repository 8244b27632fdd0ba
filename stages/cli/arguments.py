"""What the verbs have in common: the layers of a configuration, and the words that configure a child."""

import argparse
import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import conf
from conf.errors import UsageError
from conf.schema import UNITS
from conf.suggest import did_you_mean
from stages import BY_NAME, STAGES
from stages.runs import graph

log = logging.getLogger(__name__)

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what add_subparsers makes


def configurations(units: list[str], arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Of each unit, from what was typed; with several units a key may be for some of them."""
    shared = len(units) > 1
    return {unit: conf.compose(unit, arguments.preset, arguments.conf, overrides, shared).conf for unit in units}


def chain(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """The configurations of the stages of `all`, in order."""
    conf.check_shared(UNITS, overrides)
    stages = [name for name in STAGES if name not in (*arguments.without, *BY_NAME)]
    confs = configurations(stages, arguments, overrides)
    return {stage: confs[stage] for stage in stages if stage not in graph.unused(confs)}


def typed_words(stage: str, arguments: argparse.Namespace, overrides: list[str]) -> list[str]:
    """The configuration that was typed, as words of a command for one stage."""
    presets = [name for name in arguments.preset if stage in conf.units_of(name)]
    words = [word for name in presets for word in ("--preset", name)]
    words += [word for name in arguments.conf for word in ("--conf", name)]
    words += [f"--{item}" for item in overrides if conf.concerns(stage, item)]
    return [*words, *(["--debug"] if arguments.debug else [])]


def warn_of_presets(stage: str, presets: Sequence[str]) -> None:
    for name in presets:
        if stage not in (units := conf.units_of(name)):
            log.warning("%s: --preset %s changes nothing here; it is for %s", stage, name, ", ".join(units))


def refuse(overrides: list[str], options: Iterable[str] = ()) -> None:
    """Raises UsageError for keys that were typed for a verb that takes none; options: those that it has."""
    if not overrides:
        return
    meant = did_you_mean(
        f"--{overrides[0].split('=', 1)[0]}", [f"--{option}" for option in options], "--help lists its options"
    )
    raise UsageError(f"this verb takes no configuration, here {overrides[0]!r}. {meant}")
