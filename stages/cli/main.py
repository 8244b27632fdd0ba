"""The command `stage`: list, show, status, prepare, run, submit, logs, and what uses a trained model (use.py). Light: torch is imported by what runs.

Configuration keys are given as --trainer.devices=8, trainer.devices=8 or --trainer.devices 8; with `all`, --tokenizer.trainer.max_steps=100 is
for one stage. Exit status: 0 done, 1 a mistake in what was given (one message), 2 wrong usage, 75 stopped by SIGUSR1, SIGTERM or
`limits` (saved; the same command goes on), 130 by Ctrl-C (the same; a second one ends at once).
"""

import argparse
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import conf
from callbacks.errors import TrainingError
from callbacks.stop import Stop
from conf import evaluation_tasks
from conf.errors import UsageError
from conf.reasons import reasons
from conf.schema import UNITS, keys
from conf.sections.common import StageConf
from datamodules.corpora import published
from datamodules.errors import DataError
from models.errors import ModelError
from stages import BY_NAME, READ_SOUND, STAGES
from stages.cli import plan, score, use
from stages.cli.hints import with_hint
from stages.launch import slurm
from stages.launch.plan import require_fit
from stages.runs import corpora, failures, graph, jobs, receipts, status
from stages.runs.state import run_folder, state_of

CORPORA = {  # what `stage prepare` makes -> its unit of the configuration
    "folder": "folder",
    "diagnostic": "diagnostic",
    "openaqa": "questions",
    **dict.fromkeys(published.NAMES, "published"),
}
EPILOG = """\
configuration   --trainer.devices=8, trainer.devices=8 or --trainer.devices 8; `stage show STAGE` lists every key
examples        stage run all --preset demo          the whole chain, small, on a CPU, from sound that it renders itself
                stage run tokenizer --trainer.devices=8
                stage prepare folder recordings --metadata recordings/metadata.csv --name mine
                stage submit all --trainer.devices=8 --slurm.partition=gpu --slurm.time=24:00:00
                stage status --experiment=demo
                stage ask clip.wav "What do you hear?"
                stage generate "a dog barks twice" --out dog.wav
"""

PREPARE_OTHERS = """\
keys of the others    `stage show published`, `stage show questions` (openaqa) and `stage show diagnostic` list them;
                      `stage prepare --list` says of each corpus what it is, where people get it and how ROOT is laid out
"""


