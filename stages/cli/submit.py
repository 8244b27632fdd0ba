"""`stage submit` and `stage logs`: stages as jobs of SLURM."""

import argparse
from pathlib import Path

import conf
from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.cluster import SlurmConf
from stages import READ_SOUND, STAGES
from stages.cli import data
from stages.cli.arguments import (
    Subparsers,
    chain,
    configurations,
    recall,
    refuse_changed,
    typed_words,
    warn_of_presets,
)
from stages.launch import slurm
from stages.runs import corpora, jobs


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser(
        "submit", parents=[layers], help="as run, in jobs of SLURM",
        epilog="--slurm.KEY=VALUE is any option of sbatch, as --slurm.partition=gpu or --slurm.exclusive (`stage show slurm`)",
    )  # fmt: skip
    verb.add_argument("stage", choices=[*STAGES, "all", "prepare"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument(
        "corpus", nargs="*", metavar="CORPUS ROOT",
        help="of `submit prepare`, as of `stage prepare`; --slurm.array=0-31 inspects in 32 shards",
    )  # fmt: skip
    verb.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
    verb.add_argument(
        "--restart",
        action="store_true",
        help="begin again; the earlier run is moved aside as soon as sbatch has accepted the jobs",
    )
    verb.add_argument(
        "--without", action="append", default=[], choices=["tokenizer_mse"], help="leave an optional stage out of `all`"
    )
    verb.set_defaults(verb=submit_verb)
    verb = subparsers.add_parser("logs", parents=[layers], help="what a submitted stage has printed")
    verb.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=" | ".join(STAGES))
    verb.add_argument("-f", "--follow", action="store_true", help="go on until its job is over")
    verb.set_defaults(verb=logs_verb)


def submit_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Corpora that this project renders are rendered here, before a job begins: its ranks, and its node without a network, find them."""
    stage = arguments.stage
    if stage != "prepare":
        overrides = recall(arguments, overrides, None if stage == "all" else stage, announced=True)
    allowed = ("array",) if stage == "prepare" else ()
    options = slurm.options(arguments.conf, [item for item in overrides if item.startswith("slurm.")], allowed)
    overrides = [item for item in overrides if not item.startswith("slurm.")]
    if arguments.stage == "prepare":
        _submit_prepare(arguments, options, overrides)
        return 0
    if arguments.corpus:
        raise UsageError(
            f"submit {arguments.stage} takes no {' '.join(arguments.corpus)}; a corpus is of `submit prepare`"
        )
    if options.nodes is not None:
        overrides = [f"trainer.num_nodes={options.nodes}", *overrides]
    confs = chain(arguments, overrides) if stage == "all" else configurations([stage], arguments, overrides)
    warn_of_presets(stage, arguments.typed_presets if stage != "all" else ())
    for name, one in confs.items():
        if options.nodes not in (None, one.trainer.num_nodes):
            raise UsageError(
                f"{name}: trainer.num_nodes is {one.trainer.num_nodes} and slurm.nodes {options.nodes}; give one of them"
            )
    first = next(iter(confs.values()))

    if not arguments.restart:
        refuse_changed(confs, arguments, overrides)

    def typed(name: str) -> list[str]:
        return typed_words(name, arguments, overrides)

    going = slurm.plan(list(confs), confs, typed, arguments.restart, jobs.newest(jobs.jobs_folder(first)))
    slurm.check_there(arguments.dry_run)
    from stages.launch import preflight

    if stage == "all":
        if not arguments.dry_run:
            preflight.require(confs, arguments.preset, arguments.conf, overrides)
    elif stage in READ_SOUND:
        corpora.corpora(first.data)
    for planned in () if arguments.dry_run else going:
        preflight.fetch(confs[planned.stage])
    slurm.submit(going, confs, options, typed, arguments.restart, arguments.dry_run)
    if not arguments.dry_run:
        arguments.remember()
    return 0


def _submit_prepare(arguments: argparse.Namespace, options: SlurmConf, overrides: list[str]) -> None:
    if arguments.restart or arguments.without:
        raise UsageError("submit prepare takes no --restart and no --without: what was inspected is taken over")
    corpus, *roots = arguments.corpus or [""]
    if corpus not in data.CORPORA or len(roots) > 1:
        raise UsageError(f"submit prepare CORPUS ROOT: which corpus? {', '.join(data.CORPORA)}")
    overrides = [*(f"root={root}" for root in roots), *overrides]
    composed = conf.compose(data.CORPORA[corpus], arguments.preset, arguments.conf, overrides)
    from stages.launch import prepare_jobs

    words = [word for name in arguments.preset for word in ("--preset", name)]
    words += [word for name in arguments.conf for word in ("--conf", name)]
    words += [f"--{item}" for item in overrides]
    typed = ["stage", "submit", "prepare", corpus, *words]
    prepare_jobs.submit(corpus, composed.conf, options, words, typed, arguments.dry_run)


def logs_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    conf.check_shared(UNITS, overrides)
    configuration = configurations([arguments.stage], arguments, overrides)[arguments.stage]
    named = arguments.preset or arguments.conf or any(item.startswith("experiment=") for item in overrides)
    folders = [jobs.jobs_folder(configuration)] if named else sorted(Path(configuration.runs).glob("*/slurm"))
    jobs.show(arguments.stage, folders, arguments.follow)
    return 0
