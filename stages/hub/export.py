"""A trained model as plain `transformers` or `peft` loads it, with its sound tokenizer and a model card.

The files are those of export_format.py. Both kinds come from one peft model: LoRA, and the new rows as its
`trainable_token_indices`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from callbacks.progress import ProgressLine
from conf import plain
from conf.errors import UsageError
from conf.sections.language import LoraAdapterConf
from models.language.vocabulary import Vocabulary
from stages.hub import artifacts, export_format, weights
from stages.hub.find_model import ModelFolders
from stages.hub.language_model import check_base, configuration_of, vocabulary_of
from stages.hub.model_card import model_card
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.sound_tokens_as_text import LTU_TEMPLATE, add_sound_tokens, check_reading
from stages.runs import receipts


def export(model: ModelFolders, to: Path, adapter: bool, force: bool) -> None:
    """Writes the folder `to`, whole or not at all. Merged weights are rounded to the dtype that the LLM was trained in.

    Raises UsageError where `to` exists already, unless `force` and it is an export; for an export; and for a tokenizer
    that cannot hold the new ids.
    """
    if model.language is None or export_format.is_export(model.language):
        raise UsageError(f"{model.language} is an export already; a run of openaqa or caption is exported")
    export_format.check_target(to, force)
    part = to.with_name(f".{to.name}.{os.getpid()}")
    line = ProgressLine("export", 3, "parts")
    line.start()
    try:
        part.mkdir(parents=True)
        _write(model, part, adapter)
        line.update(1)
        SoundTokenizer.from_pretrained(model.tokenizer).save_pretrained(part / export_format.SOUND_TOKENIZER)
        line.update(2)
        (part / "README.md").write_text(model_card(model.language, export_format.read_manifest(part)))
        for path in part.rglob("*.safetensors"):
            path.chmod((part / "README.md").stat().st_mode)  # safetensors writes for the owner alone
        if to.exists():
            shutil.rmtree(to)
        part.rename(to)
        line.update(3)
    finally:
        line.stop()
        shutil.rmtree(part, ignore_errors=True)


def _write(model: ModelFolders, folder: Path, adapter: bool) -> None:
    assert model.language is not None
    config, state = artifacts.load(model.language / "artifact")
    conf, facts = configuration_of(config), config["facts"]
    source = conf.model
    lm, tokenizer = weights.load_language_model(source.source, source.revision, source.dtype)
    prompts = conf.prompts
    check_base(model.language, config, weights.fingerprint(lm), conf)
    if conf.timestamps.every is not None:
        raise UsageError(
            f"{model.language} was trained with timestamps.every={conf.timestamps.every}: times stand among the codes of a sound, and whoever "
            "loads an export writes none. Such a model is used with `stage ask`"
        )
    vocabulary = vocabulary_of(tokenizer, facts, prompts, plain(conf.timestamps))
    add_sound_tokens(tokenizer, vocabulary)
    if prompts.format == "ltu":
        tokenizer.chat_template = LTU_TEMPLATE
    check_reading(tokenizer, vocabulary)
    peft = _as_peft(lm, vocabulary, conf.lora, state)
    settings = GenerationConfig(eos_token_id=vocabulary.stop_ids, pad_token_id=vocabulary.pad_id)
    if adapter:
        peft.peft_config["default"].base_model_name_or_path = source.source
        peft.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # peft's; ours follows
        settings.save_pretrained(folder)
    else:
        merged = peft.merge_and_unload()
        merged.generation_config = settings
        merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer_receipt = receipts.read(model.tokenizer)
    assert tokenizer_receipt is not None
    manifest = {
        "format": export_format.VERSION,
        "adapter": adapter,
        "source": source.source,
        "revision": source.revision,
        "dtype": source.dtype,
        **{key: facts[key] for key in ("codebook_size", "levels", "token_rate", "bitrate")},
        "text_size": vocabulary.text_size,
        "size": vocabulary.size,
        "prompts": plain(prompts),
        "timestamps": plain(conf.timestamps),
        "tokenizer": tokenizer_receipt["artifact_hash"],
    }
    (folder / export_format.MANIFEST).write_text(json.dumps(manifest, indent=1))


def _as_peft(lm: PreTrainedModel, vocabulary: Vocabulary, lora: LoraAdapterConf, state: dict[str, Tensor]) -> PeftModel:
    """The plain LLM, resized, with the trained state in peft's own places."""
    lm.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    layers = [name.removesuffix(".new_rows").rpartition(".")[2] for name in state if name.endswith(".new_rows")]
    # peft divides alpha by r, whatever kind of number it is
    config = LoraConfig(
        r=lora.rank, lora_alpha=cast(int, lora.alpha), lora_dropout=lora.dropout, target_modules="all-linear",
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
