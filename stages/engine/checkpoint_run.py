"""A checkpoint as a finished run: what reads one can use a training before its end.

runs/<experiment>/<stage>.step-00000120/
  artifact/ receipt.json conf.yaml run.json   as the runner writes them at its end, of that step
  checkpoint.json                             the file that it was made of: another one is exported anew

Any stage takes it as a parent, as --parents.tokenizer=runs/main/tokenizer.step-00000120.
"""

import importlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conf import from_plain
from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.common import TrainingStageConf
from stages import STAGES
from stages.base import TrainingStage
from stages.runs import graph, identity, receipts
from stages.runs.progress import checkpoint_step, whole_checkpoints
from stages.runs.ranks import rank
from stages.runs.state import state_of, stored_conf

MADE_OF = "checkpoint.json"
PATIENCE = 600.0  # seconds that the other ranks wait for the first


def trains(stage: str) -> bool:
    return issubclass(UNITS[stage].schema, TrainingStageConf)


def run_at(folder: Path, wanted: str) -> Path:
    """The run folder that stands for a checkpoint of the run in `folder`, made by rank 0 where there is none.

    wanted: its step, or "last". Raises UsageError that lists the steps there are, and for a run whose parents changed.
    """
    checkpoint = _chosen(folder, wanted)
    target = folder.with_name(f"{folder.name}.{checkpoint.stem}")
    mark = {"size": checkpoint.stat().st_size, "modified_ns": checkpoint.stat().st_mtime_ns}
    deadline = time.monotonic() + PATIENCE
    while rank() and not _is_of(target, mark):
        if time.monotonic() > deadline:
            raise UsageError(f"{target} was not written within {PATIENCE:g} s by the first process")
        time.sleep(1)
    if not _is_of(target, mark):
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            _write(folder, checkpoint, part)
            (part / MADE_OF).write_text(json.dumps(mark))
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _chosen(folder: Path, wanted: str) -> Path:
    steps = {checkpoint_step(path): path for path in whole_checkpoints(folder)}
    if not steps:
        raise UsageError(f"--checkpoint={wanted}: {folder} has none yet; checkpoints.every_n_steps says when it saves")
    if wanted == "last":
        return steps[max(steps)]
    if not wanted.isdigit() or int(wanted) not in steps:
        available = ", ".join(map(str, sorted(steps)))
        raise UsageError(f"--checkpoint={wanted}: {folder} has none of that step. There are: {available}; or last")
    return steps[int(wanted)]


def _is_of(target: Path, mark: dict[str, int]) -> bool:
    try:
        return json.loads((target / MADE_OF).read_text()) == mark and receipts.read(target) is not None
    except OSError:
        return False


def _write(folder: Path, checkpoint: Path, part: Path) -> None:
    receipt = receipts.read(folder)
    stage, values = (receipt["stage"], receipt["conf"]) if receipt else (folder.name, stored_conf(folder))
    if stage not in STAGES or values is None or not trains(stage) or stage == "vae":
        raise UsageError(
            f"{folder} is no run of a tokenizer or of a language stage, whose checkpoints alone can be used"
        )
    conf, whole = from_plain(stage, values), folder.absolute()
    located = replace(conf, runs=str(whole.parents[1]), experiment=whole.parent.name)
    state = state_of(stage, located)
    if state.word == "stale":
        raise UsageError(f"{folder}: {state.detail}: its checkpoints belong to what it was begun with")
    parents = graph.parents(stage, located)
    name, _, attribute = STAGES[stage].target.partition(":")
    # all its weights are in the checkpoint: those that it started from may be gone
    module: Any = getattr(importlib.import_module(name), attribute)(
        stage, replace(conf, init_from=None), parents, folder
    )
    assert isinstance(module, TrainingStage)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"], strict=module.strict_loading)
    module.receipt_metrics.values = (saved.get("receipt_metrics") or {}).get("values", {})
    (part / "artifact").mkdir(parents=True)
    exported = module.export(part / "artifact")
    for file in ("conf.yaml", identity.FILE):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, part / file)
    receipts.finish(stage, conf, part, parents, *exported, checkpoint_step(checkpoint), 0.0)
