"""A stage's run folder: where it is, how to begin in it, and whether it is done, partial, stale or missing. No torch here.

runs/<experiment>/<stage>/
  run.json        what decides its products; written before the first, compared while there are any (identity.py)
  conf.yaml       its configuration, resolved
  checkpoints/    what the same stage resumes from       (step-00000120.ckpt)
  chunks/         what latents and cache have finished   (datamodules/store/chunks.py)
  predictions-*   rows of the stages that predict        (row_files.py)
  artifact/       what the next stage reads
  receipt.json    written last, atomically: a stage with a receipt is done
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from conf import from_plain, plain
from conf.errors import UsageError
from conf.sections.common import StageConf
from datamodules.atomic_files import write_whole
from stages.runs import receipts
from stages.runs.identity import FILE as IDENTITY
from stages.runs.identity import Identity, changed_keys, differences, fingerprint, read_identity, write_identity
from stages.runs.moved_end import check_moved_end, drop_decay, moved_end, why_not
from stages.runs.progress import progress
from stages.runs.warm_start import changed_source

log = logging.getLogger(__name__)
OLD = ".old"  # of an experiment: earlier runs
EARLIER = "earlier"  # names the run that this one replaces, of which stages that write chunks take over what they can


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
        return _unfinished(stage, folder, conf, compare)
    if not (folder / "artifact").is_dir():
        return State("stale", "its artifact folder is gone")
    for name in receipt["parents"]:
        if receipts.read(run_folder(conf, name)) is None:
            return State("stale", f"its parent {name} is missing")
    if changed := _changed_inputs(conf, receipt["parents"], receipt["corpora"]):
        return State("stale", changed[0])
    if compare and (changed := changed_source(stage, conf, (receipt.get("init_from") or {}).get("artifact_hash"))):
        return State("stale", changed[0])
    if compare and (different := _differences(stage, receipt["conf"], conf)):
        moved = moved_end(stage, folder, receipt["conf"], conf, finished=True)
        if moved and moved.step is not None:
            return State(
                "partial", f"{moved.before} steps are done; from step {moved.step} it goes on to {moved.after}"
            )
        return State("stale", "its configuration changed: " + ", ".join(different))
    steps = f"{receipt['steps']} steps, " if receipt["steps"] else ""
    return State("done", f"{steps}{receipt['seconds']:.0f} s")


def finished_otherwise(stage: str, conf: StageConf) -> list[str]:
    """ "key: old -> new" where a finished run of the stage would have to be begun again for its configuration.

    Nothing where it is not finished, where it is made longer (moved_end.py), and for corpora that are added to those of a
    stage that keeps what it has encoded.
    """
    folder = run_folder(conf, stage)
    receipt = receipts.read(folder)
    if receipt is None or moved_end(stage, folder, receipt["conf"], conf, finished=True):
        return []
    begun: StageConf = from_plain(stage, receipt["conf"])
    if _is_stored_by_content(conf) and set(begun.data.corpora) <= set(conf.data.corpora):
        begun = replace(begun, data=replace(begun.data, corpora=conf.data.corpora))
    hint = why_not(changed_keys(begun, conf), conf).strip()
    return [*differences(begun, conf), *([hint] if hint else [])]


def check_finished(stage: str, conf: StageConf) -> None:
    """Raises UsageError where a finished run of the stage would have to be begun again for its configuration."""
    if changed := finished_otherwise(stage, conf):
        raise UsageError(
            f"{run_folder(conf, stage)} is finished, and was begun with something else:\n  "
            + "\n  ".join(changed)
            + "\nGive the old values to keep it, --restart to begin again (it is kept), or another --experiment=NAME."
        )


def check_unfinished(stage: str, conf: StageConf, identity: Identity | None = None) -> None:
    """Raises UsageError where the stage's folder has part of a run that was begun with something else, by name.

    identity: of the run that would go on with it; None where its parents are not all made yet.
    """
    folder = run_folder(conf, stage)
    stored = stored_conf(folder) or {}
    done = progress(folder, max_steps(stored))
    if done is None or receipts.read(folder) is not None:
        return
    begun = read_identity(folder)
    changed = _changed_since(begun, conf)
    changed += changed_source(stage, conf, begun.init_from) if begun else []
    if begun and identity:
        changed += [f"its parent {name} is new" for name in identity.parents if name not in begun.parents]
        changed += [f"its parent {name} is no longer read" for name in begun.parents if name not in identity.parents]
        if not _is_stored_by_content(conf):
            changed += [f"the corpus {name} is new" for name in identity.corpora if name not in begun.corpora]
    hint = ""
    if stored and (moved := moved_end(stage, folder, stored, conf, finished=False)):
        check_moved_end(folder, moved)
    elif stored:
        changed += _changed_conf(stage, stored, conf)
        hint = why_not(changed_keys(stored, conf), conf)
    elif begun and begun.conf_hash != fingerprint(conf):
        changed.append("its configuration, and its conf.yaml is gone")
    if changed:
        raise UsageError(
            f"{folder} holds an unfinished run ({done}), begun with something else:\n  "
            + "\n  ".join(changed)
            + hint
            + "\nGive the old values and parents to go on with it, --restart to begin again (the old run is kept), "
            "or another --experiment=NAME."
        )


def begin_run(stage: str, conf: StageConf, restart: bool, identity: Identity | None = None) -> Path:
    """The stage's run folder, ready to start or to go on. A finished or restarted run is moved to `runs/<experiment>/.old/`;
    of one that is made longer, its artifact and receipt alone.

    identity: of the run, which is kept until it ends; None where it is not known yet, and nothing is made.
    Raises UsageError where the folder has a run, finished or not, that was begun with something else.
    """
    folder, earlier = run_folder(conf, stage), None
    if not restart:
        check_finished(stage, conf)
        _keep_finished_before_longer(stage, folder, conf)
    if restart or receipts.read(folder) is not None:
        earlier = _move_aside(folder)
    check_unfinished(stage, conf, identity)
    stored = stored_conf(folder)
    moved = moved_end(stage, folder, stored, conf, finished=False) if stored else None
    if moved and moved.step is not None:
        drop_decay(folder, moved)
        if identity:  # before conf.yaml: until both are written, the end is moved again
            write_identity(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    if earlier and not restart and (earlier / "chunks").is_dir():
        write_whole(folder / EARLIER, earlier.name)
    write_whole(folder / "conf.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(conf))))
    begun = read_identity(folder)
    if identity and (begun is None or progress(folder) is None):
        write_identity(folder, identity)
    elif begun and identity and begun.corpora != identity.corpora:  # `check_unfinished` has passed it
        log.info("%-14s goes on with corpora that have changed: what is stored is looked up by its sound", stage)
        write_identity(folder, identity._replace(commit=begun.commit))
    elif begun and identity and begun.commit != identity.commit:
        text = "%-14s was begun by the code of commit %s, and goes on by that of %s"
        log.warning(text, stage, begun.commit, identity.commit)
    return folder


def earlier_run(folder: Path) -> receipts.FinishedRun | None:
    """The finished run that the one in this folder replaces; None where there is none, and after --restart."""
    path = folder / EARLIER
    earlier = folder.parent / OLD / path.read_text() if path.is_file() else None
    receipt = receipts.read(earlier) if earlier else None
    return receipts.FinishedRun(earlier, receipt) if earlier and receipt else None


def stored_conf(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run was begun with; None where there is none."""
    path = folder / "conf.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None


