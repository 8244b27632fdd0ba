"""What may be chosen: one dataclass a unit (conf/sections/), with types and units, and no default values (a value and its reason stand in YAML)."""

from typing import NamedTuple

from conf.sections.corpora import DiagnosticConf, FolderConf, PublishedConf, QuestionsConf
from conf.sections.language import AskConf, EvaluateConf, FewShotConf, GenerateConf, LanguageConf
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
    "caption": Unit(LanguageConf, ("", "language", "caption")),
    "openaqa": Unit(LanguageConf, ("", "language", "openaqa")),
    "fewshot": Unit(FewShotConf, ("", "fewshot")),
    "evaluate": Unit(EvaluateConf, ("", "evaluate")),
    "folder": Unit(FolderConf, ("corpora", "corpora/folder")),
    "published": Unit(PublishedConf, ("corpora", "corpora/published")),
    "questions": Unit(QuestionsConf, ("corpora", "corpora/questions")),
    "diagnostic": Unit(DiagnosticConf, ("corpora", "corpora/diagnostic")),
    "ask": Unit(AskConf, ("ask",)),
    "generate": Unit(GenerateConf, ("generate",)),
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
    "sample_clips",
    "compile",
)
