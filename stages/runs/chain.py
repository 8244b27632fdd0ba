"""Which artifact feeds which stage, and what is done, partial, stale or missing. No torch here.

    runs/<experiment>/<stage>/
      conf.yaml       resolved; written before the first step, compared when the run is taken up again
      checkpoints/    what the same stage resumes from       (step-00000120.ckpt)
      chunks/         what latents and cache have finished   (datamodules/store/chunks.py)
      artifact/       what the next stage reads
      receipt.json    written last, atomically: a stage with a receipt is done

A receipt holds the hashes of the artifact, of its parents and of their parents. A parent that changed makes its children stale, and two parents that
come from different tokenizers are refused by name.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from conf import from_plain, plain
from conf.errors import UsageError
from conf.schema import OPERATIONAL, OPERATIONAL_OF_CHUNKS
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf
from conf.sections.corpora import CorpusConf
from conf.sections.evaluation import EvaluateConf, FewShotConf, GenerationConf
from conf.sections.language import LanguageConf
from stages import ON_DEMAND, READ_SOUND, STAGES

PACKAGES = (
    "torch",
    "torchaudio",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "lhotse",
    "omegaconf",
    "diffusers",
)

Configuration = StageConf | CorpusConf | dict[str, Any]  # typed, or as a receipt or a conf.yaml holds it
Typed = Callable[[str], list[str]]  # stage -> the words that configure it


class Parent(NamedTuple):
    folder: Path
    receipt: dict[str, Any]

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def conf(self) -> Any:
        """Its configuration, of its stage's dataclass."""
        return from_plain(self.receipt["stage"], self.receipt["conf"])

    @property
    def facts(self) -> dict[str, Any]:
        return self.receipt["facts"]


class State(NamedTuple):
    word: str  # done | partial | stale | missing
    detail: str


def run_folder(conf: StageConf, stage: str) -> Path:
    """Where a stage's run lies; `parents.<stage>` points elsewhere: another experiment's name, or a run folder."""
    elsewhere = conf.parents.get(stage)
    if elsewhere is None:
        return Path(conf.runs) / conf.experiment / stage
    path = Path(elsewhere)
    return path if (path / "receipt.json").is_file() else Path(conf.runs) / elsewhere / stage


def required(stage: str, conf: StageConf) -> tuple[str, ...]:
    """The stages whose artifacts it must read: a VAE of one's own is a parent of latents where codec.kind is trained, and else nothing to it; `rehearsal`
    one of a language stage that mixes in texts and has no files of them; `evaluate` and `generation` read the LLM of the stage that `after` says, `fewshot` of
    `llm`.
    """
    own: tuple[str, ...] = ()
    if isinstance(conf, LatentsConf) and conf.codec.kind == "trained":
        own = ("vae",)
    if isinstance(conf, LanguageConf) and not conf.text.files:
        mixtures = [conf.mixture, *(entry.mixture for entry in conf.curriculum)]
        own = ("rehearsal",) if any(mixture.text for mixture in mixtures) else ()
    parents = (*own, *STAGES[stage].parents)
    if isinstance(conf, FewShotConf) and conf.llm != "frozen":
        return (*parents, conf.llm)
    if isinstance(conf, EvaluateConf | GenerationConf) and conf.after != "openaqa":
        return tuple("caption" if name == "openaqa" else name for name in parents)
    return parents


def optional(stage: str) -> tuple[str, ...]:
    """The stages whose artifacts it reads where they are there."""
    return tuple(name for name in STAGES[stage].optional if name not in ON_DEMAND)


def unused(confs: dict[str, StageConf]) -> set[str]:
    """The stages on demand that none of these configurations asks for."""
    asked = {name for stage in STAGES if stage in confs for name in required(stage, confs[stage])}
    return set(ON_DEMAND) - asked


