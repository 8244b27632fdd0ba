"""Artifacts on disk: safetensors and a config.json, and how each kind is built again from them."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.dit import DiffusionTransformer
from models.oobleck import Oobleck
from models.quantizer import VectorQuantizer
from models.tokenizer import CausalEncoder, SoundTokenizer, TokenGrid
from models.vae import LatentCodec, MelCodec


def save(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / "model.safetensors"
    )


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def build_codec(config: dict[str, Any], trained: Path | None) -> LatentCodec:
    """config: the section `codec` of the stage `latents`; trained: the folder that stage `vae` made, for that kind."""
    if config["kind"] == "mel":
        return MelCodec(**config["mel"])
    if config["kind"] == "trained":
        return Oobleck.from_pretrained(str(trained), None, None)
    return Oobleck.from_pretrained(config["source"], config["subfolder"], config["revision"])


def load_codec(folder: Path) -> LatentCodec:
    """The frozen VAE of a `latents` artifact: fitted and trained ones from their own files, Oobleck from where it came."""
    config = json.loads((folder / "config.json").read_text())
    codec = build_codec(config, folder / "vae")
    assert isinstance(codec, nn.Module)
    if config["kind"] == "mel":
        codec.load_state_dict(load_file(folder / "model.safetensors"))
    return codec.eval().requires_grad_(False)


def build_tokenizer(conf: dict[str, Any], facts: dict[str, Any]) -> SoundTokenizer:
    """conf: the stage's configuration; facts: of `latents` (latent_dim, frame_rate)."""
    size, rate = conf["quantizer"]["codebook_size"], conf["rate"]
    token_rate = rate["token_rate"] or TokenGrid.rate(facts["frame_rate"], rate["stride"], rate["bitrate"], size)
    width = conf["encoder"]["width"]
    return SoundTokenizer(
        encoder=CausalEncoder(latent_dim=facts["latent_dim"], **conf["encoder"]),
        quantizer=VectorQuantizer(dim=width, **conf["quantizer"]),
        decoder=DiffusionTransformer(latent_dim=facts["latent_dim"], condition_dim=width, **conf["decoder"]),
        grid=TokenGrid(facts["frame_rate"], token_rate),
        **conf["flow"],
    )


def load_tokenizer(folder: Path) -> SoundTokenizer:
    config, state = load(folder)
    tokenizer = build_tokenizer(config["conf"], config["facts"])
    tokenizer.load_state_dict(state)
    return tokenizer.eval().requires_grad_(False)
