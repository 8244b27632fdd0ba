"""A stage's run folder: where it is, how to begin in it, and whether it is done, partial, stale or missing. No torch here.

runs/<experiment>/<stage>/
  conf.yaml       resolved; written before the first step, compared when the run is taken up again
  checkpoints/    what the same stage resumes from       (step-00000120.ckpt)
  chunks/         what latents and cache have finished   (datamodules/store/chunks.py)
  predictions-*   rows of the stages that predict        (row_files.py)
  artifact/       what the next stage reads
  receipt.json    written last, atomically: a stage with a receipt is done
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from conf import plain
from conf.errors import UsageError
from conf.sections.common import StageConf
from stages.runs import receipts
from stages.runs.files import write_whole
from stages.runs.identity import differences, fingerprint
from stages.runs.progress import progress


class State(NamedTuple):
    word: str  # done | partial | stale | missing
    detail: str


def run_folder(conf: StageConf, stage: str) -> Path:
    """Folder of a stage's run; `parents.<stage>` gives another: the name of an experiment, or a run folder."""
    elsewhere = conf.parents.get(stage)
    if elsewhere is None:
        return Path(conf.runs) / conf.experiment / stage
    path = Path(elsewhere)
    return path if (path / receipts.FILE).is_file() else Path(conf.runs) / elsewhere / stage


def state_of(stage: str, conf: StageConf, compare: bool = False) -> State:
    """How far a stage of an experiment is. compare: its configuration must be `conf`, too, not only its parents what they were."""
    folder = run_folder(conf, stage)
    receipt = receipts.read(folder)
    if receipt is None:
        return _unfinished(folder, conf if compare else None)
    if not (folder / "artifact").is_dir():
        return State("stale", "its artifact folder is gone")
    for name, digest in receipt["parents"].items():
        parent = receipts.read(run_folder(conf, name))
        if parent is None or parent["artifact_hash"] != digest:
            return State("stale", f"its parent {name} {'is missing' if parent is None else 'changed'}")
    for name, digest in receipt["corpora"].items():
        current = receipts.read_corpus(Path(conf.data.root) / name)
        if current is not None and current["hash"] != digest:
            return State("stale", f"the corpus {name} was prepared again")
    if compare and fingerprint(conf) != fingerprint(receipt["conf"]):
        return State("stale", "its configuration changed: " + ", ".join(differences(receipt["conf"], conf)))
    steps = f"{receipt['steps']} steps, " if receipt["steps"] else ""
    return State("done", f"{steps}{receipt['seconds']:.0f} s")


def check_unfinished(stage: str, conf: StageConf) -> None:
    """Raises UsageError where the stage's folder has part of a run of another configuration."""
    folder = run_folder(conf, stage)
    stored = stored_conf(folder)
    if stored is None or receipts.read(folder) is not None or (done := progress(folder, _max_steps(stored))) is None:
        return
    if fingerprint(stored) != fingerprint(conf):
        raise UsageError(
            f"{folder} holds an unfinished run ({done}) of another configuration:\n  "
            + "\n  ".join(differences(stored, conf))
            + "\nGive the old values to go on with it, --restart to begin again (the old run is kept), "
            "or another --experiment=NAME."
        )


def begin_run(stage: str, conf: StageConf, restart: bool) -> Path:
    """The stage's run folder, ready to start or to go on. A finished or restarted run is moved to `runs/<experiment>/.old/`.

    Raises UsageError where the folder has part of a run of another configuration.
    """
    folder = run_folder(conf, stage)
    if restart or receipts.read(folder) is not None:
        _move_aside(folder)
    check_unfinished(stage, conf)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "conf.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(conf))))
    return folder


def stored_conf(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run was begun with; None where there is none."""
    path = folder / "conf.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None


def _unfinished(folder: Path, conf: StageConf | None) -> State:
    stored = stored_conf(folder) or {}
    done = progress(folder, _max_steps(stored))
    if done is None:
        return State("missing", "not started")
    if conf is not None and stored and fingerprint(stored) != fingerprint(conf):
        return State("stale", f"{done}, of another configuration: " + ", ".join(differences(stored, conf)))
    return State("partial", str(done))


def _max_steps(stored: dict[str, Any]) -> int | None:
    return stored.get("trainer", {}).get("max_steps")


def _move_aside(folder: Path) -> None:
    if not folder.exists():
        return
    old = folder.parent / ".old"
    old.mkdir(exist_ok=True)
    number = 1 + max((int(path.name.rsplit("-", 1)[1]) for path in old.glob(f"{folder.name}-*")), default=0)
    target = old / f"{folder.name}-{number}"
    shutil.move(folder, target)
    print(f"{folder.name}: the earlier run was moved to {target}")