def main(words: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    debug = [word for word in words if word == "--debug"]  # before the verb or behind it
    arguments, rest = _parser().parse_known_args([*debug, *(word for word in words if word != "--debug")])
    try:
        overrides = conf.parse_overrides(rest)
        if arguments.verb not in (_submit, _show) and any(item.startswith("slurm.") for item in overrides):
            raise UsageError("keys of slurm are for `stage submit`")
        status = arguments.verb(arguments, overrides)
        sys.stdout.flush()
        return status
    except (UsageError, DataError, ModelError, TrainingError) as error:
        _report(error, with_hint(error), arguments.debug)
        return 1
    except BrokenPipeError:  # `stage status | head`: who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not (text := failures.of_machine(error)):
            raise
        _report(error, f"{text}. What was finished is kept: the same command goes on", arguments.debug)
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from what is saved" if arguments.verb is _run else ""
        print(f"stage: interrupted{goes_on}", file=sys.stderr)
        return 130


def _report(error: Exception, text: str, debug: bool) -> None:
    """One message, and where the traceback lies; debug: after the traceback itself."""
    if debug:
        traceback.print_exception(error)
    notes = [] if debug else getattr(error, "__notes__", [])
    print("\n".join([f"stage: {text}", *notes]), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stage", description="Make Some Noise: teach a text LLM to hear and to make sound, stage by stage.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="store_true", help="the traceback of a mistake too; goes behind the verb as well"
    )
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    layers = argparse.ArgumentParser(add_help=False)
    layers.add_argument(
        "--preset",
        action="append",
        default=[],
        metavar="NAME",
        help=f"one of: {', '.join(conf.presets())}; may be repeated",
    )
    layers.add_argument(
        "--conf",
        type=os.path.expanduser,
        action="append",
        default=[],
        metavar="FILE",
        help="a YAML of your own; may be repeated",
    )

    verb = subparsers.add_parser("list", help="the stages and corpora, in their order", allow_abbrev=False)
    verb.set_defaults(verb=_list)
    verb = subparsers.add_parser(
        "show", parents=[layers], help="every value of a stage and the layer that set it", allow_abbrev=False
    )
    verb.add_argument("unit", choices=list(UNITS), metavar="STAGE")
    verb.add_argument("--why", action="store_true", help="also what a key means, and why it has its value")
    verb.set_defaults(verb=_show)
    verb = subparsers.add_parser("status", parents=[layers], help="done, partial, stale or missing", allow_abbrev=False)
    verb.set_defaults(verb=_status)
    verb = subparsers.add_parser(
        "prepare", parents=[layers], help="a corpus, to Lhotse cuts", allow_abbrev=False,
        epilog=_keys_of_folder() + PREPARE_OTHERS, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("corpus", nargs="?", choices=CORPORA, metavar="CORPUS", help=" | ".join(CORPORA))
    verb.add_argument("root", nargs="?", metavar="ROOT", help="folder of the recordings; of openaqa the JSON")
    verb.add_argument("--list", action="store_true", help="what each corpus is, where people get it, what lies where")
    verb.set_defaults(verb=_prepare)
    verb = subparsers.add_parser(
        "run", parents=[layers], help="run or resume a stage, or all of them", allow_abbrev=False
    )
    verb.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument("--restart", action="store_true", help="begin again; the earlier run is moved aside")
    verb.add_argument(
        "--without", action="append", default=[], choices=["tokenizer_mse"], help="leave an optional stage out of `all`"
    )
    verb.set_defaults(verb=_run)
    verb = subparsers.add_parser(
        "submit", parents=[layers], help="as run, in jobs of SLURM", allow_abbrev=False,
        epilog="--slurm.KEY=VALUE is any option of sbatch, as --slurm.partition=gpu or --slurm.exclusive (`stage show slurm`)",
    )  # fmt: skip
    verb.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
    verb.add_argument("--restart", action="store_true", help="begin again; the earlier run is moved aside now")
    verb.add_argument(
        "--without", action="append", default=[], choices=["tokenizer_mse"], help="leave an optional stage out of `all`"
    )
    verb.set_defaults(verb=_submit)
    verb = subparsers.add_parser(
        "logs", parents=[layers], help="what a submitted stage has printed", allow_abbrev=False
    )
    verb.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=" | ".join(STAGES))
    verb.add_argument("-f", "--follow", action="store_true", help="go on until its job is over")
    verb.set_defaults(verb=_logs)
    plan.add(subparsers, layers)
    use.add(subparsers)
    score.add(subparsers)
    return parser


def _keys_of_folder() -> str:
    lines = ["keys of folder        (--KEY VALUE or --KEY=VALUE; `stage show folder` prints their values)"]
    for key, field in keys("folder").items():
        if key not in ("root", "data", "data.corpora"):  # ROOT is an argument, and a prepared corpus reads no other
            text = textwrap.wrap(field.metadata["help"], 110)
            lines += [f"  {key:<20}{text[0]}", *(f"{'':<22}{line}" for line in text[1:])]
    return "\n".join(lines) + "\n"


def _list(arguments: argparse.Namespace, overrides: list[str]) -> int:
    _refuse(overrides)
    for name, stage in STAGES.items():
        reads = ", ".join([*stage.parents, *(f"({name})" for name in stage.optional)])
        print(f"{name:<14} {stage.makes}" + (f"   <- {reads}" if reads else ""))
    print(f"corpora that `stage prepare` makes: {', '.join(CORPORA)}")
    return 0


def _show(arguments: argparse.Namespace, overrides: list[str]) -> int:
    composed = conf.compose(arguments.unit, arguments.preset, arguments.conf, overrides)
    rows = [(key, _value(conf.plain(composed.conf), key), origin) for key, origin in composed.origins.items()]
    left, middle = (max(len(row[column]) for row in rows) for column in (0, 1))
    why = reasons(arguments.unit, arguments.preset, arguments.conf, composed.origins) if arguments.why else {}
    for key, value, origin in rows:
        remark = "".join(f"\n    {line}" for line in why.get(key, ()))
        print(f"{key:<{left}}  {value:<{min(middle, 60)}}  {origin}{remark}")
    return 0


def _status(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Without a preset, a file or a key that decides results each run is held against its own configuration, with them against what they give."""
    compare = bool(arguments.preset or arguments.conf or any(map(conf.decides, overrides)))
    conf.check_shared(UNITS, overrides)
    confs = _composed(list(STAGES), arguments, overrides)
    runs, experiment, root = confs["latents"].runs, confs["latents"].experiment, confs["latents"].data.root
    given = {item.split("=", 1)[0] for item in overrides}
    there = sorted(path.name for path in Path(runs).glob("*") if path.is_dir())
    experiments = [experiment] if arguments.preset or arguments.conf or "experiment" in given else there
    if "experiment" in given and experiment not in there:
        raise UsageError(f"no experiment {experiment!r} in {runs}/. There are: {', '.join(there) or 'none'}")
    if not experiments:
        print(f"no experiment in {runs}/. Start one:   stage run all --preset demo")
    for name in experiments:
        print(f"{runs}/{name}")
        for line in status.report(confs, name, compare, root if "data.root" in given else None):
            print(f"  {line}")
    return 0


def _prepare(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if arguments.list:
        _refuse(overrides)
        print("\n".join(published.listing(name) for name in (*published.NAMES, "openaqa")))
        return 0
    if arguments.corpus is None:
        raise UsageError(f"prepare: which corpus? {', '.join(CORPORA)}.   stage prepare --list   says what they are")
    if arguments.root is not None:
        overrides = [f"root={arguments.root}", *overrides]
    composed = conf.compose(CORPORA[arguments.corpus], arguments.preset, arguments.conf, overrides)
    from stages.launch import prepare

    prepare.prepare(arguments.corpus, composed.conf)
    return 0


def _run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    arguments.began = time.monotonic()
    if arguments.stage == "all":
        return _run_all(arguments, overrides)
    confs = _composed([arguments.stage], arguments, overrides)
    _warn_of_presets(arguments.stage, arguments.preset)
    _run_stage(arguments.stage, confs[arguments.stage], arguments, overrides)
    return 0


def _warn_of_presets(stage: str, presets: Sequence[str]) -> None:
    for name in presets:
        if stage not in (units := conf.units_of(name)):
            print(f"{stage}: --preset {name} changes nothing here; it is for {', '.join(units)}", file=sys.stderr)


def _run_all(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """What is not done, in order. One process where one device is asked for, one process a stage where there are more."""
    confs = _all(arguments, overrides)
    from stages.launch import local, preflight

    preflight.require(confs, arguments.preset, arguments.conf, overrides)
    if confs["evaluate"].tasks:  # what the last stage lacks is said before the first one starts
        from stages.scoring import task_scores

        for name in confs["evaluate"].tasks:
            task_scores.require(evaluation_tasks.task(name), None)
    for stage in confs:
        if stage in confs[stage].parents:
            print(f"{stage:<14} taken from {confs[stage].parents[stage]}")
        elif confs[stage].trainer.devices == 1:
            _run_stage(stage, confs[stage], arguments, overrides)
        else:
            with _stop(confs[stage], arguments) as stop:
                local.run_in_process(stage, _typed(stage, arguments, overrides), arguments.restart, stop)
    return 0


def _all(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """The configurations of the stages of `all`, in order."""
    conf.check_shared(UNITS, overrides)
    stages = [name for name in STAGES if name not in (*arguments.without, *BY_NAME)]
    confs = _composed(stages, arguments, overrides)
    return {stage: confs[stage] for stage in stages if stage not in graph.unused(confs)}


def _submit(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Corpora that this project renders are rendered here, before a job begins: its ranks, and its node without a network, find them."""
    options = slurm.options(arguments.conf, [item for item in overrides if item.startswith("slurm.")])
    overrides = [item for item in overrides if not item.startswith("slurm.")]
    if options.nodes is not None:
        overrides = [f"trainer.num_nodes={options.nodes}", *overrides]
    stage = arguments.stage
    confs = _all(arguments, overrides) if stage == "all" else _composed([stage], arguments, overrides)
    _warn_of_presets(stage, arguments.preset if stage != "all" else ())
    for name, one in confs.items():
        if options.nodes not in (None, one.trainer.num_nodes):
            raise UsageError(
                f"{name}: trainer.num_nodes is {one.trainer.num_nodes} and slurm.nodes {options.nodes}; give one of them"
            )
    first = next(iter(confs.values()))

    def typed(name: str) -> list[str]:
        return _typed(name, arguments, overrides)

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
    return 0


def _logs(arguments: argparse.Namespace, overrides: list[str]) -> int:
    conf.check_shared(UNITS, overrides)
    composed = _composed([arguments.stage], arguments, overrides)[arguments.stage]
    named = arguments.preset or arguments.conf or any(item.startswith("experiment=") for item in overrides)
    places = [jobs.jobs_folder(composed)] if named else sorted(Path(composed.runs).glob("*/slurm"))
    jobs.show(arguments.stage, places, arguments.follow)
    return 0


def _run_stage(stage: str, configuration: StageConf, arguments: argparse.Namespace, overrides: list[str]) -> None:
    if stage in configuration.parents:
        raise UsageError(
            f"parents.{stage} says where {stage} is taken from, so there is nothing to run; leave it out to make your own"
        )
    state = state_of(stage, configuration, compare=True)
    if state.word == "done" and not arguments.restart:
        if slurm.task():
            return
        print(f"{stage:<14} done ({state.detail})")
        if stage in ("evaluate", *BY_NAME):
            print((run_folder(configuration, stage) / "artifact" / "report.md").read_text())
            _refuse_failed(receipts.read(run_folder(configuration, stage)))
        return
    graph.parents(stage, configuration, lambda parent: _typed(parent, arguments, overrides))  # before the long imports
    if stage in READ_SOUND:
        corpora.corpora(configuration.data)
    if state.word in ("partial", "stale") and slurm.task() == 0:
        print(f"{stage:<14} {state.word}: {state.detail}")
    with _stop(configuration, arguments) as stop:
        from stages.engine import devices, runner

        if memory := devices.memory(configuration):
            require_fit(stage, configuration, *memory)

        receipt = runner.run(stage, configuration, stop, arguments.restart)
    if receipt:
        print(f"{stage:<14} done in {receipt['seconds']:.0f} s: {run_folder(configuration, stage)}", flush=True)
        _refuse_failed(receipt)


def _stop(configuration: StageConf, arguments: argparse.Namespace) -> Stop:
    return Stop(configuration.limits.seconds, configuration.limits.margin, arguments.began)


def _refuse_failed(receipt: dict[str, Any] | None) -> None:
    """Of `evaluate`: its table stands, and the exit status says that it is not whole."""
    if receipt and (failed := receipt["metrics"].get("failed")):
        raise UsageError(f"{failed} items failed and count as wrong; predictions.jsonl says why (key `failed`)")


def _composed(units: list[str], arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    shared = len(units) > 1
    return {unit: conf.compose(unit, arguments.preset, arguments.conf, overrides, shared).conf for unit in units}


def _typed(stage: str, arguments: argparse.Namespace, overrides: list[str]) -> list[str]:
    """The configuration that was typed, as words of a command for one stage."""
    presets = [name for name in arguments.preset if stage in conf.units_of(name)]
    words = [word for name in presets for word in ("--preset", name)]
    words += [word for name in arguments.conf for word in ("--conf", name)]
    words += [f"--{item}" for item in overrides if conf.concerns(stage, item)]
    return [*words, *(["--debug"] if arguments.debug else [])]


def _refuse(overrides: list[str]) -> None:
    if overrides:
        raise UsageError(f"this verb takes no configuration, here {overrides[0]!r}")


def _value(node: Any, key: str) -> str:
    for part in key.split("."):
        node = node[part]
    return "null" if node is None else str(node)


if __name__ == "__main__":
    sys.exit(main())
