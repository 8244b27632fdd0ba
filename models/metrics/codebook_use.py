"""How often codes are used: over an epoch, as a metric, and in one sound, as a histogram."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUse(Metric):
    """Counts of codes over an epoch: perplexity 2^H, share of entries used, and H in bits a code; means over levels."""

    counts: Tensor  # (Q, K) long

    higher_is_better = True
    full_state_update = False

    def __init__(self, codebook_size: int, levels: Sequence[int] = (0,), **arguments: Any) -> None:
        """levels: the level of each code of one block; arguments: of torchmetrics.Metric."""
        super().__init__(**arguments)
        self.codebook_size, self.levels = codebook_size, tuple(levels)
        counts = torch.zeros(max(levels) + 1, codebook_size, dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, codes: Tensor, mask: Tensor) -> None:
        """codes, mask (..., S): masked-out codes are padding and do not count."""
        rows = code_rows(codes, self.codebook_size, self.levels)
        self.counts += torch.bincount(rows[mask], minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> dict[str, Tensor]:
        """codebook_perplexity, codebook_used and codebook_bits, each ()."""
        share = self.counts.double() / self.counts.sum(-1, keepdim=True).clamp(min=1)
        bits = -(share * share.clamp(min=1e-300).log2()).sum(-1)
        return {
            "codebook_perplexity": bits.exp2().mean(),
            "codebook_used": (self.counts > 0).double().mean(),
            "codebook_bits": bits.mean(),
        }


def code_histogram(codes: Sequence[int] | Tensor, codebook_size: int, levels: Sequence[int]) -> Tensor:
    """codes (S) of one sound, whole blocks -> log(1 + count) of each code of each level (Q K)."""
    rows = code_rows(torch.as_tensor(codes), codebook_size, levels)
    return torch.bincount(rows, minlength=(max(levels) + 1) * codebook_size).float().log1p()


def code_rows(codes: Tensor, codebook_size: int, levels: Sequence[int]) -> Tensor:
    """codes (..., S) -> level x codebook_size + code (..., S), where code s is of level levels[s % len(levels)]."""
    index = torch.arange(codes.shape[-1], device=codes.device) % len(levels)
    return torch.tensor(levels, device=codes.device)[index] * codebook_size + codes
