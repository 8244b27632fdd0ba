"""`stage prepare`: a corpus, to Lhotse cuts."""

import argparse
import textwrap

import conf
from conf.errors import UsageError
from conf.schema import keys
from datamodules.corpora import published
from stages.cli.arguments import Subparsers, refuse

CORPORA = {  # what `stage prepare` makes -> its unit of the configuration
    "folder": "folder",
    **dict.fromkeys(("lhotse", "webdataset", "huggingface"), "format"),
    "diagnostic": "diagnostic",
    "openaqa": "questions",
    **dict.fromkeys(published.NAMES, "published"),
}
PREPARE_OTHERS = """\
keys of the others    `stage show format` (lhotse, webdataset, huggingface), `stage show published`,
                      `stage show questions` (openaqa) and `stage show diagnostic` list them;
                      `stage prepare --list` says of each corpus what it is, where people get it and how ROOT is laid out
"""


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser(
        "prepare", parents=[layers], help="a corpus, to Lhotse cuts",
        epilog=_keys_of_folder() + PREPARE_OTHERS, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("corpus", nargs="?", choices=CORPORA, metavar="CORPUS", help=" | ".join(CORPORA))
    verb.add_argument(
        "root",
        nargs="?",
        metavar="ROOT",
        help="folder of the recordings; of openaqa the JSON; of the formats the manifest, tars or parquet",
    )
    verb.add_argument("--list", action="store_true", help="what each corpus is, where people get it, what lies where")
    verb.add_argument("--shard", metavar="I/N", help="inspect one part of N; the command without it joins them")
    verb.set_defaults(verb=prepare_verb)


def prepare_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if arguments.list:
        refuse(overrides)
        print("\n".join(published.listing(name) for name in (*published.NAMES, "openaqa")))
        return 0
    if arguments.corpus is None:
        raise UsageError(f"prepare: which corpus? {', '.join(CORPORA)}.   stage prepare --list   says what they are")
    if arguments.root is not None:
        overrides = [f"root={arguments.root}", *overrides]
    composed = conf.compose(CORPORA[arguments.corpus], arguments.preset, arguments.conf, overrides)
    from stages.launch import inspection, prepare

    if arguments.shard:
        prepare.inspect_shard(arguments.corpus, composed.conf, inspection.parse_shard(arguments.shard))
    else:
        prepare.prepare(arguments.corpus, composed.conf)
    return 0


def _keys_of_folder() -> str:
    lines = ["keys of folder        (--KEY VALUE or --KEY=VALUE; `stage show folder` prints their values)"]
    for key, field in keys("folder").items():
        if key not in ("root", "data", "data.corpora"):  # ROOT is an argument, and a prepared corpus reads no other
            text = textwrap.wrap(field.metadata["help"], 110)
            lines += [f"  {key:<20}{text[0]}", *(f"{'':<22}{line}" for line in text[1:])]
    return "\n".join(lines) + "\n"
