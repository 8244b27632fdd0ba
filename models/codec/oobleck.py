"""Oobleck, Stable Audio's VAE (Evans et al. 2024, arXiv:2407.14358), through diffusers: frozen, and exact in chunks.

It is convolutions alone, so a latent frame depends on a bounded stretch of sound and a sample on a bounded stretch of
latents. A chunk that begins on a frame, with that much context on either side, gives what the whole gives:

    frames     |  context  |   chunk_frames   |  context  |
    kept                   |------------------|

diffusers' `enable_tiling` steps by 26 s, which is no multiple of the hop: its later tiles lie on another grid.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.codec.interface import Context, Posterior, check_waveform, pad_to_hop
from models.errors import ModelError
from models.exact_float32 import exact_float32


class Oobleck(nn.Module):
    """A trained Oobleck, frozen. Not causal: a latent of Stable Audio's depends on 7 frames on either side.

    Computes in float32, under autocast and on GPUs (no TF32) too, and in memory that `chunk_frames` bounds, however long the sound.
    """

    def __init__(self, model: Any, chunk_frames: int = 256) -> None:
        """model: a `diffusers.AutoencoderOobleck`; hop, rate, channels, width and contexts are read from it.

        chunk_frames: 256 are 12 s of Stable Audio's latents; the context on either side adds a tenth to the work.
        Raises ModelError for a model whose encoder and decoder do not fit together.
        """
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        config = model.config
        self.sample_rate: int = config.sampling_rate
        self.hop_length: int = model.hop_length
        self.channels: int = config.audio_channels
        self.latent_dim: int = config.decoder_input_channels
        if config.encoder_hidden_size != 2 * self.latent_dim:
            raise ModelError(
                f"the encoder ends with {config.encoder_hidden_size} channels, mean and scale of the latents; the decoder "
                f"takes latents of {self.latent_dim}, so {2 * self.latent_dim} are allowed"
            )
        self.chunk_frames = chunk_frames
        self.encoder_context = encoder_context(self.model.encoder, self.hop_length)
        self.decoder_context = decoder_context(self.model.decoder, self.hop_length)

    @classmethod
    def from_pretrained(cls, source: str, subfolder: str | None, revision: str | None) -> "Oobleck":
        """source: a folder, or a hub id. Raises ModelError where no VAE can be loaded from it."""
        return cls(load(source, subfolder, revision))

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Posterior:
        """waveform (B, C, T) -> (B, F, D), F = ceil(T / hop_length)."""
        check_waveform(waveform, self.channels)
        means, stds = [], []
        with exact_float32(waveform.device.type):
            padded = pad_to_hop(waveform.float(), self.hop_length)
            for chunk in self._chunks(padded.shape[-1] // self.hop_length, self.encoder_context):
                part = padded[..., chunk.read.start * self.hop_length : chunk.read.stop * self.hop_length]
                posterior = self.model.encode(part).latent_dist
                kept = slice(chunk.keep.start - chunk.read.start, chunk.keep.stop - chunk.read.start)
                means.append(posterior.mean[..., kept])
                stds.append(posterior.std[..., kept])
        return Posterior(torch.cat(means, -1).transpose(1, 2), torch.cat(stds, -1).transpose(1, 2))

    @torch.no_grad()
    def decode(self, latents: Tensor, phases: Tensor | None = None) -> Tensor:
        """latents (B, F, D) -> waveform (B, C, F * hop_length). phases: none."""
        parts = []
        with exact_float32(latents.device.type):
            channels_first = latents.float().transpose(1, 2)
            for chunk in self._chunks(latents.shape[1], self.decoder_context):
                part = self.model.decode(channels_first[..., chunk.read.start : chunk.read.stop]).sample
                start = (chunk.keep.start - chunk.read.start) * self.hop_length
                parts.append(part[..., start : start + len(chunk.keep) * self.hop_length])
        waveform = torch.cat(parts, -1)
        # odd strides end a few samples early
        return F.pad(waveform, (0, latents.shape[1] * self.hop_length - waveform.shape[-1]))

    def phases_at(self, latents: Tensor, frame: int, phases: Tensor | None) -> None:
        """A sample depends on the frames around it alone."""

    def _chunks(self, frames: int, context: Context) -> Iterator["_Chunk"]:
        """The chunks that make up so many frames, in order."""
        for start in range(0, frames, self.chunk_frames):
            stop = min(start + self.chunk_frames, frames)
            read = range(max(0, start - context.before), min(frames, stop + context.after))
            yield _Chunk(range(start, stop), read)


class _Chunk(NamedTuple):
    keep: range  # frames that the chunk adds to the result
    read: range  # frames that they are computed from: context on either side


def load(source: str, subfolder: str | None, revision: str | None) -> Any:
    """The `diffusers.AutoencoderOobleck` of a folder or a hub id, in float32. Raises ModelError where there is none."""
    try:
        return _class().from_pretrained(source, subfolder=subfolder, revision=revision, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no Oobleck VAE at {source!r} (subfolder {subfolder!r}, revision {revision!r}): {error}\n"
            "Allowed: a folder with config.json and weights, or a hub id. Stable Audio Open is gated: accept its "
            "licence at https://huggingface.co/stabilityai/stable-audio-open-1.0, then type `hf auth login`. "
            "ACE-Step's (ACE-Step/Ace-Step1.5, subfolder vae) is not gated."
        ) from error


def build(**sizes: Any) -> Any:
    """A `diffusers.AutoencoderOobleck` with random weights. Raises ModelError where its halves do not fit."""
    width, latent_dim = sizes["encoder_hidden_size"], sizes["decoder_input_channels"]
    if width != 2 * latent_dim:
        raise ModelError(
            f"encoder_hidden_size {width}, decoder_input_channels {latent_dim}: the encoder ends with "
            f"encoder_hidden_size channels, half of them means, so decoder_input_channels {width // 2} is allowed"
        )
    return _class()(**sizes)


def copy_of(model: Any) -> Any:
    """Another `AutoencoderOobleck` of the same weights: copy.deepcopy refuses what weight_norm keeps beside them."""
    copied = type(model)(**{name: value for name, value in model.config.items() if not name.startswith("_")})
    copied.load_state_dict(model.state_dict())
    return copied


def random_oobleck(filters: int = 2, posterior_std: float = 0.1) -> Any:
    """Stable Audio Open's `AutoencoderOobleck` with `filters` channels in place of 128: its strides, rate, 64 latents and
    receptive fields for a thousandth of the work. The same weights each time; its sound is noise.

    Random weights as they come have a posterior wider than its mean, and latents of their biases. Here silence has latents
    of 0, white noise at -34 dB has standard deviation 1 in each channel, and the posterior has `posterior_std`.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = _class()(
            encoder_hidden_size=filters,
            downsampling_ratios=[2, 4, 4, 8, 8],
            channel_multiples=[1, 2, 4, 8, 16],
            decoder_channels=filters,
            decoder_input_channels=64,
            audio_channels=2,
            sampling_rate=44100,
        )
        for conv in _convolutions(model.encoder):
            conv.bias.zero_()
        # diffusers has one number for the first width of the encoder and for the width of what it gives
        last: Any = nn.Conv1d(model.encoder.conv2.in_channels, 128, 3, padding=1)
        model.encoder.conv2 = last
        last.weight[64:], last.bias[:64] = 0.0, 0.0
        last.bias[64:] = math.log(math.expm1(posterior_std))  # its softplus is taken
        latents = model.encoder(0.02 * torch.randn(1, 2, 64 * model.hop_length))[:, :64]
        last.weight[:64] /= latents.std((0, 2))[:, None, None]
        model.register_to_config(encoder_hidden_size=128)
    return model.eval()


