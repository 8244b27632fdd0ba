"""Finds the trained model that a command is about: a run of a language stage, or a folder of `stage export`.

Reads receipts and imports no torch, so that what is missing is refused at once; trained_model.py loads it.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from conf import from_plain
from conf.errors import UsageError
from conf.suggest import allowed
from stages.hub import export_format, hub_repository
from stages.runs import receipts
from stages.runs.state import run_folder

log = logging.getLogger(__name__)
LANGUAGE = ("openaqa", "caption")  # the better one first
WRITERS = ("text_to_sound", *LANGUAGE)
EVERY = (*WRITERS, "preference")


class ModelFolders(NamedTuple):
    language: Path | None  # run folder of a language stage, or an export; None where only a tokenizer is trained
    tokenizer: Path  # what SoundTokenizer.from_pretrained reads
    ear: Path | None = None  # run folder of openaqa, from which text_to_sound goes on: it hears what this one writes


def find(
    runs: str,
    default: str,
    experiment: str | None,
    model: str | None,
    language: bool = True,
    writes: bool = False,
    after: str | None = None,
) -> ModelFolders:
    """The folders of a model: `model`, a folder or the hub id of an export, or else a finished experiment of `runs`.

    Without either: the experiment `default`, or the only finished one, which is printed. language: an LLM is needed,
    not only a sound tokenizer; writes: one that writes sound; after: the stage whose LLM it is, None for the best. Raises
    UsageError with the command to type.
    """
    languages = _languages(writes, after)
    if model is not None:
        if experiment is not None:
            raise UsageError("--experiment and --model both name a model; give one of them")
        folder = Path(model)
        if not folder.exists() and hub_repository.is_hub_id(model):
            folder = hub_repository.fetch(model)
        return _of_folder(folder, language, languages)
    stages = languages if language else (*languages, "tokenizer")
    folder = Path(runs) / _experiment(runs, default, experiment, stages)
    stage = next(stage for stage in stages if receipts.read(folder / stage))
    return _of_run(folder / stage)


def find_training(
    runs: str,
    default: str,
    experiment: str | None,
    model: str | None,
    language: bool = True,
    writes: bool = False,
    after: str | None = None,
) -> Path:
    """The run folder with checkpoints, finished or not, that `find` would take if it were finished; without `language`, a
    tokenizer's.
    """
    stages = _languages(writes, after) if language else ("tokenizer",)
    wanted = " or ".join(stages)
    if model is not None and experiment is not None:
        raise UsageError("--experiment and --model both name a model; give one of them")
    if model is not None:
        folders = [Path(model), *(Path(model) / stage for stage in stages)]
        where, known = model, []
    else:
        paths = [path for stage in stages for path in Path(runs).glob(f"*/{stage}/checkpoints/step-*.ckpt")]
        known = sorted({path.parents[2].name for path in paths})
        names = [experiment] if experiment else [default] if default in known else known
        if len(names) > 1:
            raise UsageError(
                f"several experiments in {runs}/ have checkpoints: {', '.join(names)}. Type --experiment={names[0]}"
            )
        folders = [Path(runs) / name / stage for name in names for stage in stages]
        where = f"{runs}/{experiment}" if experiment else f"{runs}/"
    for folder in folders:
        if any(folder.glob("checkpoints/step-*.ckpt")):
            return folder
    available = f". Experiments that have one: {', '.join(known)}" if known else ""
    raise UsageError(f"--checkpoint: no {wanted} with a checkpoint in {where}{available}")


def find_run(runs: str, default: str, experiment: str | None, stage: str) -> Path:
    """The folder of a finished run of a stage, of an experiment that is chosen as by `find`."""
    return Path(runs) / _experiment(runs, default, experiment, (stage,)) / stage


def _languages(writes: bool, after: str | None) -> tuple[str, ...]:
    if after is None:
        return WRITERS if writes else LANGUAGE
    if after not in EVERY:
        raise UsageError(f"--after={after}: {allowed(after, EVERY)}")
    return (after,)


def _experiment(runs: str, default: str, experiment: str | None, stages: Sequence[str]) -> str:
    trained = sorted({path.parents[1].name for stage in stages for path in Path(runs).glob(f"*/{stage}/receipt.json")})
    wanted = " or ".join(stages)
    if experiment is not None:
        if experiment in trained:
            return experiment
        raise UsageError(
            f"no finished {wanted} in {Path(runs) / experiment}. Make it:   stage run all --experiment={experiment}\n"
            f"Finished: {', '.join(trained) or 'none'}"
        )
    if default in trained:
        return default
    if not trained:
        raise UsageError(f"nothing is trained in {runs}/: no finished {wanted}. Train:   stage run all --preset demo")
    if len(trained) > 1:
        raise UsageError(
            f"several experiments are trained in {runs}/: {', '.join(trained)}. Type --experiment={trained[0]}"
        )
    log.info("experiment %s, the only one in %s/ that is trained", trained[0], runs)
    return trained[0]


def _of_folder(folder: Path, language: bool, stages: Sequence[str]) -> ModelFolders:
    if export_format.is_export(folder):
        return ModelFolders(folder, folder / export_format.SOUND_TOKENIZER)
    receipt = receipts.read(folder)
    if receipt is not None and receipt["stage"] in EVERY:
        return _of_run(folder)
    if not language and (receipt is not None or (folder / "sound_tokenizer.json").is_file()):
        return ModelFolders(None, folder)  # SoundTokenizer refuses the run of another stage
    for stage in stages:
        if receipts.read(folder / stage):
            return _of_run(folder / stage)
    allowed = f"a folder of `stage export --to DIR`, or a run folder of {' or '.join(EVERY)}, as runs/demo/openaqa"
    what = f"holds a run of {receipt['stage']}" if receipt else "holds no model" if folder.is_dir() else "is no folder"
    raise UsageError(f"--model {folder} {what}. Allowed: {allowed}{'' if language else ' or tokenizer'}")


def _of_run(folder: Path) -> ModelFolders:
    """Raises UsageError where a run that it was trained with, and that is needed with it, is missing or another one."""
    receipt = receipts.read(folder)
    assert receipt is not None
    if not (folder / "artifact").is_dir():
        raise UsageError(
            f"{folder} has a receipt and no artifact/. Make it again:   stage run {receipt['stage']} --restart"
        )
    if receipt["stage"] not in EVERY:
        return ModelFolders(None, folder)
    absolute = Path(os.path.abspath(folder))  # which has parents where `folder` is "openaqa", "." or "../openaqa"
    runs = folder.parents[1] if len(folder.parents) > 2 and ".." not in folder.parts else absolute.parents[1]
    conf = from_plain(receipt["stage"], receipt["conf"])
    conf = replace(conf, runs=str(runs), experiment=absolute.parent.name)
    names = ("tokenizer", "openaqa") if receipt["stage"] == "text_to_sound" else ("tokenizer",)
    for name in names:
        actual, wanted, parent = receipts.read(run_folder(conf, name)), receipt["parents"][name], run_folder(conf, name)
        if actual is None or actual["artifact_hash"] != wanted:
            state = "is not finished" if actual is None else f"is another one ({actual['artifact_hash'][:12]})"
            raise UsageError(
                f"{folder} was trained with the {name} {wanted[:12]}, and {parent} {state}. Train again:   "
                f"stage run all --experiment={absolute.parent.name}"
            )
    return ModelFolders(folder, *(run_folder(conf, name) for name in names))
