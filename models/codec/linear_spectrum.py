"""From mel bands to the short-time spectrum: each bin by ridge regression on random features of the bands around it.

log-mel ──less the level of the bin's band──► linear and random features ──ridge──► magnitudes ──scaled to the bands──►

Random features below a ridge regression: Rahimi and Recht 2008 ("Weighted sums of random kitchen sinks").
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURS, RANDOM_FEATURES = 2, 64  # bands on either side of a bin's, and random features of them
RIDGE = 1e-3  # share of the features' mean square
FRAMES_AT_ONCE = 1 << 11


class _Sums(NamedTuple):
    """Over the accumulated frames; float64."""

    squares: Tensor  # (bands, P, P), P features
    products: Tensor  # (bands, P, W), W bins of the widest band


class LinearSpectrum(nn.Module):
    """Mean log magnitude of a bin, given the mel bands around it.

    A bin belongs to the band whose centre is nearest. What is learned is how magnitudes lie inside a band, relative to
    its level: where a partial is, and how steep the spectrum. The levels are kept: at the end magnitudes are scaled
    until their bands are those that were given.

    `accumulate`, then `fit`: sums only, so that batches and their order change nothing.
    """

    fitted: Tensor  # () bool
    directions: Tensor  # (2 * NEIGHBOURS + 1, RANDOM_FEATURES)
    offsets: Tensor  # (RANDOM_FEATURES)
    weights: Tensor  # (bands, P, W)
    filters: Tensor  # (bins, bands)
    spread: Tensor  # (bands, bins): shares of a bin's bands, which sum to 1
    outside: Tensor  # (bins): 1 for a bin of no band
    band: Tensor  # (bins): the band that a bin belongs to
    column: Tensor  # (bins): its number among the bins of that band

    def __init__(self, filters: Tensor) -> None:
        """filters (bins, bands): a band is the mean of magnitudes by these weights, which sum to 1."""
        super().__init__()
        bins, bands = filters.shape
        centres = torch.arange(bins, dtype=torch.float64) @ filters.double()
        band = (torch.arange(bins)[:, None] - centres).abs().argmin(1)
        counts = torch.bincount(band, minlength=bands)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("spread", filters.T / filters.sum(1).clamp(min=1e-8), persistent=False)
        self.register_buffer("outside", (~filters.any(1)).float(), persistent=False)
        self.register_buffer("band", band, persistent=False)
        self.register_buffer("column", torch.arange(bins) - (counts.cumsum(0) - counts)[band], persistent=False)

        patch = 2 * NEIGHBOURS + 1
        features, widest = 2 + patch + RANDOM_FEATURES, int(counts.max())
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("directions", torch.randn(patch, RANDOM_FEATURES, generator=generator) / patch**0.5)
        self.register_buffer("offsets", torch.randn(RANDOM_FEATURES, generator=generator))
        self.register_buffer("weights", torch.zeros(bands, features, widest))
        squares = torch.zeros(bands, features, features, dtype=torch.float64)
        self._sums = _Sums(squares, torch.zeros(bands, features, widest, dtype=torch.float64))

    @torch.no_grad()
    def accumulate(self, log_mel: Tensor, log_magnitudes: Tensor) -> None:
        """log_mel (N, bands) and log_magnitudes (N, bins) of N frames."""
        for levels, targets in zip(log_mel.split(FRAMES_AT_ONCE), log_magnitudes.split(FRAMES_AT_ONCE), strict=True):
            features = self._features(levels).double()
            relative = features.new_zeros(len(self.weights), len(levels), self.weights.shape[2])
            relative[self.band, :, self.column] = (targets - levels[:, self.band]).double().T
            squares, products = self._sums
            self._sums = _Sums(squares + (features.mT @ features).cpu(), products + (features.mT @ relative).cpu())

    @torch.no_grad()
    def fit(self) -> None:
        """Ridge regression of everything accumulated, which must be a frame at least."""
        squares, products = self._sums
        ridge = RIDGE * squares.diagonal(dim1=1, dim2=2).mean(1)
        penalty = ridge[:, None, None] * torch.eye(squares.shape[1], dtype=torch.float64)
        self.weights.copy_(torch.linalg.solve(squares + penalty, products))
        self.fitted.fill_(True)

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel (..., bands) -> magnitudes (..., bins), of which a band is a mean."""
        frames = log_mel.flatten(0, -2)
        magnitudes = torch.cat([self._relative(part) for part in frames.split(FRAMES_AT_ONCE)])
        levels = frames.exp()
        magnitudes = magnitudes * levels[:, self.band]
        for _ in range(4):
            ratio = levels / (magnitudes @ self.filters).clamp(min=1e-12)
            magnitudes = magnitudes * (ratio @ self.spread + self.outside)
        return magnitudes.unflatten(0, log_mel.shape[:-1])

    def _relative(self, log_mel: Tensor) -> Tensor:
        """log_mel (N, bands) -> magnitudes relative to the level of their band (N, bins)."""
        return (self._features(log_mel) @ self.weights)[self.band, :, self.column].T.exp()

    def _features(self, log_mel: Tensor) -> Tensor:
        """log_mel (N, bands) -> (bands, N, P)."""
        padded = F.pad(log_mel[:, None], (NEIGHBOURS, NEIGHBOURS), mode="replicate")[:, 0]
        level = log_mel.T[..., None]
        around = padded.unfold(1, 2 * NEIGHBOURS + 1, 1).transpose(0, 1) - level
        random = (around @ self.directions + self.offsets).tanh()
        return torch.cat([torch.ones_like(level), level, around, random], -1)
