"""Oobleck, Stable Audio's VAE (Evans et al. 2024, arXiv:2407.14358), through diffusers: frozen, and exact in chunks.

It is convolutions alone, so a latent frame hangs on a bounded stretch of sound and a sample on a bounded stretch of
latents. A chunk that begins on a frame, with that much on either side, gives what the whole gives:

    frames     |  context  |   chunk_frames   |  context  |
    kept                   |------------------|

diffusers' `enable_tiling` steps by 26 s, which is no multiple of the hop: its later tiles lie on another grid.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.codec.mel import Context, Posterior, check_waveform, pad_to_hop
from models.errors import ModelError


class Oobleck(nn.Module):
    """A trained Oobleck, frozen. Not causal: a latent of Stable Audio's hangs on 7 frames either side. Computes in
    float32, under autocast too, and in memory that `chunk_frames` bounds, however long the sound.
    """

    def __init__(self, model: nn.Module, chunk_frames: int = 256) -> None:
        """model: a `diffusers.AutoencoderOobleck`; hop, rate, channels, width and contexts are read from it.

        chunk_frames: 256 are 12 s of Stable Audio's; its contexts make that a tenth more work.
        """
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        config: Any = model.config
        self.sample_rate: int = config.sampling_rate
        self.hop_length: int = model.hop_length
        self.channels: int = config.audio_channels
        self.latent_dim: int = config.decoder_input_channels
        self.chunk_frames = chunk_frames
        self.encoder_context = encoder_context(self.model.encoder, self.hop_length)
        self.decoder_context = decoder_context(self.model.decoder, self.hop_length)

    @classmethod
    def from_pretrained(cls, source: str, subfolder: str | None, revision: str | None) -> "Oobleck":
        """source: a folder, or a hub id. Raises ModelError where it cannot be had."""
        return cls(load(source, subfolder, revision))

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Posterior:
        check_waveform(waveform, self.channels)
        found = []
        with torch.autocast(waveform.device.type, enabled=False):
            padded = pad_to_hop(waveform.float(), self.hop_length)
            for core, wide in self._chunks(padded.shape[-1] // self.hop_length, self.encoder_context):
                part = padded[..., wide.start * self.hop_length : wide.stop * self.hop_length]
                posterior = self.model.encode(part).latent_dist
                kept = slice(core.start - wide.start, core.stop - wide.start)
                found.append((posterior.mean[..., kept], posterior.std[..., kept]))
        mean, std = (torch.cat(parts, -1).transpose(1, 2) for parts in zip(*found, strict=True))
        return Posterior(mean, std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        found = []
        with torch.autocast(latents.device.type, enabled=False):
            channels_first = latents.float().transpose(1, 2)
            for core, wide in self._chunks(latents.shape[1], self.decoder_context):
                part = self.model.decode(channels_first[..., wide.start : wide.stop]).sample
                start = (core.start - wide.start) * self.hop_length
                found.append(part[..., start : start + len(core) * self.hop_length])
        waveform = torch.cat(found, -1)
        missing = latents.shape[1] * self.hop_length - waveform.shape[-1]  # odd strides end a few samples early
        return F.pad(waveform, (0, missing))

    def _chunks(self, frames: int, context: Context) -> Iterator[tuple[range, range]]:
        """(frames to keep, frames to compute them from), in order."""
        for start in range(0, frames, self.chunk_frames):
            stop = min(start + self.chunk_frames, frames)
            yield range(start, stop), range(max(0, start - context.before), min(frames, stop + context.after))


def load(source: str, subfolder: str | None, revision: str | None) -> Any:
    """The `diffusers.AutoencoderOobleck` of a folder or a hub id, in float32. Raises ModelError where it cannot be had."""
    try:
        return _class().from_pretrained(source, subfolder=subfolder, revision=revision, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no Oobleck VAE at {source!r} (subfolder {subfolder!r}, revision {revision!r}): {error}\n"
            "Allowed: a folder with config.json and weights, or a hub id. Stable Audio Open is gated: accept its "
            "licence at https://huggingface.co/stabilityai/stable-audio-open-1.0, then type `hf auth login`. "
            "ACE-Step's is not: --preset ace_step."
        ) from error


def build(**sizes: Any) -> Any:
    """A `diffusers.AutoencoderOobleck` with random weights. Raises ModelError where its halves do not fit."""
    width, latent_dim = sizes["encoder_hidden_size"], sizes["decoder_input_channels"]
    if width != 2 * latent_dim:
        raise ModelError(
            f"encoder_hidden_size {width}, decoder_input_channels {latent_dim}: the encoder ends with "
            f"encoder_hidden_size channels, half of them means, so decoder_input_channels={width // 2} is allowed"
        )
    return _class()(**sizes)


def encoder_context(encoder: nn.Module, hop_length: int) -> Context:
    """From its strides, kernels, dilations and paddings: the samples that latent 0 hangs on, in whole frames."""
    low = high = 0
    for conv in reversed(_convolutions(encoder)):
        stride, padding, reach = conv.stride[0], conv.padding[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        low, high = low * stride - padding, high * stride - padding + reach
    return Context(math.ceil(-low / hop_length), math.ceil((high - hop_length + 1) / hop_length))


def decoder_context(decoder: nn.Module, hop_length: int) -> Context:
    """The latents that the samples of frame 0 hang on."""
    low, high = 0, hop_length - 1
    for conv in reversed(_convolutions(decoder)):
        stride, padding, reach = conv.stride[0], conv.padding[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        if isinstance(conv, nn.ConvTranspose1d):
            low, high = math.ceil((low + padding - reach) / stride), (high + padding) // stride
        else:
            low, high = low - padding, high - padding + reach
    return Context(-low, high)


def _convolutions(half: nn.Module) -> list[Any]:
    """In the order in which they compute, which is that of their definition; the skips around them reach no further."""
    return [module for module in half.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]


def _class() -> Any:
    try:
        from diffusers import AutoencoderOobleck
    except ImportError as error:
        raise ModelError("Oobleck needs diffusers: pip install 'make-some-noise[oobleck]'") from error
    return AutoencoderOobleck
