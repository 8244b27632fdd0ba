"""The LLM of a language stage, built from its configuration or loaded from its artifact. No Lightning here, which takes
seconds to import.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf import from_plain, plain
from conf.errors import UsageError
from conf.sections.language import LanguageConf, PromptsConf
from models.language.merging import merge_where_it_agrees
from models.language.model import FUSED, SoundLanguageModel
from models.language.vocabulary import Turn, Vocabulary
from stages.hub import artifacts, weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MERGED_ON = ("cuda",)  # where each of a step's kernels is a launch; on a CPU answers keep their last bits


class Built(NamedTuple):
    model: SoundLanguageModel
    vocabulary: Vocabulary
    base: str  # fingerprint of the LLM as it came


def build(conf: LanguageConf, facts: dict[str, Any], codebook: Tensor | None, verify: bool = True) -> Built:
    """conf: of a language stage; facts: of the tokenizer (codebook_size, levels); codebook (Q, K, d) starts the new
    rows, or None.

    verify: see `SoundLanguageModel`.
    """
    chosen = conf.model
    model, tokenizer = weights.load_language_model(chosen.source, chosen.revision, chosen.dtype, chosen.attention)
    vocabulary = vocabulary_of(tokenizer, facts, conf.prompts, plain(conf.timestamps))
    base = weights.fingerprint(model)
    language = SoundLanguageModel(
        model,
        vocabulary,
        **plain(conf.lora),
        activation_checkpointing=chosen.activation_checkpointing,
        initialization=conf.embedding_initialization,
        codebook=codebook,
        seed=conf.seed,
        verify=verify,
    )
    return Built(language, vocabulary, base)


def vocabulary_of(
    tokenizer: "PreTrainedTokenizerBase",
    facts: Mapping[str, Any],
    prompts: PromptsConf,
    timestamps: Mapping[str, Any],
    text_size: int | None = None,
) -> Vocabulary:
    """facts: of the sound tokenizer, or an export's manifest (codebook_size, levels, bitrate); text_size: see `Vocabulary`."""
    codes_per_second = facts["bitrate"] / math.log2(facts["codebook_size"])
    return Vocabulary(
        tokenizer, facts["codebook_size"], facts["levels"], prompts.format, prompts.system, prompts.template_options,
        text_size, **timestamps, codes_per_second=codes_per_second,
    )  # fmt: skip


def load(artifact: Path, trained: bool = True) -> tuple[SoundLanguageModel, Vocabulary]:
    """The model of a `caption` or `openaqa` artifact: base LLM from its source, adapter and new rows from the artifact.
    Strict.

    trained=False: as it was before its first step, but that new rows are the text rows' mean and noise.
    """
    config, state = artifacts.load(artifact)
    _check_has_base(artifact, config)
    conf = replace(configuration_of(config), embedding_initialization="random" if trained else "mean")
    if conf.model.attention in FUSED:  # for long batches: a token at a time flex would be compiled for each length anew
        conf = replace(conf, model=replace(conf.model, attention="sdpa"))
    model, vocabulary, base = build(conf, config["facts"], None, verify=False)
    check_base(artifact, config, base, conf)
    if trained:
        model.load_trainable_state(state)
    return model.eval(), vocabulary


def merge_for_generation(lm: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """On a GPU: LoRA and new rows go into the LLM's matrices where its logits after a question about a sound agree."""
    if lm.device.type not in MERGED_ON:
        return
    codes = [number % vocabulary.codebook_size for number in range(16 * len(vocabulary.levels))]
    prompt = vocabulary.render([Turn("user", [codes, "What do you hear?"])], generate=True).input_ids
    result = merge_where_it_agrees(lm, torch.tensor([prompt], device=lm.device))
    log.info(
        "LoRA is %smerged for generation: logits differ by %.2g, by %.2g without LoRA, and deviate by %.2g",
        "" if result.agrees else "not ", result.merged, result.adapter, result.deviation,
    )  # fmt: skip


def configuration_of(config: dict[str, Any]) -> LanguageConf:
    """The configuration of an artifact's config.json. caption and openaqa have one schema."""
    return from_plain("caption", config["conf"])


def check_base(owner: Path | str, saved: dict[str, Any], base: str, conf: LanguageConf) -> None:
    """saved: a config or a checkpoint, with the fingerprint `base` of the LLM that its adapter was trained on."""
    _check_has_base(owner, saved)
    if saved["base"] != base:
        raise UsageError(
            f"{owner} was trained on other weights than those that {conf.model.source} holds now: its adapter fits them "
            "alone. Put the old ones back (name their folder, or a model.revision), or train again with --restart"
        )


def _check_has_base(owner: Path | str, saved: dict[str, Any]) -> None:
    if "base" not in saved:
        raise UsageError(
            f"{owner} is of an earlier version, which did not write down its LLM's fingerprint. Train it again with --restart"
        )
