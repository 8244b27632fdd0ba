"""Vector quantisation with a codebook that follows its vectors by running means (van den Oord et al. 2017,
arXiv:1711.00937, appendix A.1).

Codes are factorised and compared by angle (Yu et al. 2022, arXiv:2110.04627): a vector is projected to few dimensions
and to length 1, so that a large book stays in use. The book starts from k-means over the first vectors; codes that fall
out of use start anew from vectors of the batch.

    latents (B, N, D) ──project, length 1──► (B, N, d) ──nearest──► codes (B, N)
    quantised (B, N, D) ◄──project── (B, N, d) ◄──codebook──────────────────┘
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    quantized: Tensor  # (B, N, D), with the gradient of the unquantised
    codes: Tensor  # (B, N) long
    commitment_loss: Tensor  # (), weighted


class VectorQuantizer(nn.Module):
    """Every random choice is drawn from (seed, step), and all that the future depends on is in `state_dict`: a resumed
    run equals the undisturbed one.

    Ranks agree: they add up their statistics and share the vectors that codes start from. `eval()`, or update=False,
    changes nothing. Each training forward counts as a step, so with gradient accumulation a step is a batch, not an
    optimizer step.
    """

    codebook: Tensor  # (K, d), each of length 1
    counts: Tensor  # (K) running mean of a code's uses in a step, over all ranks
    sums: Tensor  # (K, d) running mean of the sum of its vectors
    reservoir: Tensor  # (reservoir_size, d) the first vectors
    filled: Tensor  # () long: vectors in the reservoir
    step: Tensor  # () long
    ready: Tensor  # () bool: the codebook has started

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
        """reservoir_size: vectors that k-means starts from. revive_threshold: share of the mean use below which a code
        starts anew, every `revive_every` steps, before step `revive_until`.
        """
        super().__init__()
        if reservoir_size < codebook_size:
            raise ValueError(
                f"reservoir_size {reservoir_size} is below codebook_size {codebook_size}: "
                "k-means needs a vector a code, better 20"
            )
        if code_dim < 2:
            raise ValueError(f"code_dim {code_dim}; at least 2 is allowed: codes are directions")
        if revive_every < 1:
            raise ValueError(
                f"revive_every {revive_every}; at least 1 is allowed. To revive nothing, set revive_until to 0"
            )
        self.dim, self.codebook_size, self.code_dim = dim, codebook_size, code_dim
        self.decay, self.commitment_weight = decay, commitment_weight
        self.kmeans_iterations, self.reservoir_size = kmeans_iterations, reservoir_size
        self.revive_threshold, self.revive_every, self.revive_until = revive_threshold, revive_every, revive_until
        self.seed = seed

        self.project_in = nn.Linear(dim, code_dim, bias=False)
        self.project_out = nn.Linear(code_dim, dim, bias=False)
        nn.init.normal_(self.project_out.weight)  # a code of length 1 gives entries of variance 1
        start = torch.randn(codebook_size, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codebook", F.normalize(start, dim=-1))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, code_dim))
        self.register_buffer("reservoir", torch.zeros(reservoir_size, code_dim))
        self.register_buffer("filled", torch.tensor(0))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        """latents (B, N, D); mask (B, N) bool, False for padding, which has no part in statistics and loss. In float32,
        under autocast too.

        In training with update, until the reservoir is full: nothing is quantised (the vectors themselves go on, codes
        are the nearest of a random book).
        """
        with torch.autocast(latents.device.type, enabled=False):
            vectors = F.normalize(self.project_in(latents.float()), dim=-1)
            flat = vectors.detach().flatten(0, 1)
            codes = nearest(flat, self.codebook)
            chosen = self.codebook[codes].view_as(vectors)
            mask = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device) if mask is None else mask
            update = update and self.training
            if update and not self.ready:
                passed, commitment = vectors, vectors.new_zeros(())
            else:
                passed = vectors + (chosen - vectors).detach()
                distances = (vectors - chosen).square().sum(-1) * mask
                commitment = self.commitment_weight * distances.sum() / mask.sum().clamp(min=1)
            if update:
                self._update(flat[mask.flatten()], codes[mask.flatten()])
            return Quantized(self.project_out(passed), codes.view(vectors.shape[:2]), commitment)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, N) -> (B, N, D): what `forward` gave with them. Raises ValueError for a code that is not in the
        book.
        """
        low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
        if low < 0 or high >= self.codebook_size:
            raise ValueError(
                f"codes from {low} to {high}; 0 to {self.codebook_size - 1} are allowed. "
                "Were they made by another tokenizer?"
            )
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.codebook[codes])

    @torch.no_grad()
    def _update(self, vectors: Tensor, codes: Tensor) -> None:
        """One step. vectors (M, d) and codes (M) of this rank, without padding. Every rank comes here, also with M = 0:
        it takes part in the collectives.
        """
        step = int(self.step)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % (1 << 62))
        if not self.ready:
            self._fill(gather(vectors), generator)
        else:
            self._follow(vectors, codes)
            if step < self.revive_until and (step + 1) % self.revive_every == 0:
                self._revive(gather(vectors), generator)
        self.step += 1

    def _follow(self, vectors: Tensor, codes: Tensor) -> None:
        """Running means, summed over ranks; a code that nobody used keeps its direction."""
        totals = vectors.new_zeros(self.codebook_size, self.code_dim + 1)
        totals.index_add_(0, codes, F.pad(vectors, (0, 1), value=1.0))
        if is_distributed():
            dist.all_reduce(totals)
        uses = totals[:, -1]
        self.counts.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(totals[:, :-1], 1 - self.decay)
        self.codebook.copy_(torch.where(uses[:, None] > 0, F.normalize(self.sums, dim=-1), self.codebook))

    def _revive(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Codes used below the threshold, the least used first, start anew from vectors (M, d) of this step, each taken
        once.
        """
        mean = self.counts.mean()
        order = self.counts.argsort(stable=True)
        dead = order[: int((self.counts < self.revive_threshold * mean).sum())][: len(vectors)]
        chosen = vectors[torch.randperm(len(vectors), generator=generator)[: len(dead)].to(vectors.device)]
        self.codebook[dead] = chosen
        self.sums[dead] = chosen * mean
        self.counts[dead] = mean

    def _fill(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Puts vectors (M, d) into the reservoir, a random part of them where not all fit; the full reservoir starts
        the codebook.
        """
        vectors_a_step = len(vectors)
        start = int(self.filled)
        room = self.reservoir_size - start
        if len(vectors) > room:
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:room].to(vectors.device)]
        self.reservoir[start : start + len(vectors)] = vectors
        self.filled += len(vectors)
        if int(self.filled) < self.reservoir_size:
            return
        codebook, uses = kmeans(self.reservoir, self.codebook_size, self.kmeans_iterations, generator)
        if is_distributed():  # sums on a GPU differ in their last bits from rank to rank
            dist.broadcast(codebook, 0)
            dist.broadcast(uses, 0)
        self.codebook.copy_(codebook)
        self.counts.copy_(uses * (vectors_a_step / self.reservoir_size))  # one step, spread like the reservoir
        self.sums.copy_(self.codebook * self.counts[:, None])
        self.ready.fill_(True)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """vectors (M, d) -> index (M) of the code with the largest inner product; the first of equals. At most 2^25
    products are held at a time.
    """
    rows = max(1, (1 << 25) // len(codebook))
    with torch.no_grad():
        return torch.cat([(part @ codebook.T).argmax(-1) for part in vectors.split(rows)])


def kmeans(vectors: Tensor, size: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """vectors (M, d) of length 1 -> codebook (size, d) of length 1 and the number of vectors of each code (size).
    Dhillon and Modha 2001.

    A code that loses all its vectors starts anew from a random one.
    """

    def draw() -> Tensor:
        return vectors[torch.randperm(len(vectors), generator=generator)[:size].to(vectors.device)]

    codebook = draw()
    for _ in range(iterations):
        totals = vectors.new_zeros(size, vectors.shape[1] + 1)
        totals.index_add_(0, nearest(vectors, codebook), F.pad(vectors, (0, 1), value=1.0))
        codebook = torch.where(totals[:, -1:] > 0, F.normalize(totals[:, :-1], dim=-1), draw())
    return codebook, torch.bincount(nearest(vectors, codebook), minlength=size).to(vectors)


def gather(vectors: Tensor) -> Tensor:
    """vectors (M, d) of every rank, joined in the order of ranks; M may differ, and be 0."""
    if not is_distributed():
        return vectors
    count = torch.tensor([len(vectors)], device=vectors.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = max(int(other) for other in counts)
    padded = F.pad(vectors, (0, 0, 0, longest - len(vectors)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(other)] for part, other in zip(parts, counts, strict=True)])


def is_distributed() -> bool:
    """Asked at call time: modules are built before the process group is."""
    return dist.is_available() and dist.is_initialized()
