"""How far decoded latents are from the true ones (the paper's Table I measures in this space)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class LatentError(Metric):
    """Normalised mean squared error of latents: mean over valid frames and channels of (x - x_hat)^2 / var, per channel.

    0 is perfect, 1 is as good as always giving the mean latent (1 - R^2). States are sums, so that ranks agree exactly.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, latent_std: Tensor) -> None:
        """latent_std (D): per channel, of the training latents."""
        super().__init__()
        self.register_buffer("latent_std", latent_std.double(), persistent=False)
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("elements", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, latents: Tensor, num_frames: Tensor) -> None:
        """decoded, latents (B, F, D); num_frames (B): frames from num_frames on are padding."""
        valid = (torch.arange(latents.shape[1], device=latents.device) < num_frames[:, None])[..., None]
        error = (decoded.double() - latents.double()) / self.latent_std
        self.squares += (error.square() * valid).sum()
        self.elements += valid.sum() * latents.shape[2]

    def compute(self) -> Tensor:
        return self.squares / self.elements


class CodebookUse(Metric):
    """Counts of codes over an epoch: perplexity 2^H, share of entries used, and H in bits a code; means over levels."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, codebook_size: int, levels: Sequence[int] = (0,)) -> None:
        """levels: the level of each code of one block; code s of a clip is of level levels[s % len(levels)]."""
        super().__init__()
        self.codebook_size, self.levels = codebook_size, tuple(levels)
        self.add_state(
            "counts", torch.zeros(max(levels) + 1, codebook_size, dtype=torch.long), dist_reduce_fx="sum"
        )  # (Q, K)

    def update(self, codes: Tensor, mask: Tensor) -> None:
        """codes, mask (..., S): masked-out codes are padding and do not count."""
        places = torch.arange(codes.shape[-1], device=codes.device) % len(self.levels)
        rows = torch.tensor(self.levels, device=codes.device)[places] * self.codebook_size + codes
        self.counts += torch.bincount(rows[mask], minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> dict[str, Tensor]:
        share = self.counts.double() / self.counts.sum(-1, keepdim=True).clamp(min=1)
        bits = -(share * share.clamp(min=1e-300).log2()).sum(-1)
        return {
            "codebook_perplexity": bits.exp2().mean(),
            "codebook_used": (self.counts > 0).double().mean(),
            "codebook_bits": bits.mean(),
        }