def parents(stage: str, conf: StageConf, typed: Typed | None = None) -> dict[str, Parent]:
    """The stage's parents with their receipts. typed: the configuration that was typed, for the commands that errors propose.

    Raises UsageError for one that is missing (and the command that makes it), stale, or made from another ancestor than its siblings.
    """
    typed = typed or (lambda _: [f"--experiment={conf.experiment}"])
    found: dict[str, Parent] = {}
    needed = required(stage, conf)
    for name in (*needed, *optional(stage)):
        folder = run_folder(conf, name)
        receipt = read_receipt(folder)
        if receipt is None:
            if name not in needed and name not in conf.parents:
                continue
            raise UsageError(_absent(stage, name, conf, typed))
        if STAGES[receipt["stage"]].target != STAGES[name].target:
            raise UsageError(
                f"{folder} holds a run of {receipt['stage']}, and {stage} needs one of {name}: --parents.{name}=EXPERIMENT"
            )
        if not (folder / "artifact").is_dir():
            raise UsageError(
                f"{folder} has a receipt and no artifact/. Make it again:   {_command(name, typed, '--restart')}"
            )
        found[name] = Parent(folder, receipt)
    _check_ancestors(stage, found, conf, typed)
    return found


def _absent(stage: str, name: str, conf: StageConf, typed: Typed) -> str:
    folder, detail = run_folder(conf, name), state(name, conf).detail
    if name not in conf.parents:
        return (
            f"{stage} needs {name}, and {folder} has no finished one ({detail}).\n"
            f"Make it:   {_command(name, typed)}\n"
            f"or use another experiment's:   --parents.{name}=EXPERIMENT"
        )
    there = ", ".join(experiments(conf, name))
    return f"{stage} needs {name}, and {folder} has no finished run ({detail}): is {conf.parents[name]} misspelt? " + (
        f"There are: {there}" if there else f"No experiment in {conf.runs}/ has a finished {name}"
    )


def _command(stage: str, typed: Typed, *flags: str) -> str:
    return shlex.join(["stage", "run", stage, *flags, *typed(stage)])


def experiments(conf: StageConf, stage: str, artifact_hash: str | None = None) -> list[str]:
    """Those that finished the stage; with `artifact_hash`, to that artifact."""
    found = {path.parents[1].name: path.parent for path in sorted(Path(conf.runs).glob(f"*/{stage}/receipt.json"))}
    receipts = {name: read_receipt(folder) or {} for name, folder in found.items()}
    return [name for name, receipt in receipts.items() if artifact_hash in (None, receipt["artifact_hash"])]


def _check_ancestors(stage: str, found: dict[str, Parent], conf: StageConf, typed: Typed) -> None:
    """Raises UsageError where two parents come from different runs of one ancestor."""
    seen: dict[str, tuple[str, str]] = {}
    for name, parent in found.items():
        for ancestor, digest in _line(name, parent).items():
            other = seen.setdefault(ancestor, (digest, name))
            if other[0] == digest:
                continue
            cures = [cure for follow in (name, other[1]) if (cure := _cure(follow, found, conf))]
            raise UsageError(
                f"{stage} cannot join {other[1]} and {name}: they come from different runs of {ancestor!r} "
                f"({other[0][:12]} and {digest[:12]}).\nMake {name} again from the one you want:   {_command(name, typed, '--restart')}"
                + "".join(f"\nor take what goes together:   {' '.join(cure)}" for cure in cures)
            )


def _line(name: str, parent: Parent) -> dict[str, str]:
    """A parent's ancestors and itself: stage -> hash of the artifact."""
    return {**parent.receipt["ancestors"], name: parent.receipt["artifact_hash"]}


def _cure(follow: str, found: dict[str, Parent], conf: StageConf) -> list[str]:
    """The keys that replace each parent that `follow` was not made with by the one it was; [] where no experiment has them all."""
    wanted, keys = _line(follow, found[follow]), []
    for name, parent in found.items():
        if name in wanted and parent.receipt["artifact_hash"] != wanted[name]:
            homes = experiments(conf, name, wanted[name])
            if not homes:
                return []
            keys.append(f"--parents.{name}={homes[0]}")
        elif name not in wanted and any(wanted.get(ancestor, it) != it for ancestor, it in _line(name, parent).items()):
            return []
    return keys


