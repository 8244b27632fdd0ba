"""The stages in their order, as strings: `stage --help` and `stage list` import no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOMS = ("callbacks", "conf", "datamodules", "models")  # packages beside this one, with names that others use too
for room in ROOMS:
    spec = find_spec(room)
    origin = Path(spec.origin or ".") if spec else None
    if origin is None or origin.absolute().parent.parent != Path(__file__).absolute().parents[1]:
        raise ImportError(
            f"`import {room}` gives {origin or 'nothing'}, where Make Some Noise has a package of that name: another one stands "
            "before it on Python's path. Type `stage` in place of `python -m stages.cli.main`, or python -P, or call yours otherwise",
            name=room,
        )


class Stage(NamedTuple):
    target: str  # "module:Class", a LightningModule
    parents: tuple[str, ...]  # stages whose artifacts it reads
    optional: tuple[str, ...]  # read where they are available
    makes: str
    shown: tuple[str, ...] = ()  # of the optional ones, those that only its export reads: they may come at any time


BY_NAME = ("decoder_finetuning", "fewshot", "generation")  # stages that `run all` leaves to those who ask for them

STAGES = {
    "vae": Stage(
        "stages.vae:Vae", (), (), "a VAE of your own, from scratch or fine-tuned; read where codec.kind is trained"
    ),
    "latents": Stage("stages.latents:Latents", (), ("vae",), "the frozen VAE, and every recording as latents"),
    "tokenizer": Stage(
        "stages.tokenizer:Tokenizer", ("latents",), (), "causal encoder, codebook and flow-matching decoder"
    ),
    "tokenizer_mse": Stage(
        "stages.tokenizer:Tokenizer", ("latents",), (), "the same network trained with MSE: the baseline"
    ),
    "decoder_finetuning": Stage(
        "stages.decoder_finetuning:DecoderFinetuning",
        ("latents", "tokenizer"),
        (),
        "the tokenizer's decoder trained further, to one step; codes stay what they are; not part of `all`",
    ),
    "reconstruct": Stage(
        "stages.reconstruct:Reconstruct",
        ("latents", "tokenizer"),
        ("tokenizer_mse", "decoder_finetuning"),
        "the tokenizer's table: latent error, distances of the sound, probe, beside its references",
    ),
    "cache": Stage("stages.cache:Cache", ("tokenizer",), ("latents",), "every recording as codes, exactly once"),
    "rehearsal": Stage(
        "stages.rehearsal:Rehearsal",
        (),
        (),
        "texts of the LLM's own, so that it keeps its text; read where mixture.text asks",
    ),
    "caption": Stage(
        "stages.language:Language",
        ("tokenizer", "cache"),
        ("rehearsal",),
        "LoRA on captions, sound to text and text to sound",
    ),
    "openaqa": Stage(
        "stages.language:Language", ("tokenizer", "cache", "caption"), ("rehearsal",), "LoRA on questions and answers"
    ),
    "text_to_sound": Stage(
        "stages.language:Language",
        ("tokenizer", "cache", "openaqa"),
        ("rehearsal",),
        "LoRA that only writes sound, from openaqa's: a second adapter; read where `after` names it",
    ),
    "preference": Stage(
        "stages.preference:Preference",
        ("tokenizer", "cache", "openaqa"),
        ("rehearsal",),
        "LoRA on pairs of answers, from openaqa's: what is heard, not what is usual; read where `after` names it",
    ),
    "fewshot": Stage(
        "stages.fewshot:FewShot",
        ("tokenizer",),
        (),
        "a frozen LLM names sounds from a few examples in its prompt; not part of `all`",
    ),
    "generation": Stage(
        "stages.generation:Generation",
        ("tokenizer", "cache", "openaqa"),
        ("decoder_finetuning",),
        "sound from the test captions: FAD, KAD, class accuracy, diversity; not part of `all`",
    ),
    "evaluate": Stage(
        "stages.evaluate:Evaluate",
        ("tokenizer", "cache", "openaqa"),
        ("reconstruct", "fewshot", "generation", "decoder_finetuning"),
        "the table: answers, captions, reconstruction, each beside its baselines",
        shown=("reconstruct", "fewshot", "generation", "decoder_finetuning"),
    ),
}

# in place of STAGES["tokenizer"].target where its configuration names a `source`; it reads no other stage
PRETRAINED_TOKENIZER = "stages.pretrained_tokenizer:PretrainedTokenizerStage"
READ_LATENTS = ("latents", "tokenizer_mse", "reconstruct")  # stages that `run all` then has no use for

# where a configuration asks for them: stages.runs.graph.required
ON_DEMAND = ("vae", "rehearsal", "text_to_sound", "preference")
READ_SOUND = ("vae", "latents", "fewshot", "generation")  # the corpora' recordings, which are prepared before
READ_CORPORA = (
    *READ_SOUND,
    "cache",
    "reconstruct",
)  # what they make changes with the corpora: their sound, or its text
