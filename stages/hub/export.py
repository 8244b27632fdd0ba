"""A trained model as plain `transformers` or `peft` loads it, with its sound tokenizer and a model card.

    DIR/  merged    config.json model.safetensors tokenizer.json ...     AutoModelForCausalLM.from_pretrained(DIR)
          adapter   adapter_config.json adapter_model.safetensors ...    PeftModel.from_pretrained(base, DIR)
          sound_tokenizer/                                               SoundTokenizer.from_pretrained(DIR/sound_tokenizer)
          make_some_noise.json README.md

Both come from one peft model: LoRA, and the new rows as its `trainable_token_indices`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from callbacks.progress import ProgressLine
from conf import plain
from conf.errors import UsageError
from conf.sections.language import LoraAdapterConf, PromptsConf
from models.language.vocabulary import Turn, Vocabulary
from stages.hub import artifacts, card, weights
from stages.hub.language_model import check_base, written
from stages.hub.locate import EXPORT, SOUND_TOKENIZER, Place, check_target, read_export
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import receipts

LTU = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "### Instruction:\n{{ message['content'] }}\n\n### Response:\n"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


class Exported(NamedTuple):
    lm: PreTrainedModel
    vocabulary: Vocabulary
    prompts: PromptsConf


def export(place: Place, to: Path, adapter: bool, force: bool) -> None:
    """Writes the folder `to`, whole or not at all. Merged weights are rounded to the dtype that the LLM was trained in.

    Raises UsageError where `to` is there already, unless `force` and it is an export; for an export; and for a tokenizer
    that cannot hold the new ids.
    """
    if place.language is None or (place.language / EXPORT).is_file():
        raise UsageError(f"{place.language} is an export already; a run of openaqa or caption is exported")
    check_target(to, force)
    part = to.with_name(f".{to.name}.{os.getpid()}")
    line = ProgressLine("export", 3, "parts")
    line.start()
    try:
        part.mkdir(parents=True)
        _write(place, part, adapter)
        line.update(1)
        SoundTokenizer.from_pretrained(place.tokenizer).save_pretrained(part / SOUND_TOKENIZER)
        line.update(2)
        (part / "README.md").write_text(card.model_card(place.language, read_export(part)))
        for path in part.rglob("*.safetensors"):
            path.chmod((part / "README.md").stat().st_mode)  # safetensors writes for the owner alone
        if to.exists():
            shutil.rmtree(to)
        part.rename(to)
        line.update(3)
    finally:
        line.stop()
        shutil.rmtree(part, ignore_errors=True)


def load(folder: Path) -> Exported:
    """What `export` wrote, merged, in evaluation mode."""
    about = read_export(folder)
    prompts = PromptsConf(**about["prompts"])
    if about["adapter"]:
        base, _ = weights.load_language_model(about["source"], about["revision"], about["dtype"])
        base.resize_token_embeddings(about["size"], mean_resizing=False)
        lm = PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
        tokenizer = _tokenizer(folder)
    else:
        lm, tokenizer = weights.load_language_model(str(folder), None, about["dtype"])
    vocabulary = Vocabulary(
        tokenizer, about["codebook_size"], about["levels"], prompts.format, prompts.system,
        prompts.template_options, about["text_size"], **about["timestamps"],
    )  # fmt: skip
    return Exported(lm, vocabulary, prompts)


def sound_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    """Adds the new ids as tokens, each under its own id. Raises UsageError where the tokenizer would number them otherwise."""
    names = vocabulary.token_names()
    if there := [name for name in names if name in tokenizer.get_vocab()]:
        raise UsageError(f"the LLM's tokenizer has a token {there[0]} of its own, which means a sound here")
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    found = tokenizer.convert_tokens_to_ids(names)
    wrong = [pair for pair in zip(names, found, vocabulary.new_ids, strict=True) if pair[1] != pair[2]]
    if wrong:
        name, given, wanted = wrong[0]
        raise UsageError(
            f"the LLM's tokenizer would call {name} {given}, and the model was trained with {wanted}: its ids have holes "
            "that it fills first. Such a model is used with `stage ask` and `stage generate`, and not exported"
        )


def _write(place: Place, folder: Path, adapter: bool) -> None:
    assert place.language is not None
    config, state = artifacts.load(place.language / "artifact")
    conf, facts = written(config), config["facts"]
    source = conf.model
    lm, tokenizer = weights.load_language_model(source.source, source.revision, source.dtype)
    prompts = conf.prompts
    check_base(place.language, config, weights.fingerprint(lm), conf)
    vocabulary = Vocabulary(
        tokenizer,
        facts["codebook_size"],
        facts["levels"],
        prompts.format,
        prompts.system,
        prompts.template_options,
        **plain(conf.timestamps),
    )
    sound_tokens(tokenizer, vocabulary)
    if prompts.format == "ltu":
        tokenizer.chat_template = LTU
    _check_reading(tokenizer, vocabulary)
    peft = _as_peft(lm, vocabulary, conf.lora, state)
    settings = GenerationConfig(eos_token_id=vocabulary.stop_ids, pad_token_id=vocabulary.pad_id)
    if adapter:
        peft.peft_config["default"].base_model_name_or_path = source.source
        peft.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's; ours follows
        settings.save_pretrained(folder)
    else:
        merged = peft.merge_and_unload()
        merged.generation_config = settings
        merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {
        "format": 1,
        "adapter": adapter,
        "source": source.source,
        "revision": source.revision,
        "dtype": source.dtype,
        **{key: facts[key] for key in ("codebook_size", "levels", "token_rate", "bitrate")},
        "text_size": vocabulary.text_size,
        "size": vocabulary.size,
        "prompts": plain(prompts),
        "timestamps": plain(conf.timestamps),
        "tokenizer": receipts.read(place.tokenizer)["artifact_hash"],  # type: ignore[index]
    }
    (folder / EXPORT).write_text(json.dumps(about, indent=1))


def _as_peft(lm: PreTrainedModel, vocabulary: Vocabulary, lora: LoraAdapterConf, state: dict[str, Tensor]) -> PeftModel:
    """The plain LLM, resized, with the trained state in peft's own places."""
    lm.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    layers = [name.removesuffix(".new_rows").rpartition(".")[2] for name in state if name.endswith(".new_rows")]
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear",
        bias="none", task_type="CAUSAL_LM", trainable_token_indices={name: list(vocabulary.new_ids) for name in layers},
    )  # fmt: skip
    peft = get_peft_model(lm, config)
    renamed = {
        f"base_model.model.{name.replace('.new_rows', '.token_adapter.trainable_tokens_delta.default')}": tensor
        for name, tensor in state.items()
    }
    trainable = {name: parameter for name, parameter in peft.named_parameters() if parameter.requires_grad}
    assert trainable.keys() == renamed.keys(), sorted(trainable.keys() ^ renamed.keys())[:4]
    for name, parameter in trainable.items():
        parameter.data.copy_(renamed[name])
    return peft.eval()


def _check_reading(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    """Raises UsageError where a sound written as tokens of text is not read as the ids that the model was trained with."""
    codes = [0] * len(vocabulary.levels)
    names = vocabulary.token_names()
    sound = "".join(names[token - vocabulary.text_size] for token in vocabulary.sound_ids(codes))
    messages = [] if vocabulary.template.system is None else [{"role": "system", "content": vocabulary.template.system}]
    ltu = vocabulary.template.prompt_format == "ltu"
    messages = ([] if ltu else messages) + [{"role": "user", "content": f"{sound}\nWhat is it?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = tokenizer(text, add_special_tokens=ltu).input_ids
    wanted = vocabulary.render([Turn("user", [codes, "\nWhat is it?"])], generate=True).input_ids
    if found != wanted:
        raise UsageError(
            "the LLM's tokenizer reads text beside a sound otherwise than the model was trained with, so that an export would answer otherwise. "
            "Such a model is used with `stage ask` and `stage generate`"
        )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
