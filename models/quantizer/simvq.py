"""A codebook that cannot collapse: frozen random vectors, seen through one learned matrix (SimVQ: Zhu et al. 2024,
arXiv:2411.02038).

Every step moves all codes, for the matrix is common to them. Gradients alone train it: no statistics, no revival, no
collectives of its own. Found by distance in few dimensions, as in `vq`; codes have no common length here.

    latents (B, N, D) ──project──► x (B, N, d) ──closest of (frozen book (K, d) x matrix)──► codes (B, N)
"""

import torch
from torch import Tensor, nn

from models.quantizer.interface import Quantized, Quantizer, masked_mean, straight_through, without_padding
from models.quantizer.search import closest


class SimVQ(Quantizer):
    """Loss: mean square of (sg x - q), which moves the codes, and commitment_weight times that of (x - sg q)."""

    book: Tensor  # (K, d) frozen

    def __init__(self, dim: int, codebook_size: int, code_dim: int, commitment_weight: float, seed: int) -> None:
        super().__init__(dim, codebook_size)
        self.commitment_weight = commitment_weight
        self.project_in = nn.Linear(dim, code_dim, bias=False)
        self.matrix = nn.Linear(code_dim, code_dim, bias=False)
        self.project_out = nn.Linear(code_dim, dim, bias=False)
        nn.init.eye_(self.matrix.weight)
        book = torch.randn(codebook_size, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("book", book * code_dim**-0.5)

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            latents, mask = without_padding(latents, mask)
            vectors, codebook = self.project_in(latents), self.matrix(self.book)
            codes = closest(vectors.flatten(0, 1), codebook).view(mask.shape)
            chosen = codebook[codes]
            loss = two_sided(vectors, chosen, mask, self.commitment_weight)
            return Quantized(self.project_out(straight_through(vectors, chosen)), codes, loss)

    def decode(self, codes: Tensor) -> Tensor:
        self._check(codes)
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.matrix(self.book)[codes])

    @property
    def vectors(self) -> Tensor:
        return self.matrix(self.book).detach()[None]


def two_sided(vectors: Tensor, chosen: Tensor, mask: Tensor, commitment_weight: float) -> Tensor:
    """vectors x, chosen q (B, N, d) -> (): mean over valid elements of (sg x - q)^2 + commitment_weight (x - sg q)^2."""
    codebook = masked_mean((vectors.detach() - chosen).square().mean(-1), mask)
    return codebook + commitment_weight * masked_mean((vectors - chosen.detach()).square().mean(-1), mask)
