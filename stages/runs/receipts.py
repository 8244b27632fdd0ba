"""Receipts: receipt.json, the last file that a run writes. A stage or a corpus with a receipt is done. No torch here."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from conf import from_plain, plain
from conf.errors import UsageError
from conf.sections.common import StageConf, TrainingStageConf
from datamodules.atomic_files import write_whole
from datamodules.hashing import hash_folder
from stages import READ_CORPORA, STAGES
from stages.runs import starts
from stages.runs.identity import Identity, code_commit, fingerprint, read_identity
from stages.runs.starts import Start

FILE = "receipt.json"
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


class Receipt(TypedDict):
    """A finished stage."""

    stage: str
    experiment: str
    conf: dict[str, Any]
    conf_hash: str
    seed: int
    parents: dict[str, str]  # stage -> hash of its artifact
    ancestors: dict[str, str]  # the same for the parents, their parents, and so on
    corpora: dict[str, str]  # name -> hash of the prepared cuts, of a stage that reads sound
    facts: dict[str, Any]  # what children inherit: sample rate, vocabulary, ...
    metrics: dict[str, Any]
    artifact_hash: str
    steps: int  # 0 for a stage that does not train
    seconds: float  # of the last start
    init_from: NotRequired[dict[str, str | None] | None]  # whose weights the training started from: run, artifact_hash
    precision: NotRequired[dict[str, str] | None]  # what it computed in, and why
    starts: NotRequired[list[Start]]  # on what, each time
    revisions: NotRequired[dict[str, str]]  # hub id -> commit of the weights that were read
    versions: dict[str, str]
    commit: str | None


class CorpusReceipt(TypedDict):
    """A prepared corpus; those of one kind have more keys (stages/launch/prepare.py)."""

    corpus: str
    root: str  # absolute folder that the recordings' paths are relative to
    conf: dict[str, Any]
    conf_hash: str
    hash: str  # of the cuts
    recordings: int
    seconds: float  # of sound
    splits: dict[str, int]  # split -> recordings
    contents: NotRequired[dict[str, dict[str, Any]]]  # split -> fields of stages.launch.corpus_contents.Contents


class FinishedRun(NamedTuple):
    """A stage's run folder with its receipt."""

    folder: Path
    receipt: Receipt

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def conf(self) -> Any:
        """Its configuration, as its stage's dataclass."""
        return from_plain(self.receipt["stage"], self.receipt["conf"])

    @property
    def facts(self) -> dict[str, Any]:
        return self.receipt["facts"]


def read(folder: Path) -> Receipt | None:
    """The receipt of a run folder; None where the run is not finished. Raises UsageError for a damaged one."""
    return cast(Receipt | None, _read(folder))


def read_corpus(folder: Path) -> CorpusReceipt | None:
    """The receipt of a prepared corpus; None where there is none. Raises UsageError for a damaged one."""
    return cast(CorpusReceipt | None, _read(folder))


def identity_of(
    stage: str, conf: StageConf, parents: Mapping[str, FinishedRun], source: FinishedRun | None = None
) -> Identity:
    """What decides a run's products; parents that only its export reads may come later, and are left out.

    source: the run whose weights it starts from.
    """
    shown = STAGES[stage].shown
    read = {name: run.receipt["artifact_hash"] for name, run in parents.items() if name not in shown}
    prepared = {name: read_corpus(Path(conf.data.root) / name) for name in conf.data.corpora}
    corpora = {name: one["hash"] for name, one in prepared.items() if one} if stage in READ_CORPORA else {}
    return Identity(
        fingerprint(conf), read, corpora, code_commit(), source.receipt["artifact_hash"] if source else None
    )


def finish(
    stage: str,
    conf: StageConf,
    folder: Path,
    parents: Mapping[str, FinishedRun],
    facts: dict[str, Any],
    metrics: dict[str, Any],
    steps: int,
    seconds: float,
    precision: dict[str, str] | None = None,
    revisions: Mapping[str, str] | None = None,
) -> Receipt:
    """Writes the receipt beside the artifact: the last act of a stage. precision: what it computed in, and why.

    revisions: hub id -> commit of the weights that it read.
    """
    ancestors: dict[str, str] = {}
    for name, parent in parents.items():
        ancestors |= lineage(name, parent.receipt)
    made_from = {name: parent.receipt["artifact_hash"] for name, parent in parents.items()}
    identity = read_identity(folder) or identity_of(stage, conf, parents)
    receipt = Receipt(
        stage=stage,
        experiment=conf.experiment,
        conf=plain(conf),
        conf_hash=identity.conf_hash,
        seed=conf.seed,
        parents=made_from,
        ancestors=ancestors | made_from,
        corpora=identity.corpora,
        facts=facts,
        metrics=metrics,
        artifact_hash=hash_folder(folder / "artifact"),
        steps=steps,
        init_from=_init_from(conf, identity),
        seconds=round(seconds, 1),
        precision=precision,
        starts=starts.read(folder),
        revisions=dict(revisions or {}),
        versions={name: _version(name) for name in PACKAGES},
        commit=code_commit(),
    )
    write_whole(folder / FILE, json.dumps(_json_numbers(receipt), indent=1, allow_nan=False))
    return receipt


def _init_from(conf: StageConf, identity: Identity) -> dict[str, str | None] | None:
    if not isinstance(conf, TrainingStageConf) or identity.init_from is None:
        return None
    return {"run": conf.init_from, "artifact_hash": identity.init_from}


def _json_numbers(value: object) -> object:
    """The value with null for numbers that JSON does not have: NaN, which was not measured, and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json_numbers(one) for key, one in value.items()}
    return [_json_numbers(one) for one in value] if isinstance(value, list | tuple) else value


def lineage(stage: str, receipt: Receipt) -> dict[str, str]:
    """A run's ancestors and itself: stage -> hash of the artifact."""
    return {**receipt["ancestors"], stage: receipt["artifact_hash"]}


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        receipt = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}). Remove it and run its stage again.") from None
    if not isinstance(receipt, dict):
        raise UsageError(f"{path} is damaged (it holds no mapping). Remove it and run its stage again.")
    return receipt


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 40 ms, and only here

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
