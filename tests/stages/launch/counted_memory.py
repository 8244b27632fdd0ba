"""Bytes that real modules keep, counted on the CPU at small sizes, beside what the plan works out by arithmetic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderOobleck
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, LlamaConfig

from conf import compose, plain
from models.codec.discriminator import Discriminator, adversarial_loss, discriminator_loss, feature_matching_loss
from models.codec.spectral_loss import SpectralLoss
from models.language.generation import generate
from models.language.model import SoundLanguageModel
from models.language.vocabulary import LabelKind, Vocabulary
from models.tokenizer import transformer
from stages.hub.artifacts import build_tokenizer
from stages.hub.weights import load_language_model
from stages.launch.codec_sizes import DiscriminatorSizes, OobleckSizes, spectral_activations
from stages.launch.model_sizes import LlmSizes, TokenizerSizes

FACTS = {"latent_dim": 64, "frame_rate": 44100 / 2048}
LOSS = {"audio_weight": 10.0, "text_weight": 1.0, "prompt_weight": 0.0, "z_loss_weight": 1e-4}
CODES, TOKENS, RANK = 100, 256, 16
UNTIED = LlmSizes(256, 640, 3, 4, 4, 512, False, 64)
GROUPED = LlmSizes(192, 768, 4, 6, 2, 512, True, 32)


class Bytes(NamedTuple):
    planned: float
    counted: float


def kept(modules: nn.Module | list[nn.Module], step: Callable[[], Any], autocast: bool = False) -> int:
    """Bytes that autograd keeps, each storage once, without parameters and buffers."""
    every = modules if isinstance(modules, list) else [modules]
    known = {t.untyped_storage().data_ptr() for module in every for t in (*module.parameters(), *module.buffers())}
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
    return SoundLanguageModel(model, vocabulary, RANK, 32, dropout, "mean", None, 0, checkpointing).train()


def loss_of(model: SoundLanguageModel) -> Callable[[], Tensor]:
    ids = torch.full((2, TOKENS // 2), 5)
    kinds = torch.full_like(ids, int(LabelKind.TEXT))
    return lambda: model.loss(ids, torch.ones_like(ids), ids, kinds, **LOSS).loss


def language_step(sizes: LlmSizes, autocast: bool, dropout: float = 0.0, checkpointing: bool = False) -> Bytes:
    """A step of caption and openaqa."""
    narrow, model = 2 if autocast else 4, language(sizes, dropout, autocast, checkpointing)
    counted = float(kept(model, loss_of(model), autocast))
    planned = sizes.activations(TOKENS, RANK, dropout, narrow, checkpointing)
    if dropout:  # a mask is float32 on a CPU, and a byte on a GPU
        counted -= 3 * TOKENS * sizes.layers * sum(rows for rows, _ in sizes.linears)
    if checkpointing:  # a layer's activations come and go in the backward pass, which is counted by two depths without
        deeper = sizes._replace(layers=sizes.layers + 1)
        shallow, deep = (
            kept(one, loss_of(one), autocast) for one in (language(n, 0.0, autocast) for n in (sizes, deeper))
        )
        counted += deep - shallow
    return Bytes(planned, counted)


def writing_step(sizes: LlmSizes, autocast: bool, rows: int = 3, prompt: int = 20, new: int = 12) -> Bytes:
    """Keys and values at the last of the tokens that are written, as `generation` and `evaluate` write them."""
    model = language(sizes, 0.0, autocast).eval()
    caches: list[Any] = []
    model.lm.register_forward_hook(lambda module, given, output: caches.append(output.past_key_values))
    ids = torch.full((rows, prompt), 5)
    narrow = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()
    with narrow:
        generate(model.lm, model.vocabulary, ids, torch.ones_like(ids), new, "audio")
    layers = caches[-1].layers
    counted = sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))
    read = layers[0].keys.shape[2]  # the last token is not read, and a sound may end sooner
    return Bytes(rows * sizes.cache(read, 2 if autocast else 4), float(counted))


@contextmanager
def attention_of_a_gpu() -> Iterator[None]:
    """models.tokenizer.transformer.attention as on CUDA, which does not keep the scores that a CPU keeps in bfloat16."""

    def attention(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, is_causal=causal)

    before = transformer.attention
    transformer.attention = attention
    try:
        yield
    finally:
        transformer.attention = before


def tokenizer(width: int, heads: int) -> tuple[Any, TokenizerSizes]:
    typed = [f"{part}.{key}" for part in ("encoder", "decoder") for key in (f"width={width}", f"heads={heads}")]
    typed += ["encoder.depth=3", "decoder.depth=4", "quantizer.reservoir_size=8196"]
    conf: Any = compose("tokenizer", overrides=typed).conf
    return build_tokenizer(conf, FACTS).train(), TokenizerSizes.of(conf, 64)


def tokenizer_step(width: int, heads: int, autocast: bool) -> Bytes:
    module, sizes = tokenizer(width, heads)
    latents, lengths = torch.randn(3, 216, 64), torch.full((3,), 216)
    with attention_of_a_gpu():
        counted = kept(module, lambda: module.training_loss(latents, lengths, torch.Generator()), autocast)
    return Bytes(sizes.activations(3 * 216, 2 if autocast else 4), float(counted))


def vae_conf(width: int, filters: int) -> Any:
    oobleck = [f"encoder_hidden_size={width}", f"decoder_input_channels={width // 2}", f"decoder_channels={width}"]
    typed = [*(f"codec.oobleck.{key}" for key in oobleck), f"discriminator.filters={filters}"]
    return compose("vae", overrides=typed).conf


def vae_step(width: int, filters: int, judging: bool, samples: int = 16384) -> Bytes:
    """The VAE's graph, and beside it what the discriminator keeps in its own step (judging), or in the VAE's."""
    conf = vae_conf(width, filters)
    channels, rate = conf.codec.oobleck.audio_channels, conf.codec.oobleck.sampling_rate
    vae = AutoencoderOobleck(**plain(conf.codec.oobleck))
    judge = Discriminator(channels, **plain(conf.discriminator))
    spectral = SpectralLoss(rate, channels, **plain(conf.spectral))
    sound = torch.randn(2, channels, samples)

    def step() -> None:
        decoded = vae.decode(vae.encode(sound).latent_dist.sample()).sample
        if judging:
            discriminator_loss(judge(sound), judge(decoded.detach()))
            return
        judge.requires_grad_(False)
        with torch.no_grad():
            real = judge(sound)
        made = judge(decoded)
        _ = spectral(decoded, sound), adversarial_loss(made), feature_matching_loss(real, made)
        features.extend(real.features)

    features: list[list[Tensor]] = []
    counted = float(kept([vae, judge, spectral], step))
    counted += sum(one.nbytes for scale in features for one in scale)
    sizes = OobleckSizes.of(conf.codec.oobleck)
    a_sample = sizes.encoder.activations + sizes.decoder.activations
    a_sample += DiscriminatorSizes.of(conf.discriminator, channels).activations
    if not judging:
        a_sample += spectral_activations(len(conf.spectral.fft_sizes), channels)
    return Bytes(2 * samples * a_sample, counted)


CASES: dict[str, Callable[[], Bytes]] = {
    "tokenizer, float32": lambda: tokenizer_step(96, 3, False),
    "tokenizer, bfloat16": lambda: tokenizer_step(192, 4, True),
    "caption, openaqa, float32": lambda: language_step(UNTIED, False),
    "caption, openaqa, bfloat16": lambda: language_step(GROUPED, True),
    "caption, openaqa, bfloat16, dropout": lambda: language_step(GROUPED, True, dropout=0.1),
    "caption, openaqa, bfloat16, checkpointing": lambda: language_step(UNTIED, True, checkpointing=True),
    "caption, openaqa, float32, checkpointing": lambda: language_step(GROUPED, False, checkpointing=True),
    "vae, the VAE's step": lambda: vae_step(32, 16, judging=False),
    "vae, the discriminator's step": lambda: vae_step(32, 16, judging=True),
    "generation, KV cache, float32": lambda: writing_step(UNTIED, False),
    "generation, KV cache, bfloat16": lambda: writing_step(GROUPED, True),
}
