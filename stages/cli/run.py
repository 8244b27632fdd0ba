"""`stage run`: a stage, or the chain, on this machine."""

import argparse
import time
from typing import Any

from callbacks.stop import Stop
from conf import evaluation_tasks
from conf.errors import UsageError
from conf.sections.common import StageConf
from stages import BY_NAME, READ_SOUND, STAGES
from stages.cli.arguments import (
    Subparsers,
    chain,
    configurations,
    recall,
    refuse_changed,
    typed_words,
    warn_of_presets,
)
from stages.runs import corpora, graph, receipts, warm_start
from stages.runs.ranks import rank
from stages.runs.state import run_folder, state_of


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser("run", parents=[layers], help="run or resume a stage, or all of them")
    verb.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument("--restart", action="store_true", help="begin again; the earlier run is moved aside")
    verb.add_argument(
        "--checkpoint",
        metavar="STEP",
        help="of the last parent that trains, finished or not: its step, or last (as of tokenizer, for reconstruct)",
    )
    verb.add_argument(
        "--without", action="append", default=[], choices=["tokenizer_mse"], help="leave an optional stage out of `all`"
    )
    verb.set_defaults(verb=run_verb)


def run_verb(arguments: argparse.Namespace, overrides: list[str]) -> int:
    arguments.began = time.monotonic()
    if arguments.stage == "all":
        if arguments.checkpoint:
            raise UsageError("--checkpoint is for one stage, as   stage run reconstruct --checkpoint=last")
        return run_chain(arguments, recall(arguments, overrides, announced=True))
    overrides = recall(arguments, overrides, arguments.stage, announced=True)
    if arguments.checkpoint:
        overrides = [*overrides, _parent_at(arguments.stage, arguments, overrides)]
    confs = configurations([arguments.stage], arguments, overrides)
    warn_of_presets(arguments.stage, arguments.typed_presets)
    _run_stage(arguments.stage, confs[arguments.stage], arguments, overrides)
    return 0


def _parent_at(stage: str, arguments: argparse.Namespace, overrides: list[str]) -> str:
    """The key that takes the stage's last parent that trains from a checkpoint."""
    configuration = configurations([stage], arguments, overrides)[stage]
    from stages.engine.checkpoint_run import run_at, trains

    names = [name for name in graph.required(stage, configuration) if trains(name)]
    if not names:
        raise UsageError(f"--checkpoint: {stage} has no parent that trains")
    return f"parents.{names[-1]}={run_at(run_folder(configuration, names[-1]), arguments.checkpoint)}"


def run_chain(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """What is not done, in order. One process where one device is asked for, one process a stage where there are more."""
    confs = chain(arguments, overrides)
    if not arguments.restart:
        refuse_changed(confs, arguments, overrides)
    from stages.launch import local, preflight

    preflight.require(confs, arguments.preset, arguments.conf, overrides)
    if confs["evaluate"].tasks:  # what the last stage lacks is said before the first one starts
        from stages.scoring import task_scores

        for name in confs["evaluate"].tasks:
            task_scores.require(evaluation_tasks.task(name), None)
    _require_fit({name: one for name, one in confs.items() if state_of(name, one).word != "done"}, confs)
    for stage in confs:
        if stage in confs[stage].parents:
            print(f"{stage:<14} taken from {confs[stage].parents[stage]}")
        elif confs[stage].trainer.devices == 1:
            _run_stage(stage, confs[stage], arguments, overrides)
        else:
            arguments.remember()
            with _stop(confs[stage], arguments) as stop:
                local.run_in_process(stage, typed_words(stage, arguments, overrides), arguments.restart, stop)
    arguments.remember()
    return 0


def _require_fit(left: dict[str, StageConf], confs: dict[str, StageConf]) -> None:
    """A late stage that does not fit the GPU is refused before hours of the early ones. left: those that are not done."""
    if not left:
        return
    from stages.engine import devices
    from stages.launch.plan import require_fit

    for stage, configuration in left.items():
        if stage not in configuration.parents and (memory := devices.memory(configuration)):
            size, name = memory
            require_fit(stage, configuration, size, name, confs)


def _run_stage(stage: str, configuration: StageConf, arguments: argparse.Namespace, overrides: list[str]) -> None:
    if stage in configuration.parents:
        raise UsageError(
            f"parents.{stage} says where {stage} is taken from, so there is nothing to run; leave it out to make your own"
        )
    if not arguments.restart:
        refuse_changed({stage: configuration}, arguments, overrides)
    state = state_of(stage, configuration, compare=True)
    if state.word == "done" and not arguments.restart:
        if rank():
            return
        print(f"{stage:<14} done ({state.detail})")
        report = run_folder(configuration, stage) / "artifact" / "report.md"
        if stage in ("evaluate", *BY_NAME) and report.is_file():
            print(report.read_text())
            receipt = receipts.read(run_folder(configuration, stage))
            _refuse_failed(receipt["metrics"] if receipt else {})
        return
    # before the long imports
    parents = graph.parents(stage, configuration, lambda parent: typed_words(parent, arguments, overrides))
    warm_start.source_of(stage, configuration)
    if stage in READ_SOUND:
        corpora.corpora(configuration.data)
    if state.word in ("partial", "stale") and rank() == 0:
        print(f"{stage:<14} {state.word}: {state.detail}")
    with _stop(configuration, arguments) as stop:
        from stages.engine import devices, runner
        from stages.launch.plan import require_fit

        if memory := devices.memory(configuration):
            size, name = memory
            require_fit(stage, configuration, size, name, {parent: run.conf for parent, run in parents.items()})
        made = runner.run(stage, configuration, stop, arguments.restart, arguments.remember)
    if made:  # on rank 0
        print(f"{stage:<14} done in {made['seconds']:.0f} s: {run_folder(configuration, stage)}", flush=True)
        _refuse_failed(made["metrics"])


def _stop(configuration: StageConf, arguments: argparse.Namespace) -> Stop:
    return Stop(configuration.limits.seconds, configuration.limits.margin, arguments.began)


def _refuse_failed(metrics: dict[str, Any]) -> None:
    """Raises UsageError where `evaluate` has no answer to some items: its table stands, and the exit status is 1."""
    if failed := metrics.get("failed"):
        raise UsageError(f"{failed} items failed and count as wrong; predictions.jsonl says why (key `failed`)")