def _unfinished(stage: str, folder: Path, conf: StageConf, compare: bool) -> State:
    stored = stored_conf(folder) or {}
    done = progress(folder, max_steps(stored))
    if done is None:
        return State("missing", "not started")
    begun = read_identity(folder)
    changed = _changed_since(begun, conf)
    changed += changed_source(stage, conf, begun.init_from) if begun and compare else []
    moved = moved_end(stage, folder, stored, conf, finished=False) if compare and stored else None
    if compare and stored and (moved is None or moved.step is None):
        changed += _changed_conf(stage, stored, conf)
    return (
        State("stale", f"{done}, begun with something else: {', '.join(changed)}")
        if changed
        else State("partial", str(done))
    )


def _changed_since(begun: Identity | None, conf: StageConf) -> list[str]:
    """What an unfinished run was begun with and is another now: parents and corpora."""
    if begun is None:
        return []
    return _changed_inputs(conf, begun.parents, {} if _is_stored_by_content(conf) else begun.corpora)


def _changed_conf(stage: str, stored: dict[str, Any], conf: StageConf) -> list[str]:
    """The same of its configuration."""
    free = _is_stored_by_content(conf)
    return [text for text in _differences(stage, stored, conf) if not (free and text.startswith("data.corpora:"))]


def _is_stored_by_content(conf: StageConf) -> bool:
    """Whether what the stage makes is looked up by its sound: then other corpora may go on with a part of it."""
    return hasattr(conf, "recordings_per_chunk")


