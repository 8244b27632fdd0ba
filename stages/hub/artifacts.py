"""Artifacts on disk: safetensors and a config.json, and how each kind is built again from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from models.quantizer import LexicalQuantizer, Lexicon, build, whole_words
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
    """conf: the stage's configuration; facts: of `latents` (latent_dim, frame_rate). lexicon: of the kind `lexical`,
    which else takes it from its LLM.
    """
    width, rate = conf.encoder.width, conf.rate
    if conf.quantizer.kind == "lexical" and lexicon is None:
        assert conf.quantizer.words_from is not None, "a law of conf"
        lexicon = load_lexicon(conf.quantizer.words_from, conf.quantizer.words)
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


def load_lexicon(source: str, count: int) -> Lexicon:
    """The first `count` whole words of an LLM, and its embeddings of them. Raises UsageError where it has fewer."""
    model, tokenizer = weights.load_language_model(source, None, "float32")
    words, ids = whole_words(tokenizer, count)
    if len(words) < count:
        raise UsageError(
            f"quantizer.words_from {source} has {len(words)} whole words of one token; {count} are asked for. "
            + (f"Type --quantizer.words={len(words)}" if words else "Choose an LLM whose tokens are words")
        )
    return Lexicon(words, model.get_input_embeddings().get_parameter("weight").detach()[ids].clone())


def save_tokenizer(folder: Path, conf: TokenizerConf, facts: dict[str, Any], tokenizer: LatentTokenizer) -> None:
    """The words of a lexical codebook lie in config.json and their embeddings in the weights: loading needs no LLM."""
    quantizer = tokenizer.quantizer
    words = quantizer.words if isinstance(quantizer, LexicalQuantizer) else None
    save(folder, {"conf": plain(conf), "facts": facts, "words": words}, tokenizer.state_dict())


def load_tokenizer(folder: Path, decoder: Path | None = None) -> LatentTokenizer:
    """decoder: an artifact of the stage `decoder_finetuning`, whose decoder takes the place of the tokenizer's own."""
    config, state = load(folder)
    lexicon = Lexicon(config["words"], state["quantizer.embeddings"]) if config["words"] else None
    tokenizer = build_tokenizer(from_plain("tokenizer", config["conf"]), config["facts"], lexicon)
    tokenizer.load_state_dict(state)
    if decoder is not None:
        trained, weights_of_decoder = load(decoder)
        tokenizer.decoder.load_state_dict(weights_of_decoder)
        tokenizer.mean_velocity = trained["flow"]["objective"] == "mean"
    return tokenizer.eval().requires_grad_(False)
