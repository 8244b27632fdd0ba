"""Artifacts on disk: safetensors and a config.json, and how each kind is built again from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conf import from_plain, plain
from conf.errors import UsageError
from conf.sections.codec import CodecConf
from conf.sections.tokenizer import TokenizerConf
from datamodules.atomic_files import whole_file, write_whole
from models.codec.interface import LatentCodec
from models.codec.mel import MelCodec
from models.codec.oobleck import Oobleck, random_oobleck
from models.quantizer import Lexicon, build, whole_words
from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.grid import TokenGrid
from models.tokenizer.tokenizer import LatentTokenizer
from stages.hub import weights


def save(folder: Path, config: Mapping[str, object], state: dict[str, Tensor]) -> None:
    """Weights first: where there is a config.json, all is there, whatever was killed or filled the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "model.safetensors") as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, part)
    write_whole(folder / "config.json", json.dumps(config, indent=1))


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def build_codec(config: CodecConf, trained: Path | None) -> LatentCodec:
    """config: the section `codec` of the stage `latents`; trained: the folder that stage `vae` made, for that kind."""
    if config.kind == "mel":
        return MelCodec(**plain(config.mel))
    if config.kind == "trained":
        return Oobleck.from_pretrained(str(trained), None, None)
    assert config.source is not None, "a law of conf"
    if config.source == weights.RANDOM_OOBLECK:
        return Oobleck(random_oobleck())
    return Oobleck.from_pretrained(config.source, config.subfolder, config.revision)


def load_codec(folder: Path) -> LatentCodec:
    """The frozen VAE of a `latents` artifact: fitted and trained ones from their own files, Oobleck from where it came."""
    config = from_plain("latents", {"codec": json.loads((folder / "config.json").read_text())}).codec
    codec = build_codec(config, folder / "vae")
    assert isinstance(codec, nn.Module)
    if config.kind == "mel":
        # a codec that was fitted before it learned to decode has none of these
        learned = ("linear_spectrum.", "lost_detail.")
        decoding = {key: value for key, value in codec.state_dict().items() if key.startswith(learned)}
        codec.load_state_dict(decoding | load_file(folder / "model.safetensors"))
    return codec.eval().requires_grad_(False)


def build_tokenizer(conf: TokenizerConf, facts: dict[str, Any], lexicon: Lexicon | None = None) -> LatentTokenizer:
    """conf: the stage's configuration; facts: of `latents` (latent_dim, frame_rate). lexicon: of the kinds `lexical` and
    `lexical_residual`, which else take it from their LLM.
    """
    width, rate = conf.encoder.width, conf.rate
    if conf.quantizer.kind.startswith("lexical") and lexicon is None:
        assert conf.quantizer.words_from is not None, "a law of conf"
        levels = len(conf.quantizer.strides) if conf.quantizer.kind == "lexical_residual" else 1
        lexicon = load_lexicon(conf.quantizer.words_from, conf.quantizer.words, levels)
    quantizer = build(dim=width, lexicon=lexicon, **plain(conf.quantizer))
    token_rate = rate.token_rate or TokenGrid.rate(
        facts["frame_rate"], rate.stride, rate.bitrate, quantizer.bits_per_token
    )
    return LatentTokenizer(
        encoder=CausalEncoder(latent_dim=facts["latent_dim"], **plain(conf.encoder)),
        quantizer=quantizer,
        decoder=DiffusionTransformer(latent_dim=facts["latent_dim"], condition_dim=width, **plain(conf.decoder)),
        grid=TokenGrid(facts["frame_rate"], token_rate),
        **plain(conf.flow),
    )


def load_lexicon(source: str, count: int, levels: int = 1) -> Lexicon:
    """The first `count` whole words of an LLM, for each further level those that follow, and its embeddings of them.

    Raises UsageError where it has fewer.
    """
    model, tokenizer = weights.load_language_model(source, None, "float32")
    words, ids = whole_words(tokenizer, count * levels)
    if len(words) < count * levels:
        most = len(words) // levels
        raise UsageError(
            f"quantizer.words_from {source} has {len(words)} whole words of one token; {count * levels} are asked for. "
            + (f"Type --quantizer.words={most}" if most else "Choose an LLM whose tokens are words")
        )
    return Lexicon(words, model.get_input_embeddings().get_parameter("weight").detach()[ids].clone())


def save_tokenizer(folder: Path, conf: TokenizerConf, facts: dict[str, Any], tokenizer: LatentTokenizer) -> None:
    """The words of a lexical codebook lie in config.json and their embeddings in the weights: loading needs no LLM."""
    words = tokenizer.quantizer.words
    save(folder, {"conf": plain(conf), "facts": facts, "words": words}, tokenizer.state_dict())


def load_tokenizer(folder: Path, decoder: Path | None = None) -> LatentTokenizer:
    """decoder: an artifact of the stage `decoder_finetuning`, whose decoder takes the place of the tokenizer's own."""
    config, state = load(folder)
    lexicon = None
    if words := config["words"]:
        rows = [tensor for name, tensor in state.items() if name.endswith(".embeddings")]
        lexicon = Lexicon(words, torch.zeros(len(words), rows[0].shape[1]))  # its rows are loaded with all else
    tokenizer = build_tokenizer(from_plain("tokenizer", config["conf"]), config["facts"], lexicon)
    tokenizer.load_state_dict(state)
    if decoder is not None:
        trained, weights_of_decoder = load(decoder)
        tokenizer.decoder.load_state_dict(weights_of_decoder)
        tokenizer.mean_velocity = trained["flow"]["objective"] == "mean"
    return tokenizer.eval().requires_grad_(False)