def state(stage: str, conf: StageConf, compare: bool = False) -> State:
    """How far a stage of an experiment is. `compare`: its configuration must be `conf`'s too, not only its parents what they were."""
    folder = run_folder(conf, stage)
    receipt = read_receipt(folder)
    if receipt is None:
        return _unfinished(folder, conf if compare else None)
    if not (folder / "artifact").is_dir():
        return State("stale", "its artifact folder is gone")
    for name, digest in receipt["parents"].items():
        parent = read_receipt(run_folder(conf, name))
        if parent is None or parent["artifact_hash"] != digest:
            return State("stale", f"its parent {name} {'is missing' if parent is None else 'changed'}")
    for name, digest in receipt["corpora"].items():
        current = read_receipt(Path(conf.data.root) / name)
        if current is not None and current["hash"] != digest:
            return State("stale", f"the corpus {name} was prepared again")
    if compare and fingerprint(conf) != fingerprint(receipt["conf"]):
        return State("stale", "its configuration changed: " + ", ".join(differences(receipt["conf"], conf)))
    return State(
        "done",
        f"{receipt['steps']} steps, {receipt['seconds']:.0f} s" if receipt["steps"] else f"{receipt['seconds']:.0f} s",
    )


def check_unfinished(stage: str, conf: StageConf) -> None:
    """Raises UsageError where the stage's folder holds part of a run of another configuration."""
    folder = run_folder(conf, stage)
    stored = folder / "conf.yaml"
    if stored.is_file() and read_receipt(folder) is None and any(_progress(folder)):
        old = OmegaConf.to_container(OmegaConf.load(stored))
        assert isinstance(old, dict)
        if fingerprint(old) != fingerprint(conf):
            raise UsageError(
                f"{folder} holds an unfinished run ({_unfinished(folder, None).detail}) of another configuration:\n  "
                + "\n  ".join(differences(old, conf))
                + "\nGive the old values to go on with it, --restart to begin again (the old run is kept), or another --experiment=NAME."
            )


def begin(stage: str, conf: StageConf, restart: bool) -> Path:
    """The stage's run folder, ready to start or to go on. A finished or restarted run is moved aside, to `runs/<experiment>/.old/`.

    Raises UsageError where the folder holds part of a run of another configuration.
    """
    folder = run_folder(conf, stage)
    if restart or read_receipt(folder) is not None:
        _move_aside(folder)
    check_unfinished(stage, conf)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "conf.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(conf))))
    return folder


