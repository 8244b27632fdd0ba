"""What may be chosen: one dataclass a unit (conf/sections/), with types and units, and no default values (a value and its reason stand in YAML)."""

from typing import NamedTuple

from conf.sections.cluster import SlurmConf
from conf.sections.corpora import DiagnosticConf, FolderConf, PublishedConf, QuestionsConf
from conf.sections.language import (
    AskConf,
    EvaluateConf,
    FewShotConf,
    GenerateConf,
    GenerationConf,
    LanguageConf,
    RehearsalConf,
)
from conf.sections.sound import CacheConf, LatentsConf, ReconstructConf, TokenizerConf, VaeConf


class Unit(NamedTuple):
    schema: type
    folders: tuple[str, ...]  # of conf/, weakest first


UNITS = {
    "vae": Unit(VaeConf, ("", "vae")),
    "latents": Unit(LatentsConf, ("", "latents")),
    "tokenizer": Unit(TokenizerConf, ("", "tokenizer")),
    "tokenizer_mse": Unit(TokenizerConf, ("", "tokenizer", "tokenizer_mse")),
    "reconstruct": Unit(ReconstructConf, ("", "reconstruct")),
    "cache": Unit(CacheConf, ("", "cache")),
    "rehearsal": Unit(RehearsalConf, ("", "model", "rehearsal")),
    "caption": Unit(LanguageConf, ("", "model", "language", "caption")),
    "openaqa": Unit(LanguageConf, ("", "model", "language", "openaqa")),
    "fewshot": Unit(FewShotConf, ("", "model", "fewshot")),
    "generation": Unit(GenerationConf, ("", "generation")),
    "evaluate": Unit(EvaluateConf, ("", "evaluate")),
    "folder": Unit(FolderConf, ("corpora", "corpora/folder")),
    "published": Unit(PublishedConf, ("corpora", "corpora/published")),
    "questions": Unit(QuestionsConf, ("corpora", "corpora/questions")),
    "diagnostic": Unit(DiagnosticConf, ("corpora", "corpora/diagnostic")),
    "ask": Unit(AskConf, ("ask",)),
    "generate": Unit(GenerateConf, ("generate",)),
    "slurm": Unit(SlurmConf, ("slurm",)),
}

# Keys that change how long a run takes or where it lies, not what comes out of it: a receipt stays fresh when they change.
OPERATIONAL = (
    "experiment",
    "runs",
    "threads",
    "parents",
    "data.root",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "checkpoints",
    "limits",
    "sample_clips",
    "compile",
    "speed_repeats",
)

# Beside those, of the stages that write chunks (latents, cache): any number of processes writes the same bytes.
OPERATIONAL_OF_CHUNKS = ("trainer.devices", "trainer.num_nodes", "trainer.strategy")
