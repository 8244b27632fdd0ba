"""`stage list`, `stage show`, `stage status`: what can be run, what it would be run with, and how far it is."""

import argparse
from pathlib import Path
from typing import Any

import conf
from conf.errors import UsageError
from conf.reasons import reasons
from conf.schema import UNITS
from stages import STAGES
from stages.cli.arguments import Subparsers, configurations, recall, refuse
from stages.cli.data import CORPORA
from stages.runs import experiment_memory, status


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser("list", help="the stages and corpora, in their order")
    verb.set_defaults(verb=list_verb)
    verb = subparsers.add_parser("show", parents=[layers], help="every value of a stage and the layer that set it")
    verb.add_argument("unit", choices=list(UNITS), metavar="STAGE")
    verb.add_argument("--why", action="store_true", help="also what a key means, and why it has its value")
    verb.set_defaults(verb=show_verb)
    verb = subparsers.add_parser("status", parents=[layers], help="done, partial, stale or missing")
    verb.set_defaults(verb=status_verb)


def list_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides)
    for name, stage in STAGES.items():
        reads = ", ".join([*stage.parents, *(f"({name})" for name in stage.optional)])
        print(f"{name:<14} {stage.makes}" + (f"   <- {reads}" if reads else ""))
    print(f"corpora that `stage prepare` makes: {', '.join(CORPORA)}")
    return 0


def show_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    typed = overrides
    if arguments.unit in STAGES:
        overrides = recall(arguments, overrides, arguments.unit)
    composed = conf.compose(arguments.unit, arguments.preset, arguments.conf, overrides)
    origins = {key: _origin(key, origin, arguments.unit, typed) for key, origin in composed.origins.items()}
    values = conf.plain(composed.conf)
    rows = [(key, _value(values, key), origin) for key, origin in origins.items()]
    left, middle = (max(len(row[column]) for row in rows) for column in (0, 1))
    why = reasons(arguments.unit, arguments.preset, arguments.conf, composed.origins) if arguments.why else {}
    for key, value, origin in rows:
        remark = "".join(f"\n    {line}" for line in why.get(key, ()))
        print(f"{key:<{left}}  {value:<{min(middle, 60)}}  {origin}{remark}")
    return 0


def status_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Each run is compared with its own configuration, or with what a preset, a file or a key that decides results gives."""
    compare = bool(arguments.preset or arguments.conf or any(map(conf.decides, overrides)))
    conf.check_shared(UNITS, overrides)
    confs = configurations(list(STAGES), arguments, overrides)
    typed = vars(arguments).copy()
    runs, experiment, root = confs["latents"].runs, confs["latents"].experiment, confs["latents"].data.root
    given = {item.split("=", 1)[0] for item in overrides}
    existing = sorted(path.name for path in Path(runs).glob("*") if path.is_dir())
    experiments = [experiment] if arguments.preset or arguments.conf or "experiment" in given else existing
    if "experiment" in given and experiment not in existing:
        raise UsageError(f"no experiment {experiment!r} in {runs}/. There are: {', '.join(existing) or 'none'}")
    if not experiments:
        print(f"no experiment in {runs}/. Start one:   stage run all --preset demo")
    for name in experiments:
        print(f"{runs}/{name}")
        named = argparse.Namespace(**typed)
        keys = recall(named, [*overrides, f"experiment={name}"])
        confs = configurations(list(STAGES), named, keys)
        for line in status.report(confs, name, compare, root if "data.root" in given else None):
            print(f"  {line}")
    return 0


def _origin(key: str, origin: str, unit: str, typed: list[str]) -> str:
    """Of a value: what was typed now stands apart from what the experiment remembers."""
    names = {item.split("=", 1)[0].removeprefix(f"{unit}.") for item in typed}
    is_typed = any(key == name or key.startswith(f"{name}.") for name in names)
    return experiment_memory.FILE if origin == conf.COMMAND_LINE and not is_typed else origin


def _value(node: Any, key: str) -> str:
    for part in key.split("."):
        node = node[part]
    return "null" if node is None else str(node)
