"""What may be chosen: one dataclass a unit, of conf/sections, without values: these stand in YAML with reasons."""

from dataclasses import Field, fields, is_dataclass
from typing import Any, NamedTuple

from conf.sections.cluster import SlurmConf
from conf.sections.codec import LatentsConf, VaeConf
from conf.sections.common import StageConf
from conf.sections.corpora import DiagnosticConf, FolderConf, FormatConf, PublishedConf, QuestionsConf
from conf.sections.evaluation import AskConf, EvaluateConf, FewShotConf, GenerateConf, GenerationConf, SoundPairsConf
from conf.sections.language import LanguageConf, RehearsalConf
from conf.sections.preference import PreferenceConf
from conf.sections.serving import ServeConf
from conf.sections.tokenizer import CacheConf, DecoderFinetuningConf, ReconstructConf, TokenizerConf


class Unit(NamedTuple):
    schema: type
    folders: tuple[str, ...]  # of conf/, weakest first


UNITS = {
    "vae": Unit(VaeConf, ("", "vae")),
    "latents": Unit(LatentsConf, ("", "latents")),
    "tokenizer": Unit(TokenizerConf, ("", "tokenizer")),
    "tokenizer_mse": Unit(TokenizerConf, ("", "tokenizer", "tokenizer_mse")),
    "decoder_finetuning": Unit(DecoderFinetuningConf, ("", "decoder_finetuning")),
    "reconstruct": Unit(ReconstructConf, ("", "reconstruct")),
    "cache": Unit(CacheConf, ("", "cache")),
    "rehearsal": Unit(RehearsalConf, ("", "model", "rehearsal")),
    "caption": Unit(LanguageConf, ("", "model", "language", "caption")),
    "openaqa": Unit(LanguageConf, ("", "model", "language", "openaqa")),
    "text_to_sound": Unit(LanguageConf, ("", "model", "language", "text_to_sound")),
    "preference": Unit(PreferenceConf, ("", "model", "language", "preference")),
    "fewshot": Unit(FewShotConf, ("", "model", "fewshot")),
    "generation": Unit(GenerationConf, ("", "generation")),
    "evaluate": Unit(EvaluateConf, ("", "evaluate")),
    "folder": Unit(FolderConf, ("corpora", "corpora/folder")),
    "format": Unit(FormatConf, ("corpora", "corpora/format")),
    "published": Unit(PublishedConf, ("corpora", "corpora/published")),
    "questions": Unit(QuestionsConf, ("corpora", "corpora/questions")),
    "diagnostic": Unit(DiagnosticConf, ("corpora", "corpora/diagnostic")),
    "ask": Unit(AskConf, ("ask",)),
    "generate": Unit(GenerateConf, ("generate",)),
    "sound_pairs": Unit(SoundPairsConf, ("sound_pairs",)),
    "serve": Unit(ServeConf, ("serve",)),
    "slurm": Unit(SlurmConf, ("slurm",)),
}

# Keys that change how long a run takes or where it lies, not its results: a finished run stays valid when they change.
OPERATIONAL = (
    "experiment",
    "runs",
    "threads",
    "parents",
    "init_from",
    "data.root",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "checkpoints",
    "limits",
    "sample_clips",
    "compile",
    "model.compile",
    "speed_repeats",
)

# Beside those, for the stages that write chunks (latents, cache): any number of processes writes the same bytes.
OPERATIONAL_OF_CHUNKS = ("trainer.devices", "trainer.num_nodes", "trainer.strategy")


def stages() -> list[str]:
    return [name for name, unit in UNITS.items() if issubclass(unit.schema, StageConf)]


def keys(unit: str) -> dict[str, Field[Any]]:
    """ "trainer.devices" -> its field; sections too, each before what is in it."""
    return keys_of(UNITS[unit].schema)


def keys_of(schema: Any, prefix: str = "") -> dict[str, Field[Any]]:
    inside: dict[str, Field[Any]] = {}
    for field in fields(schema):
        inside[f"{prefix}{field.name}"] = field
        if is_dataclass(field.type):
            inside |= keys_of(field.type, f"{prefix}{field.name}.")
    return inside