def encoder_context(encoder: nn.Module, hop_length: int) -> Context:
    """The samples that latent 0 depends on, in whole frames; from strides, kernels, dilations and paddings."""
    low = high = 0
    for conv in reversed(_convolutions(encoder)):
        stride, padding, reach = conv.stride[0], conv.padding[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        low, high = low * stride - padding, high * stride - padding + reach
    return Context(math.ceil(-low / hop_length), math.ceil((high - hop_length + 1) / hop_length))


def decoder_context(decoder: nn.Module, hop_length: int) -> Context:
    """The latents that the samples of frame 0 depend on; from strides, kernels, dilations and paddings."""
    low, high = 0, hop_length - 1
    for conv in reversed(_convolutions(decoder)):
        stride, padding, reach = conv.stride[0], conv.padding[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        if isinstance(conv, nn.ConvTranspose1d):
            low, high = math.ceil((low + padding - reach) / stride), (high + padding) // stride
        else:
            low, high = low - padding, high - padding + reach
    return Context(-low, high)


def _convolutions(half: nn.Module) -> list[Any]:
    """Conv1d and ConvTranspose1d in the order in which they run, which is that of their definition.

    The skip connections around them reach no further.
    """
    return [module for module in half.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]


def _class() -> Any:
    try:
        from diffusers import AutoencoderOobleck
    except ImportError as error:
        raise ModelError("Oobleck needs diffusers: pip install 'make-some-noise[oobleck]'") from error
    return AutoencoderOobleck
