"""The trained model that a person means: a run of `openaqa` or `caption`, or a folder of `stage export`.

`find` reads receipts and imports no torch, so that what is not there is refused at once; `load` does.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conf import from_plain
from conf.errors import UsageError
from conf.sections.language import PromptsConf
from stages.runs import receipts
from stages.runs.state import run_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from models.language.vocabulary import Vocabulary

LANGUAGE = ("openaqa", "caption")  # the better one first
EXPORT = "make_some_noise.json"  # what of an export transformers does not hold
SOUND_TOKENIZER = "sound_tokenizer"  # its folder in an export


class Place(NamedTuple):
    language: Path | None  # run folder of a language stage, or an export; None where only a tokenizer is trained
    tokenizer: Path  # what SoundTokenizer.from_pretrained reads


class Trained(NamedTuple):
    lm: "PreTrainedModel"  # its logits are over the whole vocabulary, sounds included
    vocabulary: "Vocabulary"
    prompts: PromptsConf  # section `prompts` of the configuration that it was trained with
    context: int | None  # positions; None where the LLM names no limit


def find(runs: str, default: str, experiment: str | None, model: str | None, language: bool = True) -> Place:
    """Where the model lies: `model`, a folder, or else a finished experiment of `runs`.

    Without either: the experiment `default`, or the only finished one, which is said. language: an LLM is needed, not
    only a sound tokenizer. Raises UsageError with the command to type.
    """
    if model is not None:
        if experiment is not None:
            raise UsageError("--experiment and --model both say which model is meant; give one of them")
        return _of_folder(Path(model), language)
    stages = LANGUAGE if language else (*LANGUAGE, "tokenizer")
    folder = Path(runs) / _experiment(runs, default, experiment, stages)
    found = next(stage for stage in stages if receipts.read(folder / stage))
    return _of_run(folder / found)


def device(name: str | None) -> "torch.device":
    """None: the first GPU that CUDA (or ROCm) sees, else the CPU. Raises UsageError for one that is not there."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name in (*there, "cpu") or (name == "cuda" and "cuda:0" in there):
        return torch.device(name)
    raise UsageError(f"--device {name}: there is {', '.join((*there, 'cpu'))}")


def load(place: Place, device: "torch.device") -> Trained:
    """Raises UsageError where the folder holds no model that can be used."""
    assert place.language is not None
    if (place.language / EXPORT).is_file():
        from stages.hub import export

        lm, vocabulary, prompts = export.load(place.language)
    else:
        from stages.hub import language_model

        model, vocabulary = language_model.load(place.language / "artifact")
        receipt = receipts.read(place.language)
        assert receipt is not None
        lm, prompts = model.lm, from_plain(receipt["stage"], receipt["conf"]).prompts
    return Trained(lm.to(device), vocabulary, prompts, context(lm))


def context(lm: "PreTrainedModel") -> int | None:
    """Positions that an LLM takes; None where it names no limit."""
    return getattr(lm.config.get_text_config(), "max_position_embeddings", None)


def _experiment(runs: str, default: str, experiment: str | None, stages: Sequence[str]) -> str:
    there = sorted({path.parents[1].name for stage in stages for path in Path(runs).glob(f"*/{stage}/receipt.json")})
    wanted = " or ".join(stages)
    if experiment is not None:
        if experiment in there:
            return experiment
        raise UsageError(
            f"no finished {wanted} in {Path(runs) / experiment}. Make it:   stage run all --experiment={experiment}\n"
            f"There are: {', '.join(there) or 'none'}"
        )
    if default in there:
        return default
    if not there:
        raise UsageError(f"nothing is trained in {runs}/: no finished {wanted}. Train:   stage run all --preset demo")
    if len(there) > 1:
        raise UsageError(
            f"several experiments are trained in {runs}/: {', '.join(there)}. Type --experiment={there[0]}"
        )
    print(f"experiment {there[0]}, the only one in {runs}/ that is trained", file=sys.stderr)
    return there[0]


def _of_folder(folder: Path, language: bool) -> Place:
    if (folder / EXPORT).is_file():
        return Place(folder, folder / SOUND_TOKENIZER)
    receipt = receipts.read(folder)
    if receipt is not None and receipt["stage"] in LANGUAGE:
        return _of_run(folder)
    if not language and (receipt is not None or (folder / "sound_tokenizer.json").is_file()):
        return Place(None, folder)  # SoundTokenizer refuses the run of another stage
    for stage in LANGUAGE:
        if receipts.read(folder / stage):
            return _of_run(folder / stage)
    allowed = f"a folder of `stage export --to DIR`, or a run folder of {' or '.join(LANGUAGE)}, as runs/demo/openaqa"
    what = f"holds a run of {receipt['stage']}" if receipt else "holds no model" if folder.is_dir() else "is no folder"
    raise UsageError(f"--model {folder} {what}. Allowed: {allowed}{'' if language else ' or tokenizer'}")


def _of_run(folder: Path) -> Place:
    """Raises UsageError where the tokenizer that the run was trained with is not there any more."""
    receipt = receipts.read(folder)
    assert receipt is not None
    if not (folder / "artifact").is_dir():
        raise UsageError(
            f"{folder} has a receipt and no artifact/. Make it again:   stage run {receipt['stage']} --restart"
        )
    if receipt["stage"] not in LANGUAGE:
        return Place(None, folder)
    home = Path(os.path.abspath(folder))  # which has parents where `folder` is "openaqa", "." or "../openaqa"
    here = folder.parents[1] if len(folder.parents) > 2 and ".." not in folder.parts else home.parents[1]
    conf = from_plain(receipt["stage"], receipt["conf"])
    place = run_folder(replace(conf, runs=str(here), experiment=home.parent.name), "tokenizer")
    found, wanted = receipts.read(place), receipt["parents"]["tokenizer"]
    if found is None or found["artifact_hash"] != wanted:
        state = "is not finished" if found is None else f"is another one ({found['artifact_hash'][:12]})"
        raise UsageError(
            f"{folder} was trained with the tokenizer {wanted[:12]}, and {place} {state}. Train again:   "
            f"stage run all --experiment={home.parent.name}"
        )
    return Place(folder, place)


def check_target(to: Path, force: bool) -> None:
    """Raises UsageError where an export may not go."""
    if to.exists() and not (force and (to / EXPORT).is_file()):
        raise UsageError(f"--to {to} is there already; choose another folder, or --force to replace an earlier export")


def read_export(folder: Path) -> dict[str, Any]:
    """Raises UsageError for one of another format."""
    found = json.loads((folder / EXPORT).read_text())
    if found.get("format") != 1:
        raise UsageError(f"{folder / EXPORT} has format {found.get('format')}; 1 is known. Export again")
    return found
