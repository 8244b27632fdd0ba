"""Parameters, operations and activations of LLM and tokenizer, by arithmetic on their sizes. No torch, no weights.

An activation is what autograd keeps of a training step, under autocast to bfloat16 or in float32; compared with counted
saved tensors in the tests. A factor in the formulas is a tensor: 8 W is two of float32 or four of bfloat16.
"""

import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from conf.sections.tokenizer import QuantizerConf, TokenizerConf


class LlmSizes(NamedTuple):
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head_dim: int
    query_key_norm: bool = False

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of the seven linear layers of a layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        wide = [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return [(self.hidden, queries), *[(self.hidden, keys)] * 2, (queries, self.hidden), *wide]

    @property
    def parameters(self) -> int:
        layers = self.layers * sum(rows * columns for rows, columns in self.linears)
        return layers + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def lora(self, rank: int) -> int:
        return self.layers * rank * sum(rows + columns for rows, columns in self.linears)

    def new_rows(self, count: int) -> int:
        return (1 if self.tied else 2) * count * self.hidden

    def flops(self, rank: int, length: int, new_rows: int) -> float:
        """Of a token forward and backward, in a sequence of so many; frozen weights get no gradient."""
        frozen = self.layers * sum(rows * columns for rows, columns in self.linears)
        attention = 14 * self.layers * length * self.heads * self.head_dim
        head = (self.vocabulary + new_rows) * self.hidden
        return 4 * frozen + 6 * self.lora(rank) + attention + 4 * head

    def reading(self, tokens: float) -> float:
        """Operations of a sequence of so many tokens, forward alone; the head is asked for the last one."""
        frozen = self.layers * sum(rows * columns for rows, columns in self.linears)
        attention = 2 * self.layers * tokens * self.heads * self.head_dim
        return tokens * (2 * frozen + attention) + 2 * self.vocabulary * self.hidden

    def cache(self, tokens: float, narrow: int) -> float:
        """Bytes of the keys and values of so many tokens."""
        return 2.0 * self.layers * tokens * self.kv_heads * self.head_dim * narrow

    def layer_activations(self, rank: int, dropout: float, narrow: int) -> float:
        """Bytes of a token in one layer; narrow: of an element of the products, 2 under autocast, 4 without."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        kept = 8 * self.hidden + 2 * narrow * self.hidden + 2 * narrow * queries + 2 * narrow * keys
        kept += 4 * narrow * self.intermediate + 7 * narrow * rank + 4 * self.heads + 8
        if self.query_key_norm:
            kept += 8 * (queries + keys)
        if dropout:  # each of seven inputs has a mask and a copy of its own, in place of those that layers share
            kept += (1 + narrow) * sum(rows for rows, _ in self.linears)
            kept -= narrow * (2 * self.hidden + self.intermediate)
        return kept

    def activations(self, tokens: int, rank: int, dropout: float, narrow: int, checkpointing: bool) -> float:
        """Bytes of a training step of so many tokens."""
        layer = tokens * self.layer_activations(rank, dropout, narrow)
        layer += narrow * rank * sum(rows + columns for rows, columns in self.linears) if narrow == 2 else 0
        head = tokens * self.hidden * (4 + narrow)
        if checkpointing:
            return layer + self.layers * tokens * narrow * self.hidden + head
        return self.layers * layer + head


KNOWN = {  # of the presets, as their config.json says
    "lmsys/vicuna-7b-v1.5": LlmSizes(4096, 11008, 32, 32, 32, 32000, False, 128),
    "meta-llama/Llama-3.2-1B-Instruct": LlmSizes(2048, 8192, 16, 32, 8, 128256, True, 64),
    "meta-llama/Llama-3.1-8B-Instruct": LlmSizes(4096, 14336, 32, 32, 8, 128256, False, 128),
    "Qwen/Qwen2.5-0.5B-Instruct": LlmSizes(896, 4864, 24, 14, 2, 151936, True, 64),
    "Qwen/Qwen2.5-7B-Instruct": LlmSizes(3584, 18944, 28, 28, 4, 152064, False, 128),
    "Qwen/Qwen3-0.6B": LlmSizes(1024, 3072, 28, 16, 8, 151936, True, 128, True),
    "Qwen/Qwen3-8B": LlmSizes(4096, 12288, 36, 32, 8, 151936, False, 128, True),
    "smollm2-135m-instruct": LlmSizes(576, 1536, 30, 9, 3, 49152, True, 64),
    "random:tiny": LlmSizes(64, 128, 2, 4, 2, 264, True, 16),
    "random:tiny-untied": LlmSizes(64, 128, 2, 4, 2, 264, False, 16),
    "random:vicuna-vocabulary": LlmSizes(64, 128, 2, 4, 2, 32000, False, 16),
}


def llm_sizes(source: str) -> LlmSizes | None:
    """Of an LLM by its source: a preset's, or what a config.json on this machine says; None where there is none."""
    if source in KNOWN:
        return KNOWN[source]
    file: Any = Path(source) / "config.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            file = try_to_load_from_cache(source, "config.json")
        except HFValidationError:  # a path, and no name on the hub
            return None
    if not isinstance(file, str | Path):
        return None
    config = json.loads(Path(file).read_text())
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return LlmSizes(
            hidden, config["intermediate_size"], config["num_hidden_layers"], heads,
            config.get("num_key_value_heads") or heads, config["vocab_size"],
            config.get("tie_word_embeddings", False), config.get("head_dim") or hidden // heads,
            config.get("model_type") in ("qwen3", "gemma3_text", "olmo2"),
        )  # fmt: skip
    except KeyError:  # of another build
        return None


class StackSizes(NamedTuple):
    """Of one of the tokenizer's transformers."""

    width: int
    depth: int
    heads: int
    modulated: bool

    @property
    def hidden(self) -> int:
        return -(-8 * self.width // (3 * 32)) * 32

    @property
    def parameters(self) -> int:
        block = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width + 2 * self.width // self.heads
        return self.depth * (block + (6 * self.width if self.modulated else 0))

    def flops(self, frames: int) -> float:
        """Of a frame forward, in a clip of so many."""
        products = 4 * self.width**2 + 3 * self.width * self.hidden
        return self.depth * (2 * products + 4 * frames * self.width)

    def activations(self, narrow: int) -> float:
        """Bytes of a frame."""
        wide = 39 if self.modulated else 32  # float32 under autocast too
        elements = 12 * self.width if self.modulated else 9 * self.width
        norms = 4 * 3 * self.heads + 8
        block = wide * self.width + elements * narrow + 4 * narrow * self.hidden + norms
        return self.depth * block


class TokenizerSizes(NamedTuple):
    encoder: StackSizes
    decoder: StackSizes
    quantizer: int  # parameters
    codebook: int  # numbers
    codes: int  # that the LLM gets a row each for
    latent_dim: int

    @classmethod
    def of(cls, conf: TokenizerConf, latent_dim: int) -> "TokenizerSizes":
        encoder, decoder, quantizer = conf.encoder, conf.decoder, conf.quantizer
        return cls(
            StackSizes(encoder.width, encoder.depth, encoder.heads, False),
            StackSizes(decoder.width, decoder.depth, decoder.heads, True),
            2 * encoder.width * quantizer.code_dim,
            quantizer.codebook_size * quantizer.code_dim,
            _codes(quantizer),
            latent_dim,
        )

    @property
    def encoder_parameters(self) -> int:
        width = self.encoder.width
        return self.encoder.parameters + self.latent_dim * width + 2 * width**2 + width

    @property
    def decoder_parameters(self) -> int:
        width, condition, latent = self.decoder.width, self.encoder.width, self.latent_dim
        ends = condition * 17 + width * condition + width * latent + (latent + condition) * width
        time = 256 * width + width**2 + 6 * width**2
        return self.decoder.parameters + ends + time + 3 * width + width * latent

    @property
    def parameters(self) -> int:
        return self.encoder_parameters + self.decoder_parameters + self.quantizer

    def decoding(self, frames: int) -> float:
        """Operations of a clip of so many frames through the decoder once."""
        width = self.decoder.width
        ends = 2 * width * (2 * self.latent_dim + 2 * self.encoder.width)
        return frames * (self.decoder.flops(frames) + ends)

    def encoding(self, frames: int) -> float:
        """Operations of a clip of so many frames; a token is at most as frequent as a frame."""
        ends = 2 * self.latent_dim * self.encoder.width + 4 * self.encoder.width**2
        return frames * (self.encoder.flops(frames) + ends + 2 * self.codebook)

    def training(self, frames: int) -> float:
        """Operations of a clip, forward and backward."""
        ends = 2 * self.latent_dim * (self.decoder.width * 3 + self.encoder.width)
        condition = 4 * self.encoder.width * self.decoder.width
        once = self.encoder.flops(frames) + self.decoder.flops(frames) + ends + condition
        return 3 * frames * once

    def activations(self, frames: int, narrow: int) -> float:
        """Bytes of so many frames of a batch, padding included."""
        ends = 60 * self.encoder.width + 24 * self.decoder.width + 40 * self.latent_dim
        weights = narrow * self.parameters if narrow == 2 else 0  # autocast's copies
        return frames * (self.encoder.activations(narrow) + self.decoder.activations(narrow) + ends) + weights


def _codes(conf: QuantizerConf) -> int:
    """Of all levels together."""
    if conf.kind == "fsq":
        return prod(conf.levels)
    levels = len(conf.strides) if conf.kind in ("residual", "lexical_residual") else 1
    return levels * (conf.words if conf.kind.startswith("lexical") else conf.codebook_size)
