"""What the verbs have in common: the layers of a configuration, and the words that configure a child."""

import argparse
import logging
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import conf
from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.common import StageConf
from conf.suggest import did_you_mean
from stages import BY_NAME, STAGES
from stages.runs import experiment_memory, graph
from stages.runs.state import finished_otherwise, run_folder

log = logging.getLogger(__name__)

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what add_subparsers makes


SHOWN = 12  # differences of a stage, at most


def recall(
    arguments: argparse.Namespace, overrides: list[str], stage: str | None = None, announced: bool = False
) -> list[str]:
    """The keys that a command runs with: those that its experiment remembers, and those that were typed, which win.

    stage: the one that it is about; None for several. announced: says what was not typed. Adds the presets, files and stages left out to `arguments` too.
    arguments.remember() keeps what was typed: to be called as soon as a stage has begun with it.
    """
    if stage is None:
        conf.check_shared(UNITS, overrides)
    folder = conf.experiment_folder(stage or "latents", arguments.preset, arguments.conf, overrides, stage is None)
    without = tuple(getattr(arguments, "without", ()))
    typed = experiment_memory.Typed(tuple(arguments.preset), tuple(arguments.conf), tuple(overrides), without)
    remembered = experiment_memory.read(folder)
    path = folder / experiment_memory.FILE
    try:
        conf.check_shared(UNITS, remembered.keys)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    for name in remembered.files:
        if not Path(name).is_file():
            raise UsageError(f"{path}: --conf {name}: no such file. Bring it back, or take it out of {path}")
    arguments.typed_presets = list(arguments.preset)
    arguments.remember = partial(experiment_memory.write, folder, experiment_memory.added(remembered, typed, stage))
    whole = experiment_memory.together(remembered, typed, stage)
    if announced and (words := experiment_memory.words_not_typed(whole, typed, stage)):
        log.info("%s remembers   %s", path, shlex.join(words))
    arguments.preset, arguments.conf, arguments.without = map(list, (whole.presets, whole.files, whole.without))
    return list(whole.keys)


def refuse_changed(confs: dict[str, StageConf], arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Raises UsageError with the differences where a finished stage would have to be begun again for its configuration."""
    texts = []
    for stage, one in confs.items():
        changed = [] if stage in one.parents else finished_otherwise(stage, one)
        if changed:
            more = [f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
            command = shlex.join(["stage", "run", stage, "--restart", *typed_words(stage, arguments, overrides)])
            head = f"{run_folder(one, stage)} is finished, and was begun with something else:"
            texts.append(
                "\n  ".join([head, *changed[:SHOWN], *more]) + f"\nTo begin it again (it is kept):   {command}"
            )
    if texts:
        raise UsageError(
            "\n".join(texts)
            + "\nNothing was begun. Give the old values to keep what is finished, begin it again as shown, "
            "or give another --experiment=NAME"
        )


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
