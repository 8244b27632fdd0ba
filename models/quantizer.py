"""Vector quantiser with a factorised cosine codebook learned by running averages.

Codes are unit vectors in few dimensions (Yu et al. 2022, arXiv:2110.04627); each follows the mean of the vectors that chose it (van den Oord et al.
2017, arXiv:1711.00937, appendix A.1). It starts by k-means on a reservoir, and entries that fall out of use are moved onto current vectors (Dhariwal
et al. 2020, arXiv:2005.00341). All randomness hangs on (seed, step): a resumed run draws what the undisturbed one drew.
"""

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    quantized: Tensor  # (B, N, D), gradient straight through
    codes: Tensor  # (B, N) long; 0 where masked, which is a sound too: keep the mask
    commitment: Tensor  # scalar


class VectorQuantizer(nn.Module):
    """latents (B, N, D) -> codes (B, N) and back. Nothing changes in eval()."""

    counts: Tensor
    sums: Tensor
    codebook: Tensor
    reservoir: Tensor
    filled: Tensor
    step: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        code_dim: int,
        decay: float,
        commitment_weight: float,
        kmeans_iterations: int,
        reservoir_size: int,
        revive_threshold: float,
        revive_every: int,
        revive_until: int,
        seed: int,
    ) -> None:
        """revive_threshold: share of the mean use below which an entry is dead; revive_every, revive_until: steps."""
        super().__init__()
        if reservoir_size < codebook_size:
            raise ValueError(f"reservoir_size {reservoir_size} is below codebook_size {codebook_size}: k-means needs at least one vector a code")
        self.codebook_size, self.decay, self.commitment_weight = codebook_size, decay, commitment_weight
        self.kmeans_iterations, self.seed = kmeans_iterations, seed
        self.revive_threshold, self.revive_every, self.revive_until = revive_threshold, revive_every, revive_until
        self.project_in = nn.Linear(dim, code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        start = torch.randn(codebook_size, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codebook", F.normalize(start, dim=-1))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("reservoir", torch.zeros(reservoir_size, code_dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def is_ready(self) -> bool:
        """Whether k-means has run; before it latents pass unquantised in training."""
        return int(self.filled) >= len(self.reservoir)

    def forward(self, latents: Tensor, mask: Tensor) -> Quantized:
        """latents (B, N, D), mask (B, N) True where valid. In training the codebook follows; statistics are summed over ranks."""
        with torch.autocast(latents.device.type, enabled=False):
            vectors = F.normalize(self.project_in(latents.float()), dim=-1)
            if self.training and not self.is_ready:
                self._fill(vectors[mask].detach())
                if not self.is_ready:
                    empty = torch.zeros(mask.shape, dtype=torch.long, device=latents.device)
                    return Quantized(self.project_out(vectors), empty, vectors.sum() * 0)
            codes = self.nearest(vectors) * mask
            chosen = self.codebook[codes]
            if self.training:
                self._follow(vectors[mask].detach(), codes[mask])
            gap = (vectors - chosen.detach()).square().sum(-1) * mask
            commitment = self.commitment_weight * gap.sum() / mask.sum().clamp(min=1)
            straight = vectors + (chosen - vectors).detach()
            return Quantized(self.project_out(straight), codes, commitment)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, N) -> (B, N, D). Raises ValueError on a code outside 0 .. codebook_size - 1."""
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size):
            raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())}; 0 to {self.codebook_size - 1} are allowed")
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.codebook[codes])

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the code with the largest cosine; the lowest index among equals. vectors (..., code_dim) of length one."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        found = [(block @ self.codebook.T).argmax(-1) for block in flat.split(ROWS)]
        return torch.cat(found).view(vectors.shape[:-1])

    @torch.no_grad()
    def _fill(self, vectors: Tensor) -> None:
        """Adds vectors to the reservoir; k-means once it is full. Ranks pool their vectors, so that all start from the same book."""
        vectors = _gather(vectors)
        begin = int(self.filled)
        taken = vectors[: len(self.reservoir) - begin]
        self.reservoir[begin : begin + len(taken)] = taken
        self.filled += len(taken)
        if self.is_ready:
            generator = self._generator(vectors.device)
            order = torch.randperm(len(self.reservoir), generator=generator, device=vectors.device)
            self.codebook.copy_(self.reservoir[order[: self.codebook_size]])
            for _ in range(self.kmeans_iterations):
                sums, counts = _sums(self.reservoir, self.nearest(self.reservoir), self.codebook_size)
                self.codebook.copy_(torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), self.codebook))
            sums, counts = _sums(self.reservoir, self.nearest(self.reservoir), self.codebook_size)
            scale = len(vectors) / len(self.reservoir)  # statistics as of one batch
            self.counts.copy_(counts * scale)
            self.sums.copy_(torch.where(counts[:, None] > 0, sums * scale, self.codebook * 1e-3))

    @torch.no_grad()
    def _follow(self, vectors: Tensor, codes: Tensor) -> None:
        """One step of the running averages, and now and then the revival of dead entries."""
        sums, counts = _sums(vectors, codes, self.codebook_size)
        if _is_distributed():
            both = torch.cat([sums, counts[:, None]], dim=1)
            torch.distributed.all_reduce(both)
            sums, counts = both[:, :-1], both[:, -1]
        self.sums.lerp_(sums, 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        self.codebook.copy_(F.normalize(self.sums, dim=-1))
        self.step += 1
        if int(self.step) % self.revive_every == 0 and int(self.step) <= self.revive_until:
            self._revive(_gather(vectors))

    def _revive(self, vectors: Tensor) -> None:
        """Entries used less than revive_threshold of the mean become current vectors, with the mean's statistics."""
        mean = self.counts.mean()
        dead = (self.counts < self.revive_threshold * mean).nonzero().flatten()[: len(vectors)]
        chosen = torch.randperm(len(vectors), generator=self._generator(vectors.device), device=vectors.device)[: len(dead)]
        self.codebook[dead] = vectors[chosen]
        self.sums[dead] = vectors[chosen] * mean
        self.counts[dead] = mean

    def _generator(self, device: torch.device) -> torch.Generator:
        return torch.Generator(device=device).manual_seed(self.seed * 1_000_003 + int(self.step))


ROWS = 65_536  # of the similarity matrix at a time


def _sums(vectors: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sum (K, code_dim) and number (K) of the vectors of each code."""
    sums = torch.zeros(size, vectors.shape[-1], device=vectors.device).index_add_(0, codes, vectors)
    return sums, torch.bincount(codes, minlength=size).to(sums.dtype)


def _is_distributed() -> bool:
    """Asked at the call: modules are built before the process group is."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _gather(vectors: Tensor) -> Tensor:
    """Vectors (M, D) of all ranks, in rank order, whatever number each has."""
    if not _is_distributed():
        return vectors
    world = torch.distributed.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.long, device=vectors.device) for _ in range(world)]
    torch.distributed.all_gather(sizes, torch.tensor([len(vectors)], device=vectors.device))
    longest = max(int(size) for size in sizes)
    padded = torch.cat([vectors, vectors.new_zeros(longest - len(vectors), vectors.shape[1])])
    found = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(found, padded)
    return torch.cat([part[: int(size)] for part, size in zip(found, sizes, strict=True)])
