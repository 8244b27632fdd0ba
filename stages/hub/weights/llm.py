"""A causal LM and its tokenizer from a source: a hub id, a folder, a GGUF file or `random:`. What cannot be trained is
refused by name.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conf.errors import UsageError
from stages.hub.weights import gguf
from stages.hub.weights.sources import RANDOM, language_model_names, resolve

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 64  # weights of each tensor that a fingerprint reads


class LanguageModel(NamedTuple):
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def load_language_model(source: str, revision: str | None, dtype: str, attention: str | None = None) -> LanguageModel:
    """A causal LM on the CPU, in evaluation mode, and its tokenizer.

    source: see the package; dtype: float32 or bfloat16; attention: as in `ModelConf`, None takes what transformers takes
    for this model. A GGUF file becomes safetensors once (gguf.py). Raises UsageError where nothing can be loaded, and
    for an encoder-decoder, a multimodal wrapper or quantised weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if attention == "flash_attention_2":
        _check_flash_attention(dtype)
    kind = getattr(torch, dtype)
    resolved = resolve(source)
    if isinstance(resolved, str) and resolved.startswith("random:"):
        return _tiny(resolved, kind, attention)
    if isinstance(resolved, Path) and resolved.is_file():
        if resolved.suffix != ".gguf":
            raise UsageError(f"{resolved}: a language model is a folder, a hub id or a .gguf file")
        folder = gguf.as_safetensors(resolved, dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation=attention)
        return LanguageModel(model.eval(), AutoTokenizer.from_pretrained(folder))
    try:
        config = AutoConfig.from_pretrained(resolved, revision=revision)
        refused = _refusal(config)
        if refused is None:
            tokenizer = AutoTokenizer.from_pretrained(resolved, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(
                resolved, revision=revision, dtype=kind, attn_implementation=attention
            )
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        if "attn_implementation" in text:
            raise UsageError(
                f"{source}: no attention of the kind {attention} ({text}). Type --model.attention=null"
            ) from error
        gated = "It is gated: accept its licence on its page, then type hf auth login. " if "gated" in text else ""
        raise UsageError(
            f"{source}: no language model could be loaded ({text}). {gated}"
            f"Type --model.source=FOLDER, a .gguf file, a hub id that this machine reaches or has cached "
            f"(hf download {source}), or one of {language_model_names()}."
        ) from error
    if refused:
        raise UsageError(f"{source} is {refused}")
    return LanguageModel(model.eval(), tokenizer)


def _check_flash_attention(dtype: str) -> None:
    """Raises UsageError for what flash-attn cannot compute on."""
    import torch

    instead = "Type --model.attention=sdpa, which takes torch's own flash kernel where no mask is needed"
    if importlib.util.find_spec("flash_attn") is None:
        raise UsageError(
            f"model.attention=flash_attention_2: pip install flash-attn --no-build-isolation. Or: {instead}"
        )
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        raise UsageError(f"model.attention=flash_attention_2 needs a GPU of Ampere or later. {instead}")
    if dtype != "bfloat16":
        raise UsageError(f"model.attention=flash_attention_2 computes in bfloat16, model.dtype is {dtype}. {instead}")


def fingerprint(model: "PreTrainedModel") -> str:
    """SHA-256 of the names, shapes and some values of all weights, equal for float32 and bfloat16: tells one base LLM
    from another of the same name.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        positions = torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat)), dtype=torch.float64).long()
        values = flat[positions.to(flat.device)].bfloat16().cpu().view(torch.int16).numpy().tobytes()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values)
    return digest.hexdigest()


def _refusal(config: "PretrainedConfig") -> str | None:
    """Why no adapter of ours fits, and what to type instead."""
    kind = config.model_type
    if config.is_encoder_decoder:
        return f"an encoder-decoder ({kind}); a causal LM is allowed, as --model.source=Qwen/Qwen3-0.6B"
    if config.get_text_config() is not config:
        return (
            f"a multimodal model ({kind}): its LLM is wrapped in another. Choose a text model of the family "
            "(as google/gemma-3-1b-it), or a folder with its language part alone"
        )
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        return f"quantised ({method}), and LoRA trains beside plain weights here. Choose the unquantised weights, or a .gguf file"
    return None


def _tiny(source: str, dtype: Any, attention: str | None) -> LanguageModel:
    """A Llama of two layers over bytes, the same weights each time.

    Its embedding has more rows than the tokenizer has tokens, as many a real one's.
    """
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if source not in RANDOM:
        raise UsageError(f"{source!r} is unknown. Allowed: {', '.join(RANDOM)}.")
    marks = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(BPE({token: i for i, token in enumerate(marks + alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pad, start, end = marks
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, bos_token=start, eos_token=end)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=RANDOM[source].vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=RANDOM[source].tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM._from_config(config, attn_implementation=attention).to(dtype)
    return LanguageModel(model.eval(), tokenizer)
