"""What the plan works out by arithmetic, beside what torch counts on the real modules, small and on the CPU."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderOobleck
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from conf import compose, plain
from models.language.model import SoundLanguageModel
from models.language.vocabulary import LabelKind, Vocabulary
from models.tokenizer import transformer
from stages.hub.artifacts import build_tokenizer
from stages.hub.weights import load_language_model
from stages.launch.model_sizes import KNOWN, LlmSizes, OobleckSizes, TokenizerSizes

FACTS = {"latent_dim": 64, "frame_rate": 44100 / 2048}
LOSS = {"audio_weight": 10.0, "text_weight": 1.0, "prompt_weight": 0.0, "z_loss_weight": 1e-4}
CODES, TOKENS = 100, 256


def kept(module: nn.Module, step: Callable[[], Any], autocast: bool) -> int:
    """Bytes that autograd keeps, each storage once, without parameters and buffers."""
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage  # kept, so that no address comes twice
        return tensor

    narrow = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()
    with saved_tensors_hooks(pack, lambda tensor: tensor), narrow:
        step()
    return sum(storage.nbytes() for storage in storages.values())


def flops(step: Callable[[], Any]) -> float:
    """Attention as its two products, which the counter knows on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


def language(sizes: LlmSizes, dropout: float, autocast: bool, checkpointing: bool = False) -> SoundLanguageModel:
    config = LlamaConfig(
        hidden_size=sizes.hidden, intermediate_size=sizes.intermediate, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, vocab_size=sizes.vocabulary,
        tie_word_embeddings=sizes.tied, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if autocast else torch.float32)
    tokenizer = load_language_model("random:tiny", None, "float32").tokenizer
    vocabulary = Vocabulary(tokenizer, CODES, [0], "ltu", None, text_size=sizes.vocabulary)
    return SoundLanguageModel(model, vocabulary, 16, 32, dropout, "mean", None, 0, checkpointing).train()


def loss_of(model: SoundLanguageModel) -> Callable[[], Tensor]:
    ids = torch.full((2, TOKENS // 2), 5)
    kinds = torch.full_like(ids, int(LabelKind.TEXT))
    return lambda: model.loss(ids, torch.ones_like(ids), ids, kinds, **LOSS).loss


LLMS = [
    LlmSizes(256, 640, 3, 4, 4, 512, False, 64),
    LlmSizes(192, 768, 4, 6, 2, 512, True, 32),
]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("sizes", LLMS)
def test_activations_of_an_llm(sizes: LlmSizes, autocast: bool):
    narrow = 2 if autocast else 4
    for dropout, checkpointing in ((0.0, False), (0.1, False), (0.0, True)):
        model = language(sizes, dropout, autocast, checkpointing)
        measured = kept(model, loss_of(model), autocast)
        if dropout:  # a mask is float32 on a CPU, and a byte on a GPU
            measured -= 3 * TOKENS * sizes.layers * sum(rows for rows, _ in sizes.linears)
        planned = sizes.activations(TOKENS, 16, dropout, narrow, checkpointing)
        if checkpointing:  # a layer's activations come and go in the backward pass, which is not counted here
            deeper = sizes._replace(layers=sizes.layers + 1)
            planned -= deeper.activations(TOKENS, 16, 0.0, narrow, False) - sizes.activations(
                TOKENS, 16, 0.0, narrow, False
            )
        assert planned == pytest.approx(measured, rel=0.15), (dropout, checkpointing)


@pytest.mark.parametrize("sizes", LLMS)
def test_parameters_and_operations_of_an_llm(sizes: LlmSizes):
    model = language(sizes, 0.0, False)
    new = len(model.vocabulary.new_ids)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sizes.lora(16) + sizes.new_rows(new)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == pytest.approx(sizes.parameters, rel=0.02)  # norms are not counted
    counted = flops(lambda: loss_of(model)().backward()) / TOKENS
    assert sizes.flops(16, TOKENS // 2, new) == pytest.approx(counted, rel=0.1)


def as_on_a_gpu(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """models.tokenizer.transformer.attention on CUDA, which does not keep the scores that a CPU keeps in bfloat16."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, is_causal=causal)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(("width", "heads"), [(96, 3), (192, 4)])
def test_tokenizer(width: int, heads: int, autocast: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformer, "attention", as_on_a_gpu)
    sizes_typed = [f"{part}.{key}" for part in ("encoder", "decoder") for key in (f"width={width}", f"heads={heads}")]
    small = [*sizes_typed, "encoder.depth=3", "decoder.depth=4", "quantizer.reservoir_size=8196"]
    conf: Any = compose("tokenizer", overrides=small).conf
    tokenizer = build_tokenizer(conf, FACTS).train()
    sizes = TokenizerSizes.of(conf, 64)
    assert sizes.parameters == pytest.approx(sum(p.numel() for p in tokenizer.parameters()), rel=0.01)
    latents, lengths = torch.randn(3, 216, 64), torch.full((3,), 216)

    def step() -> Tensor:
        return tokenizer.training_loss(latents, lengths, torch.Generator()).loss

    measured, planned = kept(tokenizer, step, autocast), sizes.activations(3 * 216, 2 if autocast else 4)
    assert planned == pytest.approx(measured, rel=0.15)
    assert 3 * sizes.training(216) == pytest.approx(flops(lambda: step().backward()), rel=0.1)
    with torch.no_grad():
        assert 3 * sizes.encoding(216) == pytest.approx(flops(lambda: tokenizer.encode(latents, lengths)), rel=0.1)


def test_oobleck():
    conf: Any = compose(
        "vae", overrides=["codec.oobleck.encoder_hidden_size=16", "codec.oobleck.decoder_input_channels=8"]
    ).conf
    with torch.device("meta"):
        vae = AutoencoderOobleck(**plain(conf.codec.oobleck))
        sound = torch.empty(1, 2, 2048 * 21)
    with torch.no_grad():
        counted = flops(lambda: vae.encoder(sound)) * 44100 / sound.shape[2]
    assert OobleckSizes.of(conf.codec.oobleck).flops == pytest.approx(counted, rel=0.05)


def test_sizes_of_presets_are_as_published():
    """In billions of parameters, embeddings included, as their model cards say."""
    published = {
        "lmsys/vicuna-7b-v1.5": 6.74, "meta-llama/Llama-3.2-1B-Instruct": 1.24, "meta-llama/Llama-3.1-8B-Instruct": 8.03,
        "Qwen/Qwen2.5-0.5B-Instruct": 0.49, "Qwen/Qwen2.5-7B-Instruct": 7.62, "Qwen/Qwen3-0.6B": 0.60,
        "Qwen/Qwen3-8B": 8.19, "smollm2-135m-instruct": 0.135,
    }  # fmt: skip
    for source, billions in published.items():
        assert KNOWN[source].parameters / 1e9 == pytest.approx(billions, rel=0.01), source
