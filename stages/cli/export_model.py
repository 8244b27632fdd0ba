"""`stage export`: a trained model as plain transformers, or peft, loads it; codes or latents as Lhotse or pyarrow does."""

import argparse
import logging
import os
from pathlib import Path

from conf.errors import UsageError
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse
from stages.hub import export_format, hub_repository, model_card

log = logging.getLogger(__name__)
FORMATS = ("shar", "parquet")


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser(
        "export",
        parents=[model_verbs.reads_model()],
        help="what plain transformers or peft, or Lhotse or pyarrow, loads",
    )
    verb.add_argument(
        "what",
        nargs="?",
        choices=("model", "cache", "latents"),
        default="model",
        metavar="WHAT",
        help="model (the LLM with its tokenizer, by default), cache (codes of all recordings), latents",
    )
    verb.add_argument("--to", type=os.path.expanduser, required=True, metavar="DIR")
    verb.add_argument(
        "--adapter", action="store_true", help="of a model: LoRA and the new rows alone, as peft keeps them"
    )
    verb.add_argument("--force", action="store_true", help="of a model: replace an earlier export")
    verb.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="of a model: to the hub, too; an export that is in DIR already as it is there",
    )
    verb.add_argument("--private", action="store_true", help="with --push: a repository that others do not see")
    verb.add_argument("--format", choices=FORMATS, help="of cache and latents: Lhotse's Shar, or Parquet")
    verb.add_argument(
        "--shard-size", type=int, metavar="N", help="of cache and latents: recordings in a shard, at most (1000)"
    )
    verb.set_defaults(verb=export_verb)


def export_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    if arguments.what != "model":
        return _export_cache(arguments)
    if arguments.format or arguments.shard_size is not None:
        raise UsageError("--format and --shard-size are of `stage export cache` and `stage export latents`")
    if arguments.private and not arguments.push:
        raise UsageError("--private is for --push OWNER/NAME")
    to = Path(arguments.to)
    if not (arguments.push and export_format.is_export(to) and not arguments.force):
        _export(arguments, to)
    if arguments.push:
        print(f"{to}: pushed, {hub_repository.push(to, arguments.push, arguments.private)}")
        if model_card.has_no_licence(to):
            log.warning("its card names no licence yet: edit %s/README.md, and push it again", to)
    return 0


def _export(arguments: argparse.Namespace, to: Path) -> None:
    folders = model_verbs.find(arguments)
    export_format.check_target(to, arguments.force)
    from stages.hub.export import export

    model_verbs.quiet()
    export(folders, to, arguments.adapter, arguments.force)
    print(f"{to}: see its README.md")


def _export_cache(arguments: argparse.Namespace) -> int:
    what, to = arguments.what, Path(arguments.to)
    if arguments.adapter or arguments.force or arguments.model or arguments.push:
        raise UsageError(
            f"export {what}: --adapter, --force, --model and --push are of an LLM. A run is named by --experiment=NAME"
        )
    if arguments.format is None:
        raise UsageError(f"export {what}: in which format? --format=shar (Lhotse) or --format=parquet")
    shard_size = 1000 if arguments.shard_size is None else arguments.shard_size  # as Lhotse's
    run = model_verbs.find_run(arguments, what)
    from stages.hub.export_cache import export_cache

    count = export_cache(run, to, arguments.format, shard_size)
    print(f"{to}: {count} recordings, see its README.md")
    return 0
