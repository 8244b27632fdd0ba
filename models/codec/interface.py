"""What a frozen VAE is to this project, and the checks that every codec makes."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import ModelError


class Posterior(NamedTuple):
    """Gaussian over latents, independent by frame and channel."""

    mean: Tensor  # (B, F, D)
    std: Tensor  # (B, F, D)

    @property
    def stored_mean(self) -> Tensor:
        """The mean as the cache keeps it and codes are made of it: values of float16, in float32."""
        return self.mean.to(torch.float16).float()


class Context(NamedTuple):
    """Receptive field: how many frames before and after a frame its value depends on."""

    before: int
    after: int


class LatentCodec(Protocol):
    """Waveform to latents and back. Latent frame f stands for the samples f * hop_length to (f + 1) * hop_length - 1.

    Shapes: waveform (B, C, T) in [-1, 1], latents (B, F, D), time first.
    """

    sample_rate: int  # Hz
    hop_length: int  # samples
    channels: int
    latent_dim: int
    encoder_context: Context
    decoder_context: Context  # what a piece of a sound is decoded with (decoding_stream.py)

    def encode(self, waveform: Tensor) -> Posterior:
        """waveform (B, C, T) -> (B, F, D), F = ceil(T / hop_length): zeros fill the last frame on its right."""
        ...

    def decode(self, latents: Tensor, phases: Tensor | None = None) -> Tensor:
        """latents (B, F, D) -> waveform (B, C, F * hop_length). phases: where others came before, as `phases_at` has them."""
        ...

    def phases_at(self, latents: Tensor, frame: int, phases: Tensor | None) -> Tensor | None:
        """What `decode` takes for latents[:, frame:], beside the context; None for a codec that runs up no phase.

        phases: of these latents.
        """
        ...


def check_waveform(waveform: Tensor, channels: int) -> None:
    """Raises ModelError for another shape than (B, channels, T), T >= 1."""
    if waveform.dim() != 3 or waveform.shape[1] != channels or not waveform.shape[2]:
        raise ModelError(f"waveform of shape {tuple(waveform.shape)}; (B, {channels}, T) with T >= 1 is allowed")


def pad_to_hop(waveform: Tensor, hop_length: int) -> Tensor:
    """(..., T) -> (..., F * hop_length), F = ceil(T / hop_length): zeros on the right, to whole frames."""
    return F.pad(waveform, (0, -waveform.shape[-1] % hop_length))
