"""`stage status`: what of an experiment is done, partial, stale or missing, what it takes from another one, its jobs. No torch here.

Each stage's own conf.yaml or receipt says whose parents it read: `stage status` needs no key of the command that ran it.
"""

from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from conf import from_plain
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf
from stages import BY_NAME
from stages.runs import chain, jobs


def report(confs: dict[str, StageConf], experiment: str, compare: bool, data_root: str | None) -> list[str]:
    """A line a stage. confs: what the command line composes; compare: each run is held against it, not only against its own
    configuration. data_root: where the corpora lie; None for where each run found them."""
    mine = {
        stage: _own(stage, replace(conf, experiment=experiment), compare, data_root) for stage, conf in confs.items()
    }
    submitted = jobs.of(Path(confs["latents"].runs) / experiment / "slurm")
    lines = []
    for stage in mine:
        state = _state(stage, mine, compare)
        if state.word == "missing":
            state = _taken(stage, mine) or state
        if state.word == "missing" and stage in chain.unused(mine | {"latents": _latents(mine)}):
            state = chain.State("-", f"not needed: {_unasked(stage, mine)}")
        if stage in BY_NAME and state.word == "missing":
            state = chain.State("-", "not part of `all`")
        job = submitted.get(stage)
        said = f"   [{job}]" if job and (job.lives or state.word != "done") else ""
        lines.append(f"{stage:<14} {state.word:<8} {state.detail}".rstrip() + said)
    return lines


def _own(stage: str, composed: StageConf, compare: bool, data_root: str | None) -> StageConf:
    """The configuration to look at a stage's run with: its parents are those that it was run with, or those given now."""
    folder = Path(composed.runs) / composed.experiment / stage
    stored = _stored(stage, folder)
    conf = composed if compare or stored is None else stored
    parents = (stored.parents if stored else {}) | composed.parents
    data = replace(conf.data, root=data_root) if data_root else conf.data
    return replace(conf, runs=composed.runs, experiment=composed.experiment, parents=parents, data=data)


def _stored(stage: str, folder: Path) -> StageConf | None:
    """What a stage's run was started with; None where there is none."""
    receipt = chain.read_receipt(folder)
    if receipt is not None:
        return from_plain(stage, receipt["conf"])
    path = folder / "conf.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
    return from_plain(stage, values) if isinstance(values, dict) else None


def _state(stage: str, mine: dict[str, StageConf], compare: bool) -> chain.State:
    """As `chain.state`, and stale where a parent is not done."""
    conf = replace(mine[stage], parents={name: place for name, place in mine[stage].parents.items() if name != stage})
    state = chain.state(stage, conf, compare)
    receipt = chain.read_receipt(chain.run_folder(conf, stage))
    if state.word != "done" or receipt is None:
        return state
    for name in receipt["parents"]:
        above = _elsewhere(name, conf) if name in conf.parents else _state(name, mine, compare)
        if above.word != "done":
            return chain.State("stale", f"its parent {name} is not done")
    return state


def _taken(stage: str, mine: dict[str, StageConf]) -> chain.State | None:
    """Where the experiment's other stages take this one from; None where they do not."""
    readers = {conf.parents[stage]: conf for conf in mine.values() if stage in conf.parents}
    found = {place: _elsewhere(stage, conf) for place, conf in readers.items()}
    said = [place if state.word == "done" else f"{place} ({state.word} there)" for place, state in found.items()]
    return chain.State(f"taken from {', '.join(said)}", "") if said else None


def _elsewhere(stage: str, conf: StageConf) -> chain.State:
    """The state of a parent that `conf` takes from another experiment, by that run's own configuration."""
    folder = chain.run_folder(conf, stage)
    receipt = chain.read_receipt(folder)
    if receipt is None:
        return chain.State("missing", "no finished run")
    conf = from_plain(receipt["stage"], receipt["conf"])
    return chain.state(receipt["stage"], replace(conf, runs=str(folder.parents[1]), experiment=folder.parent.name))


def _latents(mine: dict[str, StageConf]) -> LatentsConf:
    """The configuration of the latents that the experiment has, or takes from another one."""
    places = [chain.run_folder(conf, "latents") for conf in mine.values() if "latents" in conf.parents]
    stored = [found for folder in places if (found := _stored("latents", folder))]
    latents = stored[0] if stored else mine["latents"]
    assert isinstance(latents, LatentsConf)
    return latents


def _unasked(stage: str, mine: dict[str, StageConf]) -> str:
    return (
        f"codec.kind is {_latents(mine).codec.kind}" if stage == "vae" else "mixture.text is 0, or text.files are given"
    )
