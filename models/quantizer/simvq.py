"""A codebook that cannot collapse: frozen random vectors through a learned matrix (Zhu et al. 2024, arXiv:2411.02038).

Codes are compared by distance, in few dimensions as in `vq`; they have no common length here.
"""

import torch
from torch import Tensor, nn

from models.quantizer.linear_codebook import LinearCodebook
from models.quantizer.nearest_code import closest


class SimVQ(LinearCodebook):
    """Its matrix starts as the identity."""

    book: Tensor  # (K, d) frozen

    def __init__(self, dim: int, codebook_size: int, code_dim: int, commitment_weight: float, seed: int) -> None:
        """seed: of the frozen vectors."""
        super().__init__(dim, codebook_size, code_dim, code_dim, commitment_weight)
        nn.init.eye_(self.matrix.weight)
        book = torch.randn(codebook_size, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("book", book * code_dim**-0.5)

    @property
    def table(self) -> Tensor:
        return self.book

    def scaled(self, vectors: Tensor) -> Tensor:
        return vectors

    def search(self, vectors: Tensor, codebook: Tensor) -> Tensor:
        return closest(vectors, codebook)

    @property
    def vectors(self) -> Tensor:
        return self.codebook().detach()[None]
