"""Non-causal diffusion transformer (Peebles and Xie 2023, arXiv:2212.09748): the velocity of latents, given tokens.

The token of each frame stands beside the noisy frame (channel concatenation): where it belongs is known, so no cross-attention has to find it.
"""

import math

import torch
from torch import Tensor, nn

from models.transformer import Transformer


class DiffusionTransformer(nn.Module):
    """velocity(x, t, condition): (B, F, D) noisy latents -> (B, F, D)."""

    def __init__(self, latent_dim: int, condition_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_dim + condition_dim, width)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.null_condition = nn.Parameter(torch.zeros(condition_dim))
        self.stack = Transformer(width, depth, heads, causal=False, modulated=True)
        self.out = nn.Linear(width, latent_dim)
        for layer in (self.modulation, self.out):  # every block starts as the identity, the velocity as zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None, r: Tensor | None = None) -> Tensor:
        """x (B, F, D), t (B,), condition (B, F, condition_dim), mask (B, F) or None.

        r (B,), the end of an interval, belongs to average velocities (MeanFlow, Geng et al. 2025); None is the instantaneous velocity, all there is.
        """
        assert r is None, "average velocities are not trained"
        modulation = self.modulation(self.time(time_features(t)))
        return self.out(self.stack(self.embed(torch.cat([x, condition], dim=-1)), mask, modulation))

    def hide(self, condition: Tensor, hidden: Tensor) -> Tensor:
        """The learned null condition where `hidden` (B,) is True: classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)."""
        return torch.where(hidden[:, None, None], self.null_condition, condition)


TIME_FEATURES = 128


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines of t (B,) at log-spaced frequencies, float32: (B, TIME_FEATURES)."""
    half = TIME_FEATURES // 2
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = 1000.0 * t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
