"""`stage plan STAGE|all`: memory, hours and disk of a run before it starts. No torch."""

import argparse

import conf
from stages import BY_NAME, STAGES
from stages.cli.arguments import Subparsers, recall
from stages.launch.gpus import GPUS
from stages.runs import graph


def add(subparsers: Subparsers, layers: argparse.ArgumentParser) -> None:
    verb = subparsers.add_parser(
        "plan", parents=[layers], help="parameters, memory, hours and disk, from the configuration alone"
    )
    verb.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=" | ".join([*STAGES, "all"]))
    verb.add_argument("--gpu", choices=list(GPUS), default="h100", help=f"{', '.join(GPUS)}; h100 if none is named")
    verb.add_argument("--clips", type=float, default=2e6, help="recordings of 10 s, where no corpus is prepared")
    verb.set_defaults(verb=_plan)


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """A row for every stage, or for one; the sizes of what a stage reads come from the same words, or from the presets alone."""
    from stages.launch import plan

    several = arguments.stage == "all"
    overrides = recall(arguments, overrides, None if several else arguments.stage)
    confs = {
        name: conf.compose(name, arguments.preset, arguments.conf, overrides, several).conf
        if several or name == arguments.stage
        else conf.compose(name, arguments.preset).conf
        for name in STAGES
    }
    names = [name for name in STAGES if several or name == arguments.stage]
    corpus = plan.corpus_of(confs[names[0]], arguments.clips)
    plans = {name: plan.plan(name, confs[name], corpus, confs) for name in names}
    print("\n".join(plan.table(plans, arguments.gpu, corpus, {name: confs[name] for name in names})))
    if several:
        apart = [name for name in names if name in (*graph.unused(confs), *BY_NAME)]
        print(f"\nnot part of `stage run all` with this configuration: {', '.join(apart)}")
    return 0
