"""What principal components lose of the log-mel frames, as far as the latents around tell: ridge regression on random features.

No linear function of a frame's latents tells it, by the definition of principal components; but silence stays silence,
a spectrum that falls to the floor stays there, and the frames before and after lose other parts.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

RANDOM_FEATURES, GAIN = 512, 0.4
PRIOR_FRAMES = 256  # the ridge: what so many frames of average features add, so that a small corpus teaches little


class _Sums(NamedTuple):
    """Over the accumulated frames, P features; float64."""

    frames: int
    squares: Tensor  # (P, P)
    products: Tensor  # (P, W)


class LostDetail(nn.Module):
    """latents (B, F, D) -> what is added to the log-mel frames that they are decoded to (B, F, W).

    `accumulate`, then `fit`: sums only. 0 before `fit`.
    """

    fitted: Tensor  # () bool
    directions: Tensor  # (3 * D, RANDOM_FEATURES)
    offsets: Tensor  # (RANDOM_FEATURES)
    weights: Tensor  # (P, W), P = 1 + 3 * D + RANDOM_FEATURES

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        inputs = 3 * latent_dim
        features = 1 + inputs + RANDOM_FEATURES
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(inputs, RANDOM_FEATURES, generator=generator) * (GAIN / inputs**0.5)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("directions", directions)
        self.register_buffer("offsets", torch.randn(RANDOM_FEATURES, generator=generator))
        self.register_buffer("weights", torch.zeros(features, width))
        squares = torch.zeros(features, features, dtype=torch.float64)
        self._sums = _Sums(0, squares, torch.zeros(features, width, dtype=torch.float64))

    @torch.no_grad()
    def accumulate(self, latents: Tensor, lost: Tensor, valid: Tensor) -> None:
        """latents (B, F, D), lost (B, F, W), valid (B, F): the frames that are not padding.

        Only frames with a valid neighbour on either side count.
        """
        inside = torch.zeros_like(valid)
        inside[:, 1:-1] = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]
        features, targets = self._features(latents)[inside].double(), lost[inside].double()
        frames, squares, products = self._sums
        self._sums = _Sums(
            frames + len(features), squares + (features.mT @ features).cpu(), products + (features.mT @ targets).cpu()
        )

    @torch.no_grad()
    def fit(self) -> None:
        """Ridge regression of everything accumulated; nothing is learned from nothing."""
        frames, squares, products = self._sums
        if not frames:
            return
        penalty = PRIOR_FRAMES / frames * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.float64)
        self.weights.copy_(torch.linalg.solve(squares + penalty, products))
        self.fitted.fill_(True)

    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        return self._features(latents) @ self.weights

    def _features(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> (B, F, P): the frame, those before and after it, and random features of the three."""
        before = torch.cat([latents[:, :1], latents[:, :-1]], 1)
        after = torch.cat([latents[:, 1:], latents[:, -1:]], 1)
        around = torch.cat([before, latents, after], -1)
        random = (around @ self.directions + self.offsets).tanh()
        return torch.cat([torch.ones_like(latents[..., :1]), around, random], -1)
