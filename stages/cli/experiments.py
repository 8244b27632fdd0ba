"""`stage runs`, `stage compare`, `stage clean`: the experiments on the disk."""

import argparse
import shutil
import sys
from pathlib import Path

import conf
from conf.errors import UsageError
from conf.suggest import allowed
from stages.cli.arguments import Subparsers, refuse
from stages.runs.leftovers import Leftover, freed, leftovers
from stages.runs.lock import claimed


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser("runs", help="the experiments: what is done, since when, the key metrics")
    verb.set_defaults(verb=runs_verb)
    _add_runs(verb)
    verb = subparsers.add_parser("compare", help="experiments: what differs in configuration and metrics")
    verb.add_argument("first", metavar="A", help="an experiment")
    verb.add_argument("others", nargs="+", metavar="B", help="another, or several")
    verb.add_argument("--all", action="store_true", help="also what is equal")
    verb.set_defaults(verb=compare_verb)
    _add_runs(verb)
    verb = subparsers.add_parser(
        "clean", help="removes earlier runs (.old) that nothing needs, and what is half-written"
    )
    verb.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="all, where none is named")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.set_defaults(verb=clean_verb)
    _add_runs(verb)


def runs_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, ("runs",))
    from stages.reports.runs_table import experiments_table

    print("\n".join(experiments_table(_runs(arguments))))
    return 0


def compare_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, ("all", "runs"))
    from stages.reports.runs_table import comparison

    runs = _runs(arguments)
    names = list(dict.fromkeys([arguments.first, *arguments.others]))
    print("\n".join(comparison([runs / _existing(runs, name) for name in names], arguments.all)))
    return 0


def clean_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Says what would go and what stays before anything is removed."""
    refuse(overrides, ("yes", "runs"))
    from stages.reports.formatting import markdown_table

    runs = _runs(arguments)
    names = [_existing(runs, name) for name in arguments.experiments] or _experiments(runs)
    every = leftovers(runs, names)
    unneeded = [one for one in every if not one.needed_by]
    rows = [(one.path, one.about, f"kept: {one.needed_by}" if one.needed_by else _size([one])) for one in every]
    if rows:
        print("\n".join(markdown_table(["path", "what", "frees"], rows)))
    if not unneeded:
        print(f"nothing to remove in {', '.join(f'{runs}/{name}' for name in names) or f'{runs}/'}")
        return 0
    question = f"Remove {len(unneeded)}, which frees {_size(unneeded)}?"
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{question} Here is no terminal to ask at: type --yes")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 0
    for one in unneeded:
        _remove(one, runs)
    return 0


def _add_runs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--runs", metavar="FOLDER", help="folder of all experiments; as configured if it is not given")


def _runs(arguments: argparse.Namespace) -> Path:
    return Path(arguments.runs or conf.compose("latents").conf.runs).expanduser()


def _experiments(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.glob("*") if path.is_dir())


def _existing(runs: Path, name: str) -> str:
    """Raises UsageError for an experiment that is not there."""
    if name not in _experiments(runs):
        raise UsageError(f"no experiment {name!r} in {runs}/. {allowed(name, _experiments(runs))}")
    return name


def _size(leftovers: list[Leftover]) -> str:
    return f"{freed(one.path for one in leftovers) / 1e6:,.1f} MB"


def _remove(one: Leftover, runs: Path) -> None:
    """Raises UsageError where a run of its stage is being written: it may read what would be removed."""
    experiment = one.path.relative_to(runs).parts[0]
    configuration = conf.compose(one.stage, overrides=[f"experiment={experiment}", f"runs={runs}"]).conf
    with claimed(one.stage, configuration):
        shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink(missing_ok=True)
    print(f"removed {one.path}")
