"""The command `stage`: its errors and its exit status. Each group of verbs has a file; torch is imported by what runs.

Configuration keys are given as --trainer.devices=8, trainer.devices=8 or --trainer.devices 8; with `all`,
--tokenizer.trainer.max_steps=100 is for one stage. Exit status: 0 done, 1 a mistake in what was given (one message) or
a bug (its traceback), 2 wrong usage, 75 stopped by SIGUSR1, SIGTERM or `limits` (saved; the same command goes on),
130 by Ctrl-C (the same; a second one ends at once).
"""

import argparse
import codecs
import locale
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import conf
from callbacks.errors import TrainingError
from conf.errors import UsageError
from datamodules.errors import DataError
from models.errors import ModelError
from stages.cli import (
    ask,
    codes,
    config,
    data,
    experiments,
    export_model,
    generate,
    logs,
    pairs,
    plan,
    run,
    score,
    serve,
    submit,
    sweep,
)
from stages.cli.arguments import Subparsers
from stages.cli.hints import with_hint
from stages.runs import failures

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


def main(words: Sequence[str] | None = None) -> int:
    if words is None:
        _use_utf8()
    words = list(sys.argv[1:] if words is None else words)
    debug = [word for word in words if word == "--debug"]  # before the verb or behind it
    arguments, rest = _parser().parse_known_args([*debug, *(word for word in words if word != "--debug")])
    logs.set_up()
    try:
        overrides = conf.parse_overrides(rest)
        takes_slurm = arguments.verb in (submit.submit_verb, sweep.sweep_verb, config.show_verb)
        if not takes_slurm and any(item.startswith("slurm.") for item in overrides):
            raise UsageError("keys of slurm are for `stage submit` and `stage sweep`")
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
        goes_on = "; the same command goes on from what is saved" if arguments.verb is run.run_verb else ""
        print(f"stage: interrupted{goes_on}", file=sys.stderr)
        return 130


def _use_utf8() -> None:
    """Starts the command again in Python's UTF-8 mode where the locale has another encoding: tables, reports and the
    names of files are UTF-8 whatever it is.
    """
    is_utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    if not is_utf8 and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def _report(error: Exception, text: str, debug: bool) -> None:
    """One message, and where the traceback lies; debug: after the traceback itself."""
    if debug:
        traceback.print_exception(error)
    notes = [] if debug else getattr(error, "__notes__", [])
    print("\n".join([f"stage: {text}", *notes]), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviated option: it may be a key of the configuration. The verbs' parsers are of this class too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stage", description="Make Some Noise: teach a text LLM to hear and to make sound, stage by stage.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="store_true", help="the traceback of a mistake too; goes behind the verb as well"
    )
    subparsers: Subparsers = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
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

    for verbs in (config, experiments, data, run, submit, sweep, plan):
        verbs.add(subparsers, layers)
    for verbs in (ask, generate, pairs, codes, serve, export_model, score):
        verbs.add(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
