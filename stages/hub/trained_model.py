"""A trained LLM with its vocabulary and prompts, loaded from a run folder or from an export."""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from conf import from_plain
from conf.errors import UsageError
from conf.sections.language import PromptsConf
from models.language.vocabulary import Vocabulary
from stages.hub import export_format, language_model, weights
from stages.runs import receipts


class TrainedModel(NamedTuple):
    lm: PreTrainedModel  # its logits are over the whole vocabulary, sounds included
    vocabulary: Vocabulary
    prompts: PromptsConf  # section `prompts` of the configuration that it was trained with
    context: int | None  # positions; None where the LLM names no limit


def load(folder: Path, device: torch.device) -> TrainedModel:
    """folder: a run folder of a language stage, or an export. Raises UsageError where it holds no model that can be
    used.
    """
    if export_format.is_export(folder):
        model = load_export(folder)
    else:
        language, vocabulary = language_model.load(folder / "artifact")
        receipt = receipts.read(folder)
        assert receipt is not None
        prompts = from_plain(receipt["stage"], receipt["conf"]).prompts
        model = TrainedModel(language.lm, vocabulary, prompts, context(language.lm))
    torch.nn.Module.to(model.lm, device)
    if not export_format.is_export(folder):
        language_model.merge_for_generation(model.lm, model.vocabulary)
    return model


def load_export(folder: Path) -> TrainedModel:
    """What stages/hub/export.py wrote, merged, in evaluation mode."""
    manifest = export_format.read_manifest(folder)
    prompts = PromptsConf(**manifest["prompts"])
    if manifest["adapter"]:
        from peft import PeftModel  # seconds to import, and needed here alone

        base, _ = weights.load_language_model(manifest["source"], manifest["revision"], manifest["dtype"])
        base.resize_token_embeddings(manifest["size"], mean_resizing=False)
        lm = PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    else:
        lm, tokenizer = weights.load_language_model(str(folder), None, manifest["dtype"])
    text_size, timestamps = manifest["text_size"], manifest["timestamps"]
    vocabulary = language_model.vocabulary_of(tokenizer, manifest, prompts, timestamps, text_size)
    return TrainedModel(lm, vocabulary, prompts, context(lm))


def context(lm: PreTrainedModel) -> int | None:
    """Positions that an LLM takes; None where it names no limit."""
    return getattr(lm.config.get_text_config(), "max_position_embeddings", None)


def choose_device(name: str | None) -> torch.device:
    """None: the first GPU that CUDA (or ROCm) sees, else the CPU. Raises UsageError for one that this machine has not."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name in (*available, "cpu") or (name == "cuda" and "cuda:0" in available):
        return torch.device(name)
    raise UsageError(f"--device {name}: there is {', '.join((*available, 'cpu'))}")
