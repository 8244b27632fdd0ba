"""Diffusion transformer (Peebles and Xie 2023, arXiv:2212.09748): the velocity of latents, conditioned on sound tokens.

Tokens are repeated to the frame rate and joined to the latents by channels, for their alignment is known: no
cross-attention. Time reaches the blocks by adaLN-single (Chen et al. 2023, arXiv:2310.00426). A small head predicts the
latents from the tokens alone (the prior loss of Matcha-TTS, Mehta et al. 2024, arXiv:2309.03199).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer.transformer import RMSNorm, Transformer, linear, modulate

TIME_FEATURES = 128  # of t, and as many of r - t
PHASE_FEATURES = 16


class DiffusionTransformer(nn.Module):
    """Not causal. C is the width of a token's embedding, `condition_dim`."""

    def __init__(self, latent_dim: int, condition_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.latent_dim, self.condition_dim, self.width = latent_dim, condition_dim, width
        self.phase = linear(PHASE_FEATURES, condition_dim)
        self.no_tokens = nn.Parameter(torch.zeros(condition_dim))
        self.prior_head = nn.Sequential(linear(condition_dim, width), nn.SiLU(), linear(width, latent_dim))
        self.input = linear(latent_dim + condition_dim, width)
        self.time = nn.Sequential(linear(2 * TIME_FEATURES, width), nn.SiLU(), linear(width, width))
        self.modulation = nn.Linear(width, 6 * width, bias=False)
        self.transformer = Transformer(width, depth, heads, causal=False, modulated=True)
        self.output_norm = RMSNorm(width)
        self.output_modulation = nn.Parameter(torch.zeros(2 * width))
        self.output = nn.Linear(width, latent_dim, bias=False)
        # the blocks' modulations are zeros, too: every block starts as the identity, and the velocity as 0
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.output.weight)

    def condition(self, embeddings: Tensor, token_of_frame: Tensor, phase: Tensor) -> Tensor:
        """embeddings (B, N, C) of tokens -> condition (B, F, C): the embedding of each frame's token, and the phase.

        token_of_frame (F) long; phase (F) in [0, 1): how far into its token's time a frame lies.
        """
        harmonics = torch.arange(1, PHASE_FEATURES // 2 + 1, device=phase.device) * math.pi * phase.float()[:, None]
        return embeddings[:, token_of_frame] + self.phase(torch.cat([harmonics.cos(), harmonics.sin()], -1))

    def prior(self, condition: Tensor) -> Tensor:
        """condition (B, F, C) -> latents (B, F, D), frame by frame."""
        return self.prior_head(condition)

    def without_tokens(self, condition: Tensor, dropped: Tensor) -> Tensor:
        """condition (B, F, C), with one learned vector for all frames of the clips where dropped (B) is True.

        Classifier-free guidance: Ho and Salimans 2022, arXiv:2207.12598.
        """
        return torch.where(dropped[:, None, None], self.no_tokens.to(condition.dtype), condition)

    @torch.no_grad()
    def start_spans(self) -> None:
        """Makes the mean velocity from t to any r the velocity at t, as the network has learnt it: where training of
        mean velocities starts. What a span adds to the features of time else is random but at r = t.
        """
        first = self.time[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight[:, TIME_FEATURES:]  # of cosines, which are 1 at r = t, and sines
        constant = weight[:, : TIME_FEATURES // 2].sum(1)
        weight.zero_()
        weight[:, TIME_FEATURES // 2 - 1] = constant  # on the slowest cosine, which hardly moves

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None, r: Tensor | None = None
    ) -> Tensor:
        """x_t (B, F, D), t (B) in [0, 1], condition (B, F, C) -> velocity (B, F, D) float32.

        mask (B, F) bool: True for valid frames; None where no frame is padding.
        r (B) in [t, 1] asks for the mean velocity from t to r; None is r = t, the velocity at t.
        """
        with torch.autocast(x_t.device.type, enabled=False):
            span = torch.zeros_like(t) if r is None else r - t
            features = self.time(torch.cat([_waves(t), _waves(span)], -1))
            modulation = self.modulation(F.silu(features))
        x = self.input(torch.cat([x_t.to(condition.dtype), condition], -1))
        positions = torch.arange(x.shape[1], device=x.device)
        x = self.transformer(x, positions, mask, modulation)
        shift, scale = (features.repeat(1, 2) + self.output_modulation)[:, None].chunk(2, -1)
        return self.output(modulate(self.output_norm(x), shift, scale)).float()


def _waves(t: Tensor) -> Tensor:
    """t (B) in [0, 1] -> (B, TIME_FEATURES) float32: cosines and sines, wavelengths from 2 pi / 1000 to 2 pi x 10."""
    half = TIME_FEATURES // 2
    frequencies = 1000 * 1e4 ** (-torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