def _differences(stage: str, stored: dict[str, Any], conf: StageConf) -> list[str]:
    """As `differences`; a key that the stored configuration did not have yet has the value of the base."""
    return differences(from_plain(stage, stored), conf) if differences(stored, conf) else []


def _changed_inputs(conf: StageConf, parents: dict[str, str], corpora: dict[str, str]) -> list[str]:
    """Which parents and corpora are no longer what a run was begun with. One that is missing has not changed yet."""
    changed = []
    for name, digest in parents.items():
        parent = receipts.read(run_folder(conf, name))
        if parent is not None and parent["artifact_hash"] != digest:
            changed.append(f"its parent {name} changed")
    for name, digest in corpora.items():
        corpus = receipts.read_corpus(Path(conf.data.root) / name)
        if corpus is not None and corpus["hash"] != digest:
            changed.append(f"the corpus {name} was prepared again")
    return changed


def max_steps(stored: dict[str, Any]) -> int | None:
    """Of a stored configuration; None for a stage that does not train."""
    return stored.get("trainer", {}).get("max_steps")


def _move_aside(folder: Path) -> Path | None:
    """Where it was moved to; None where there is no such folder."""
    if not folder.exists():
        return None
    target = _free_old(folder)
    shutil.move(folder, target)
    log.info("%s: the earlier run was moved to %s", folder.name, target)
    return target


def _keep_finished_before_longer(stage: str, folder: Path, conf: StageConf) -> None:
    """Where a finished run is made longer, moves what made it a finished one aside, its artifact and then its receipt: its
    checkpoints stay, to be gone on from. Raises UsageError where it would have to begin again for it.
    """
    receipt = receipts.read(folder)
    if receipt is None or _changed_inputs(conf, receipt["parents"], receipt["corpora"]):
        return
    if changed := changed_source(stage, conf, (receipt.get("init_from") or {}).get("artifact_hash")):
        raise UsageError(
            f"{folder} is finished, and was begun with something else:\n  {changed[0]}\nGive the old --init_from to keep it, "
            "--restart to begin again (it is kept), or another --experiment=NAME."
        )
    moved = moved_end(stage, folder, receipt["conf"], conf, finished=True)
    if moved is None:
        return
    check_moved_end(folder, moved)
    target = _free_old(folder)
    target.mkdir()
    for name in ("conf.yaml", IDENTITY):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    for name in ("artifact", receipts.FILE):
        if (folder / name).exists():
            (folder / name).rename(target / name)
    log.info("%-14s its artifact and receipt of before were moved to %s", folder.name, target)


def _free_old(folder: Path) -> Path:
    """A path in `.old` that is not taken."""
    old = folder.parent / OLD
    old.mkdir(exist_ok=True)
    number = 1 + max((int(path.name.rsplit("-", 1)[1]) for path in old.glob(f"{folder.name}-*")), default=0)
    return old / f"{folder.name}-{number}"
