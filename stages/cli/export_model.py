"""`stage export`: a trained model as plain transformers, or peft, loads it."""

import argparse
import os
from pathlib import Path

from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse
from stages.hub import export_format


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser(
        "export", parents=[model_verbs.reads_model()], help="what plain transformers, or peft, loads"
    )
    verb.add_argument("--to", type=os.path.expanduser, required=True, metavar="DIR")
    verb.add_argument("--adapter", action="store_true", help="LoRA and the new rows alone, as peft keeps them")
    verb.add_argument("--force", action="store_true", help="replace an earlier export")
    verb.set_defaults(verb=export_verb)


def export_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    folders, to = model_verbs.find(arguments), Path(arguments.to)
    export_format.check_target(to, arguments.force)
    from stages.hub.export import export

    model_verbs.quiet()
    export(folders, to, arguments.adapter, arguments.force)
    print(f"{to}: see its README.md")
    return 0
