"""A codebook that is a frozen table through one learned matrix: what `simvq` and `lexical` share.

    latents (B, N, D) ──project──► x (B, N, d) ──search in (table (K, E) x matrix)──► codes (B, N)

Every step moves all codes, for the matrix is common to them. Gradients alone train it: no statistics, no revival, no
collectives.
"""

import torch
from torch import Tensor, nn

from models.quantizer.interface import Quantized, Quantizer, masked_mean, straight_through, without_padding


class LinearCodebook(Quantizer):
    """A child gives `table`, how vectors and codes are compared, and registers the table as a buffer.

    Loss: mean square of (sg x - q), which moves the codes, and commitment_weight times that of (x - sg q), which moves
    the encoder; sg stops the gradient.
    """

    def __init__(self, dim: int, num_codes: int, table_dim: int, code_dim: int, commitment_weight: float) -> None:
        """dim: of the latents; the table is (num_codes, table_dim); code_dim: where codes are compared."""
        super().__init__(dim, num_codes)
        self.commitment_weight = commitment_weight
        self.project_in = nn.Linear(dim, code_dim, bias=False)
        self.matrix = nn.Linear(table_dim, code_dim, bias=False)
        self.project_out = nn.Linear(code_dim, dim, bias=False)

    @property
    def table(self) -> Tensor:
        """(K, E), frozen."""
        raise NotImplementedError

    def scaled(self, vectors: Tensor) -> Tensor:
        """(..., d) -> (..., d): applied to the projected latents and to the codes, before they are compared."""
        raise NotImplementedError

    def search(self, vectors: Tensor, codebook: Tensor) -> Tensor:
        """vectors (M, d), codebook (K, d) -> index (M)."""
        raise NotImplementedError

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            latents, mask = without_padding(latents, mask)
            vectors, codebook = self.scaled(self.project_in(latents)), self.codebook()
            codes = self.search(vectors.flatten(0, 1), codebook).view(mask.shape)
            chosen = codebook[codes]
            loss = masked_mean((vectors.detach() - chosen).square().mean(-1), mask)
            commitment = masked_mean((vectors - chosen.detach()).square().mean(-1), mask)
            quantized = self.project_out(straight_through(vectors, chosen))
            return Quantized(quantized, codes, loss + self.commitment_weight * commitment)

    def decode_valid(self, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.codebook()[codes])

    def codebook(self) -> Tensor:
        """(K, d), with the gradient of the matrix."""
        return self.scaled(self.matrix(self.table))
