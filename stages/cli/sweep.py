"""`stage sweep`: a stage with every combination of some values, each as an experiment of its own, and a table of them."""

import argparse
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.stop import Stop
from conf.errors import UsageError
from stages import STAGES
from stages.cli import submit
from stages.cli.arguments import Subparsers, configurations, recall, typed_words
from stages.launch import local
from stages.runs import graph
from stages.runs.state import state_of

STOPPED = (75, 130)  # exit statuses of a run that goes on with the same command
OWN = ("experiment", "runs", "parents.", "slurm.")  # keys that a sweep sets


class Point(NamedTuple):
    """One combination of values."""

    experiment: str
    keys: list[str]  # "rate.bitrate=100", one of each axis


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser(
        "sweep", parents=[layers], help="a stage with every combination of some values, and a table of them",
        epilog="stage sweep tokenizer --grid rate.bitrate=100,230 --grid quantizer.kind=vq,fsq   makes "
        "main-bitrate_100-kind_vq and three more, of main's latents; typed again, it goes on",
    )  # fmt: skip
    verb.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=" | ".join(STAGES))
    verb.add_argument(
        "--grid", action="append", required=True, metavar="KEY=VALUE,VALUE", help="values of a key; may be repeated"
    )
    verb.add_argument("--submit", action="store_true", help="as jobs of SLURM, all at once")
    verb.add_argument("--dry-run", action="store_true", help="print the scripts of the jobs, submit nothing")
    verb.add_argument("--restart", action="store_true", help="begin each again; the earlier runs are moved aside")
    verb.set_defaults(verb=sweep_verb)


def sweep_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """What is done is passed, and a combination that fails keeps none of the others from running."""
    stage, grid = arguments.stage, arguments.grid
    for_jobs = [item for item in overrides if item.startswith("slurm.")]
    if for_jobs and not (arguments.submit or arguments.dry_run):
        raise UsageError(f"--{for_jobs[0]} is for jobs: type --submit too")
    overrides = recall(arguments, [item for item in overrides if item not in for_jobs], stage, announced=True)
    first = combinations(grid, "")[0].keys  # what is typed may be whole with a value of the grid alone
    base = configurations([stage], arguments, [*overrides, *first])[stage]
    points = combinations(grid, base.experiment)
    parents = [f"parents.{name}={base.experiment}" for name in graph.required(stage, base) if name not in base.parents]
    others = [item for item in overrides if not item.startswith("experiment=")]
    typed = {point.experiment: [f"experiment={point.experiment}", *others, *parents, *point.keys] for point in points}
    for keys in typed.values():  # a wrong value is known before the first one runs
        configurations([stage], arguments, keys)
    if arguments.submit or arguments.dry_run:
        arguments.corpus, presets, files = [], arguments.preset, arguments.conf
        for keys in typed.values():
            arguments.preset, arguments.conf = list(presets), list(files)
            submit.submit_verb(arguments, [*for_jobs, *keys])
        return 0
    failed = [name for name, keys in typed.items() if not _run(stage, arguments, keys)]
    from stages.reports.runs_table import comparison

    print("\n".join(comparison([Path(base.runs) / name for name in typed], only=stage)))
    if failed:
        raise UsageError(f"{stage} failed in {', '.join(failed)}; the table is of the others")
    return 0


def combinations(grid: Sequence[str], experiment: str) -> list[Point]:
    """Every value of the first key with every value of the next ones, in the order in which they were typed. Raises
    UsageError for a grid that is none.
    """
    axes: dict[str, list[str]] = {}
    for item in grid:
        key, _, listed = item.partition("=")
        values = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", listed)  # a list in brackets is one value
        if not key or not values:
            raise UsageError(f"--grid {item}: type --grid KEY=VALUE,VALUE, as --grid rate.bitrate=100,230")
        if key in axes:
            raise UsageError(f"--grid {key} comes twice; give all its values in one")
        if key.startswith(OWN):
            raise UsageError(f"--grid {key}: each combination is an experiment of its own, from the same parents")
        if len(set(values)) < len(values):
            raise UsageError(f"--grid {item}: a value comes twice")
        axes[key] = values
    last = [key.rpartition(".")[2] for key in axes]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(axes, last, strict=True)}
    points = []
    for chosen_values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, chosen_values, strict=True))
        names = [f"{short[key]}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', value)}" for key, value in chosen.items()]
        points.append(Point("-".join([experiment, *names]), [f"{key}={value}" for key, value in chosen.items()]))
    if len({point.experiment for point in points}) < len(points):
        raise UsageError(f"--grid {' '.join(grid)}: two combinations would be one experiment, {points[0].experiment}")
    return points


def _run(stage: str, arguments: argparse.Namespace, keys: list[str]) -> bool:
    """Runs one, in a process of its own. Raises SystemExit where it was stopped, for all that follow."""
    configuration = configurations([stage], arguments, keys)[stage]
    print(f"{configuration.experiment}:", flush=True)
    with Stop(configuration.limits.seconds, configuration.limits.margin, time.monotonic()) as stop:
        try:
            local.run_in_process(stage, typed_words(stage, arguments, keys), arguments.restart, stop)
        except SystemExit as ended:
            if ended.code in STOPPED:
                raise
            return False
    return state_of(stage, configuration).word == "done"
