"""The LLM of a language stage, made or loaded. Beside language.py and not in it: answering needs no Lightning, which takes seconds to import."""

from pathlib import Path
from typing import Any

from torch import Tensor

from models.language import SoundLanguageModel
from models.vocabulary import Vocabulary
from stages import artifacts, assets


def build(
    conf: dict[str, Any], facts: dict[str, Any], codebook: Tensor | None
) -> tuple[SoundLanguageModel, Vocabulary]:
    """conf: of a language stage; facts: of the tokenizer (codebook_size, levels); codebook (Q, K, d) starts the new rows, or None."""
    model, tokenizer = assets.load_language_model(
        conf["model"]["source"], conf["model"]["revision"], conf["model"]["dtype"]
    )
    prompts = conf["prompts"]
    vocabulary = Vocabulary(
        tokenizer,
        facts["codebook_size"],
        facts["levels"],
        prompt_format=prompts["format"],
        system=prompts["system"],
    )
    language = SoundLanguageModel(
        model,
        vocabulary,
        **conf["lora"],
        initialization=conf["embedding_initialization"],
        codebook=codebook,
        seed=conf["seed"],
    )
    return language, vocabulary


def load(artifact: Path, trained: bool = True) -> tuple[SoundLanguageModel, Vocabulary]:
    """The model of a `caption` or `openaqa` artifact: base LLM from its source, adapter and new rows from the artifact. Strict.

    trained=False: as it was before its first step, but that new rows are the text rows' mean and noise.
    """
    config, state = artifacts.load(artifact)
    model, vocabulary = build(config["conf"] | {"embedding_initialization": "mean"}, config["facts"], None)
    if trained:
        model.load_trainable_state(state)
    return model.eval(), vocabulary