def finish(
    stage: str,
    conf: StageConf,
    folder: Path,
    parents_: dict[str, Parent],
    facts: dict[str, Any],
    metrics: dict[str, Any],
    steps: int,
    seconds: float,
    precision: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes the receipt beside the artifact: the last act of a stage. precision: which it computed in, and why."""
    ancestors: dict[str, str] = {}
    for name, parent in parents_.items():
        ancestors |= {**parent.receipt["ancestors"], name: parent.receipt["artifact_hash"]}
    corpora = {name: read_receipt(Path(conf.data.root) / name) for name in conf.data.corpora}
    receipt = {
        "stage": stage,
        "experiment": conf.experiment,
        "conf": plain(conf),
        "conf_hash": fingerprint(conf),
        "seed": conf.seed,
        "parents": {name: parent.receipt["artifact_hash"] for name, parent in parents_.items()},
        "ancestors": ancestors,
        "corpora": {name: found["hash"] for name, found in corpora.items() if found} if stage in READ_SOUND else {},
        "facts": facts,
        "metrics": metrics,
        "artifact_hash": hash_folder(folder / "artifact"),
        "steps": steps,
        "seconds": round(seconds, 1),
        "precision": precision,
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }
    write_atomically(folder / "receipt.json", json.dumps(receipt, indent=1))
    return receipt


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None."""
    whole = [path for path in (folder / "checkpoints").glob("step-*.ckpt") if _is_whole(path)]
    return max(whole, key=_step, default=None)


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Those with more steps than the newest whole one."""
    newest = newest_checkpoint(folder)
    least = _step(newest) if newest else -1
    return sorted(path for path in (folder / "checkpoints").glob("step-*.ckpt") if _step(path) > least)


def fingerprint(conf: Configuration) -> str:
    """Hash of what decides the result: `conf` without the operational keys."""
    return hashlib.sha256(json.dumps(_deciding(conf), sort_keys=True).encode()).hexdigest()


def differences(old: Configuration, new: Configuration) -> list[str]:
    """ "key: old -> new" for each key that decides the result."""
    before, after = _deciding(old), _deciding(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def read_receipt(folder: Path) -> dict[str, Any] | None:
    path = folder / "receipt.json"
    if not path.is_file():
        return None
    try:
        receipt = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}). Remove it and run its stage again.") from None
    if not isinstance(receipt, dict):
        raise UsageError(f"{path} is damaged (it holds no mapping). Remove it and run its stage again.")
    return receipt


def hash_folder(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def _unfinished(folder: Path, conf: StageConf | None) -> State:
    steps, chunks = _progress(folder)
    answers = sum(path.read_bytes().count(b"\n") for path in folder.glob("predictions-*.jsonl"))
    if not steps and not chunks and not answers:
        return State("missing", "not started")
    stored = OmegaConf.to_container(OmegaConf.load(folder / "conf.yaml")) if (folder / "conf.yaml").is_file() else {}
    assert isinstance(stored, dict)
    if steps:
        detail = f"step {steps} of {stored.get('trainer', {}).get('max_steps', '?')}"
    elif answers:
        detail = f"{answers} answers"
    else:
        planned = folder / "chunks" / "plan.json"
        total = len(json.loads(planned.read_text())) if planned.is_file() else "?"
        detail = f"chunk {chunks} of {total}"
    if conf is not None and stored and fingerprint(stored) != fingerprint(conf):
        return State("stale", f"{detail}, of another configuration: " + ", ".join(differences(stored, conf)))
    return State("partial", detail)


def _progress(folder: Path) -> tuple[int, int]:
    """(steps in the newest checkpoint, finished chunks)."""
    newest = newest_checkpoint(folder)
    chunks = [path for path in (folder / "chunks").glob("*") if path.is_dir() and not path.name.startswith(".")]
    return (_step(newest) if newest else 0), len(chunks)


def _step(path: Path) -> int:
    found = re.search(r"step-(\d+)", path.name)
    return int(found.group(1)) if found else 0


def _is_whole(path: Path) -> bool:
    """A zip file ends with its directory: a truncated checkpoint has none."""
    import zipfile

    return zipfile.is_zipfile(path)


def _move_aside(folder: Path) -> None:
    if not folder.exists():
        return
    old = folder.parent / ".old"
    old.mkdir(exist_ok=True)
    number = 1 + max((int(path.name.rsplit("-", 1)[1]) for path in old.glob(f"{folder.name}-*")), default=0)
    shutil.move(folder, old / f"{folder.name}-{number}")
    print(f"{folder.name}: the earlier run was moved to {old / f'{folder.name}-{number}'}")


def _deciding(conf: Configuration) -> dict[str, Any]:
    """ "key.key" -> value, without what decides nothing."""
    values = conf if isinstance(conf, dict) else plain(conf)
    return _flat(values, OPERATIONAL + (OPERATIONAL_OF_CHUNKS if "recordings_per_chunk" in values else ()))


def _flat(node: Any, without: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    if prefix.rstrip(".") in without:
        return {}
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {
        path: value for key, child in node.items() for path, value in _flat(child, without, f"{prefix}{key}.").items()
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    """The commit of the code that ran, with + where the tree had changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=here, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
