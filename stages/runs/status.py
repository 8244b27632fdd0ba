"""`stage status`: what of an experiment is done, partial, stale or missing, what it takes from another one, its jobs. No torch here.

Each stage's own conf.yaml or receipt says whose parents it read: `stage status` needs no key of the command that ran it.
"""

from dataclasses import replace
from pathlib import Path

from conf import from_plain
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf
from stages import BY_NAME
from stages.runs import graph, jobs, receipts
from stages.runs.state import State, run_folder, state_of, stored_conf


def report(confs: dict[str, StageConf], experiment: str, compare: bool, data_root: str | None) -> list[str]:
    """A line a stage.

    confs: what the command line composes. compare: each run is compared with it, and not only with its own
    configuration. data_root: the folder of the corpora; None for that of each run.
    """
    seen = {
        stage: _to_look_with(stage, replace(conf, experiment=experiment), compare, data_root)
        for stage, conf in confs.items()
    }
    submitted = jobs.newest(Path(confs["latents"].runs) / experiment / "slurm")
    lines = []
    for stage in seen:
        state = _state(stage, seen, compare)
        if state.word == "missing":
            state = _taken(stage, seen) or state
        if state.word == "missing" and stage in graph.unused(seen | {"latents": _latents(seen)}):
            state = State("-", f"not needed: {_why_not_needed(stage, seen)}")
        if stage in BY_NAME and state.word == "missing":
            state = State("-", "not part of `all`")
        job = submitted.get(stage)
        job_note = f"   [{job}]" if job and (job.lives or state.word != "done") else ""
        lines.append(f"{stage:<14} {state.word:<8} {state.detail}".rstrip() + job_note)
    return lines


def _to_look_with(stage: str, composed: StageConf, compare: bool, data_root: str | None) -> StageConf:
    """The configuration to look at a stage's run with: its parents are those that it was run with, or those given now."""
    stored = _stored(stage, Path(composed.runs) / composed.experiment / stage)
    conf = composed if compare or stored is None else stored
    parents = (stored.parents if stored else {}) | composed.parents
    data = replace(conf.data, root=data_root) if data_root else conf.data
    return replace(conf, runs=composed.runs, experiment=composed.experiment, parents=parents, data=data)


def _stored(stage: str, folder: Path) -> StageConf | None:
    """The configuration that a stage's run was started with; None where there is none."""
    receipt = receipts.read(folder)
    values = receipt["conf"] if receipt is not None else stored_conf(folder)
    return None if values is None else from_plain(stage, values)


def _state(stage: str, seen: dict[str, StageConf], compare: bool) -> State:
    """As `state_of`, and stale where a parent is not done."""
    conf = replace(seen[stage], parents={name: path for name, path in seen[stage].parents.items() if name != stage})
    state = state_of(stage, conf, compare)
    receipt = receipts.read(run_folder(conf, stage))
    if state.word != "done" or receipt is None:
        return state
    for name in receipt["parents"]:
        parent = _elsewhere(name, conf) if name in conf.parents else _state(name, seen, compare)
        if parent.word != "done":
            return State("stale", f"its parent {name} is not done")
    return state


def _taken(stage: str, seen: dict[str, StageConf]) -> State | None:
    """From where the experiment's other stages take this one; None where they do not."""
    readers = {conf.parents[stage]: conf for conf in seen.values() if stage in conf.parents}
    states = {path: _elsewhere(stage, conf) for path, conf in readers.items()}
    names = [path if state.word == "done" else f"{path} ({state.word} there)" for path, state in states.items()]
    return State(f"taken from {', '.join(names)}", "") if names else None


def _elsewhere(stage: str, conf: StageConf) -> State:
    """The state of a parent that `conf` takes from another experiment, by that run's own configuration."""
    folder = run_folder(conf, stage)
    receipt = receipts.read(folder)
    if receipt is None:
        return State("missing", "no finished run")
    conf = from_plain(receipt["stage"], receipt["conf"])
    return state_of(receipt["stage"], replace(conf, runs=str(folder.parents[1]), experiment=folder.parent.name))


def _latents(seen: dict[str, StageConf]) -> LatentsConf:
    """The configuration of the latents that the experiment has, or takes from another one."""
    folders = [run_folder(conf, "latents") for conf in seen.values() if "latents" in conf.parents]
    stored = [conf for folder in folders if (conf := _stored("latents", folder))]
    latents = stored[0] if stored else seen["latents"]
    assert isinstance(latents, LatentsConf)
    return latents


def _why_not_needed(stage: str, seen: dict[str, StageConf]) -> str:
    if stage == "vae":
        return f"codec.kind is {_latents(seen).codec.kind}"
    if stage in ("text_to_sound", "preference"):
        return "no `after` names it"
    if stage == "rehearsal":
        return "mixture.text is 0, or text.files are given"
    return "the tokenizer is another's (its key `source`), which needs no latents"
