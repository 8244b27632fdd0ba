"""`stage plan STAGE|all`: memory, hours and disk of a run before it starts. No torch."""

import argparse
from typing import Any

import conf
from stages import BY_NAME, STAGES
from stages.launch import plan
from stages.launch.gpus import GPUS
from stages.runs import graph


def add(subparsers: Any, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser(
        "plan", parents=[layers], help="parameters, memory, hours and disk, from the configuration alone"
    )
    verb.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument("--gpu", choices=list(GPUS), default="h100", help=f"{', '.join(GPUS)}; h100 if none is named")
    verb.add_argument("--clips", type=float, default=2e6, help="recordings of 10 s, where no corpus is prepared")
    verb.set_defaults(verb=_plan)


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """A chain is planned as `run all` would run it; stages that only answer or measure have no line."""
    several = arguments.stage == "all"
    names = [name for name in STAGES if name not in BY_NAME] if several else [arguments.stage]
    confs = {name: conf.compose(name, arguments.preset, arguments.conf, overrides, several).conf for name in names}
    kept = {name: one for name, one in confs.items() if not several or name not in graph.unused(confs)}
    corpus = plan.corpus_of(next(iter(kept.values())), arguments.clips)
    plans = {name: plan.plan(name, one, corpus) for name, one in kept.items()}
    shown = {name: planned for name, planned in plans.items() if planned is not None or not several}
    print("\n".join(plan.table(shown, arguments.gpu, corpus, kept)))
    if left := [name for name in plans if name not in shown]:
        print(f"\nnot planned: {', '.join(left)}")
    return 0
