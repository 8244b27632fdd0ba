"""`init_from`: the finished run whose weights a training starts from, with a new optimizer. No torch here.

It is no parent: what it was trained on may differ, and its facts are inherited by nobody. But it decides the result, so
its hash is part of what a run is.
"""

from pathlib import Path

from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.common import StageConf, TrainingStageConf
from stages.runs import receipts
from stages.runs.receipts import FinishedRun


def source_of(stage: str, conf: StageConf) -> FinishedRun | None:
    """The run that `init_from` names; None where it names none.

    Raises UsageError for one that is not finished, for one of a stage of another kind, and for the run itself.
    """
    folder = _folder(stage, conf)
    if folder is None or not isinstance(conf, TrainingStageConf):
        return None
    if folder.absolute() == (Path(conf.runs) / conf.experiment / stage).absolute():
        raise UsageError(
            f"{stage}: init_from={conf.init_from} is this run itself, which would be moved aside: "
            "give the new one another --experiment=NAME"
        )
    receipt = receipts.read(folder)
    if receipt is None or not (folder / "artifact").is_dir():
        finished = sorted(path.parents[1].name for path in Path(conf.runs).glob(f"*/{stage}/{receipts.FILE}"))
        raise UsageError(
            f"{stage}: init_from={conf.init_from}: {folder} has no finished run. An experiment that has a finished {stage}, or "
            f"a run folder, is allowed. There are: {', '.join(finished) or 'none'}"
        )
    schema = UNITS[receipt["stage"]].schema
    if not (isinstance(conf, schema) or issubclass(schema, type(conf))):  # language stages are of one kind
        raise UsageError(f"{stage}: init_from={conf.init_from}: {folder} holds a run of {receipt['stage']}")
    if pretrained := receipt["conf"].get("source"):
        raise UsageError(f"{stage}: init_from={conf.init_from}: {folder} holds {pretrained}, and no training")
    return FinishedRun(folder, receipt)


def changed_source(stage: str, conf: StageConf, begun: str | None) -> list[str]:
    """What to say where another run than that of the hash `begun` would be started from; [] where it is the same.

    One that is missing has not changed.
    """
    folder = _folder(stage, conf)
    receipt = receipts.read(folder) if folder else None
    if folder and receipt is None:
        return []
    now = receipt["artifact_hash"] if receipt else None
    before, after = ((digest or "none")[:12] for digest in (begun, now))
    return [f"the run of init_from: {before} -> {after}"] if begun != now else []


def _folder(stage: str, conf: StageConf) -> Path | None:
    if not isinstance(conf, TrainingStageConf) or conf.init_from is None:
        return None
    path = Path(conf.init_from)
    return path if (path / receipts.FILE).is_file() else Path(conf.runs) / conf.init_from / stage
