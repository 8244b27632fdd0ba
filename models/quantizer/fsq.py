"""Finite scalar quantisation: a few bounded numbers, each rounded to one of its levels (Mentzer et al. 2023).

arXiv:2309.15505.

    latents (B, N, D) ──project──► (B, N, d) ──tanh, round──► a digit in 0 .. L_i - 1 each ──mixed radix──► codes (B, N)

Every code is a point of a grid, so none can die and nothing needs a loss.
"""

import math

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.quantizer.interface import Quantized, Quantizer, straight_through, without_padding


class FSQ(Quantizer):
    """A code is the number sum of digit_i x L_0 ... L_{i-1}: the first dimension counts fastest."""

    bins: Tensor  # (d) long: L_i
    radix: Tensor  # (d) long: L_0 ... L_{i-1}

    def __init__(self, dim: int, levels: list[int]) -> None:
        """levels: how many values each dimension has, as 8, 5, 5, 5, 8 for 8000 codes. Raises ModelError."""
        if not levels or min(levels) < 2 or max(levels) > 1000:
            raise ModelError(f"levels {list(levels)}; one dimension or more of 2 to 1000 values each is allowed")
        super().__init__(dim, math.prod(levels))
        self.project_in, self.project_out = nn.Linear(dim, len(levels)), nn.Linear(len(levels), dim)
        radix = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("bins", torch.tensor(list(levels)), persistent=False)
        self.register_buffer("radix", torch.tensor(radix), persistent=False)

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            latents, _ = without_padding(latents, mask)
            bounded = self.bound(self.project_in(latents))
            digits = bounded.detach().round()  # from -(L // 2) on
            half = self.bins // 2
            codes = ((digits.long() + half) * self.radix).sum(-1)
            quantized = self.project_out(straight_through(bounded, digits) / half)
            return Quantized(quantized, codes, latents.new_zeros(()))

    def bound(self, projected: Tensor) -> Tensor:
        """(..., d) -> (..., d), within the L_i values that rounding gives; 0 stays 0.

        Half a step lower where L_i is even, for then the values are -L / 2 ... L / 2 - 1.
        """
        # a little more, so that the outer values have their half step
        reach = (self.bins - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.bins % 2 == 0, 0.5, 0.0)
        return (projected + (offset / reach).atanh()).tanh() * reach - offset

    def decode_valid(self, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.grid(codes))

    def grid(self, codes: Tensor) -> Tensor:
        """codes (...) -> the numbers (..., d) that they stand for, in [-1, 1]."""
        half = self.bins // 2
        return (codes[..., None] // self.radix % self.bins - half) / half

    @property
    def vectors(self) -> Tensor:
        return self.grid(torch.arange(self.codebook_size, device=self.bins.device))[None]
