"""Which artifact feeds which stage, and whether artifacts go together. No torch here.

A receipt has the hashes of the artifact, of its parents and of their parents. A parent that changed makes its children
stale, and two parents that come from different tokenizers are refused by name.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf
from conf.sections.evaluation import EvaluateConf, FewShotConf, GenerationConf, language_stage
from conf.sections.language import LanguageConf
from conf.sections.tokenizer import TokenizerConf
from stages import ON_DEMAND, PRETRAINED_TOKENIZER, READ_LATENTS, STAGES
from stages.runs import receipts
from stages.runs.receipts import FinishedRun, lineage
from stages.runs.state import run_folder, state_of

# ask a finished LLM about the recordings of any cache of its tokenizer: contamination.py says of which not
ASKERS = ("evaluate", "generation")
TypedWords = Callable[[str], list[str]]  # stage -> the words of the command line that configure it


def target(stage: str, conf: StageConf) -> str:
    """ "module:Class" that runs a stage."""
    return PRETRAINED_TOKENIZER if _has_source(conf) else STAGES[stage].target


def required(stage: str, conf: StageConf) -> tuple[str, ...]:
    """The stages whose artifacts it must read.

    A tokenizer with a `source` reads none.
    `vae` is a parent of latents where codec.kind is trained; `rehearsal` one of a language stage that mixes in texts and
    names no files of them. With init_from, a language stage reads no other one. `evaluate` and `generation` read the LLM of
    the stage that `after` names, `fewshot` of `llm`; `evaluate` that of `examples.after` too, for the sounds of its page.
    """
    if _has_source(conf):
        return ()
    on_demand: tuple[str, ...] = ()
    if isinstance(conf, LatentsConf) and conf.codec.kind == "trained":
        on_demand = ("vae",)
    if isinstance(conf, LanguageConf) and not conf.text.files:
        mixtures = [conf.mixture, *(entry.mixture for entry in conf.curriculum)]
        on_demand = ("rehearsal",) if any(mixture.text for mixture in mixtures) else ()
    names = (*on_demand, *STAGES[stage].parents)
    if isinstance(conf, LanguageConf) and conf.init_from:
        return tuple(name for name in names if name not in ("caption", "openaqa"))
    if isinstance(conf, FewShotConf) and conf.llm != "frozen":
        return (*names, conf.llm)
    if isinstance(conf, EvaluateConf | GenerationConf):
        names = tuple(language_stage(conf.after) if name == "openaqa" else name for name in names)
    if isinstance(conf, GenerationConf) and conf.chooses_by_openaqa:
        names = (*names, "openaqa")
    if isinstance(conf, EvaluateConf) and conf.examples.after is not None:
        names = (*names, conf.examples.after)
    return tuple(dict.fromkeys(names))


def optional(stage: str) -> tuple[str, ...]:
    """The stages whose artifacts it reads where they are available."""
    return tuple(name for name in STAGES[stage].optional if name not in ON_DEMAND)


def unused(confs: dict[str, StageConf]) -> set[str]:
    """The stages on demand that none of these configurations asks for, and those of latents where no stage needs any."""
    without_latents = set(READ_LATENTS) if "tokenizer" in confs and _has_source(confs["tokenizer"]) else set()
    read = [stage for stage in STAGES if stage in confs and stage not in without_latents]
    asked = {name for stage in read for name in required(stage, confs[stage])}
    return (set(ON_DEMAND) - asked) | without_latents


def _has_source(conf: StageConf) -> bool:
    return isinstance(conf, TokenizerConf) and conf.source is not None


def parents(stage: str, conf: StageConf, typed: TypedWords | None = None) -> dict[str, FinishedRun]:
    """The finished runs that a stage reads, by stage. typed: for the commands that errors propose.

    Raises UsageError for one that is missing (with the command that makes it), for one of another stage, and for two
    that come from different runs of one ancestor.
    """
    typed = typed or (lambda _: [f"--experiment={conf.experiment}"])
    finished: dict[str, FinishedRun] = {}
    needed = required(stage, conf)
    for name in (*needed, *optional(stage)):
        folder = run_folder(conf, name)
        receipt = receipts.read(folder)
        if receipt is None:
            if name not in needed and name not in conf.parents:
                continue
            raise UsageError(_missing(stage, name, conf, typed))
        if STAGES[receipt["stage"]].target != STAGES[name].target:
            raise UsageError(
                f"{folder} holds a run of {receipt['stage']}, and {stage} needs one of {name}: "
                f"--parents.{name}=EXPERIMENT"
            )
        if not (folder / "artifact").is_dir():
            raise UsageError(
                f"{folder} has a receipt and no artifact/. Make it again:   {_command(name, typed, '--restart')}"
            )
        finished[name] = FinishedRun(folder, receipt)
    _check_ancestors(stage, finished, conf, typed)
    return finished


def experiments(conf: StageConf, stage: str, artifact_hash: str | None = None) -> list[str]:
    """The experiments that finished the stage; with `artifact_hash`, to that artifact."""
    names = []
    for path in sorted(Path(conf.runs).glob(f"*/{stage}/{receipts.FILE}")):
        receipt = receipts.read(path.parent)
        if receipt is not None and artifact_hash in (None, receipt["artifact_hash"]):
            names.append(path.parents[1].name)
    return names


def _missing(stage: str, name: str, conf: StageConf, typed: TypedWords) -> str:
    folder, detail = run_folder(conf, name), state_of(name, conf).detail
    if name not in conf.parents:
        return (
            f"{stage} needs {name}, and {folder} has no finished one ({detail}).\n"
            f"Make it:   {_command(name, typed)}\n"
            f"or use another experiment's:   --parents.{name}=EXPERIMENT"
        )
    available = ", ".join(experiments(conf, name))
    return f"{stage} needs {name}, and {folder} has no finished run ({detail}): is {conf.parents[name]} misspelt? " + (
        f"There are: {available}" if available else f"No experiment in {conf.runs}/ has a finished {name}"
    )


def _command(stage: str, typed: TypedWords, *flags: str) -> str:
    return shlex.join(["stage", "run", stage, *flags, *typed(stage)])


def _check_ancestors(stage: str, finished: dict[str, FinishedRun], conf: StageConf, typed: TypedWords) -> None:
    """Raises UsageError where two parents come from different runs of one ancestor."""
    seen: dict[str, tuple[str, str]] = {}
    for name, parent in finished.items():
        is_asked = stage in ASKERS and issubclass(UNITS[name].schema, LanguageConf)
        for ancestor, digest in lineage(name, parent.receipt).items():
            if is_asked and ancestor == "cache":
                continue
            earlier, other = seen.setdefault(ancestor, (digest, name))
            if earlier == digest:
                continue
            cures = [cure for follow in (name, other) if (cure := _cure(follow, finished, conf))]
            raise UsageError(
                f"{stage} cannot join {other} and {name}: they come from different runs of {ancestor!r} "
                f"({earlier[:12]} and {digest[:12]}).\n"
                f"Make {name} again from the one you want:   {_command(name, typed, '--restart')}"
                + "".join(f"\nor take what goes together:   {' '.join(cure)}" for cure in cures)
            )


def _cure(follow: str, finished: dict[str, FinishedRun], conf: StageConf) -> list[str]:
    """Keys that replace each parent that `follow` was not made with by the one it was; [] where no experiment has all."""
    wanted, keys = lineage(follow, finished[follow].receipt), []
    for name, parent in finished.items():
        if name in wanted and parent.receipt["artifact_hash"] != wanted[name]:
            homes = experiments(conf, name, wanted[name])
            if not homes:
                return []
            keys.append(f"--parents.{name}={homes[0]}")
        elif name not in wanted and any(
            wanted.get(ancestor, digest) != digest for ancestor, digest in lineage(name, parent.receipt).items()
        ):
            return []
    return keys
