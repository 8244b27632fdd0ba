"""Vector quantisation with a codebook that follows its vectors by running means (van den Oord et al. 2017).

arXiv:1711.00937, appendix A.1. Codes are factorised and compared by angle (Yu et al. 2022, arXiv:2110.04627): a vector
is projected to few dimensions and to length 1, so that a large codebook stays in use. It starts from k-means over the
first vectors; codes that fall out of use start again from vectors of the batch that are far from their codes (Arthur
and Vassilvitskii 2007: k-means++).

    latents (B, N, D) ──project, length 1──► (B, N, d) ──nearest──► codes (B, N)
    quantised (B, N, D) ◄──project── (B, N, d) ◄──codebook──────────────────┘
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.quantizer import variational as posterior
from models.quantizer.distributed import add_up, agree, gather, rank
from models.quantizer.interface import Quantized, Quantizer, masked_mean, straight_through, without_padding
from models.quantizer.nearest_code import far, kmeans, nearest


class VectorQuantizer(Quantizer):
    """The default: one code a token.

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
        variational: posterior.Variational,
        kl_weight: float,
        temperature: float,
    ) -> None:
        """reservoir_size: vectors that k-means starts from.

        revive_threshold: share of the mean use below which a code starts again, every `revive_every` steps, before step
        `revive_until`. variational: see the module of that name; kl_weight: of its divergence; temperature: of gumbel's
        posterior. Raises ModelError for values that are not allowed.
        """
        super().__init__(dim, codebook_size)
        if reservoir_size < codebook_size:
            raise ModelError(
                f"reservoir_size {reservoir_size} is below codebook_size {codebook_size}: "
                "k-means needs a vector a code, better 20"
            )
        if code_dim < 2:
            raise ModelError(f"code_dim {code_dim}; at least 2 is allowed: codes are directions")
        if revive_every < 1:
            raise ModelError(
                f"revive_every {revive_every}; at least 1 is allowed. To revive nothing, set revive_until to 0"
            )
        if variational not in ("none", "gumbel", "gaussian"):
            raise ModelError(f"variational {variational!r}; none, gumbel and gaussian are allowed")
        if temperature <= 0:
            raise ModelError(f"temperature {temperature}; above 0 is allowed")
        self.code_dim = code_dim
        self.decay, self.commitment_weight = decay, commitment_weight
        self.kmeans_iterations, self.reservoir_size = kmeans_iterations, reservoir_size
        self.revive_threshold, self.revive_every, self.revive_until = revive_threshold, revive_every, revive_until
        self.seed = seed
        self.variational, self.kl_weight, self.temperature = variational, kl_weight, temperature

        self.project_in = nn.Linear(dim, 2 * code_dim if variational == "gaussian" else code_dim, bias=False)
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
        self._known: _Progress | None = None  # ready and step, without a wait for the device; None: read the buffers
        self.register_load_state_dict_post_hook(_read_again)

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        """In training with update, nothing is quantised until the reservoir is full.

        Till then the output is projected from the vectors, and codes are the nearest of a random codebook.
        """
        with torch.autocast(latents.device.type, enabled=False):
            latents, mask = without_padding(latents, mask)
            update = update and self.training
            started = self.started or not update
            noise = self._noise(latents.device) if update and self.variational != "none" else None
            projected, divergence = self.project_in(latents), None
            if self.variational == "gaussian":
                projected, divergence = posterior.gaussian(projected, noise)
            vectors = F.normalize(projected, dim=-1)
            if self.variational == "gumbel" and started:
                codes, divergence = posterior.gumbel(vectors, self.codebook.clone(), self.temperature, noise)
            else:
                codes = nearest(vectors.detach().flatten(0, 1), self.codebook).view(mask.shape)
            chosen = self.codebook[codes]
            loss = vectors.new_zeros(())
            if started:
                loss = self.commitment_weight * masked_mean((vectors - chosen).square().sum(-1), mask)
            if divergence is not None:
                loss = loss + self.kl_weight * masked_mean(divergence, mask)
            if update:
                self._update(vectors.detach(), codes, mask)
            return Quantized(self.project_out(straight_through(vectors, chosen) if started else vectors), codes, loss)

    def decode_valid(self, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.codebook[codes])

    @property
    def started(self) -> bool:
        return self._progress().ready

    @property
    def vectors(self) -> Tensor:
        return self.codebook[None]

    def _noise(self, device: torch.device) -> torch.Generator:
        """A generator for this step and this rank: ranks have different vectors."""
        return torch.Generator(device=device).manual_seed(self._step_seed() ^ (rank() + 1) << 40)

    def _step_seed(self) -> int:
        return (self.seed * 1_000_003 + self._progress().step) % (1 << 62)

    def _progress(self) -> "_Progress":
        if self._known is None:
            self._known = _Progress(bool(self.ready), int(self.step))
        return self._known

    @torch.no_grad()
    def _update(self, vectors: Tensor, codes: Tensor, mask: Tensor) -> None:
        """One step. vectors (B, N, d), codes and mask (B, N) of this rank.

        Every rank takes part in the collectives, also without a vector. Vectors that are not finite are left out: they
        would stay in the running means for ever. Only the steps that fill the reservoir or revive codes pick vectors
        out, for which a GPU is waited for.
        """
        valid = mask & vectors.isfinite().all(-1)
        ready, step = self._progress()
        generator = torch.Generator().manual_seed(self._step_seed())
        if not ready:
            ready = self._fill(gather(vectors[valid]), generator)
        else:
            self._follow(vectors, codes, valid)
            if step < self.revive_until and (step + 1) % self.revive_every == 0:
                self._revive(gather(vectors[valid]), generator)
        self.step += 1
        self._known = _Progress(ready, step + 1)

    def _follow(self, vectors: Tensor, codes: Tensor, valid: Tensor) -> None:
        """Updates the running means, summed over ranks; a code without valid vectors keeps its direction."""
        totals = vectors.new_zeros(self.codebook_size, self.code_dim + 1)
        rows = torch.where(valid[..., None], F.pad(vectors, (0, 1), value=1.0), 0.0)
        totals.index_add_(0, codes.flatten(), rows.flatten(0, 1))
        add_up(totals)
        uses = totals[:, -1]
        self.counts.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(totals[:, :-1], 1 - self.decay)
        self.codebook.copy_(torch.where(uses[:, None] > 0, F.normalize(self.sums, dim=-1), self.codebook))

    def _revive(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Codes used below the threshold, the least used first, start again from vectors (M, d) of this step.

        Each vector is taken once, drawn by the square of the distance to its code: none is one that a code stands for
        already, as for silence.
        """
        mean = self.counts.mean()
        order = self.counts.argsort(stable=True)
        dead = order[: int((self.counts < self.revive_threshold * mean).sum())]
        chosen = far(vectors, self.codebook, len(dead), generator)
        dead = dead[: len(chosen)]
        self.codebook[dead] = chosen
        self.sums[dead] = chosen * mean
        self.counts[dead] = mean

    def _fill(self, vectors: Tensor, generator: torch.Generator) -> bool:
        """Puts vectors (M, d) into the reservoir, a random part of them where not all fit.

        A full reservoir starts the codebook: whether it has.
        """
        vectors_a_step = len(vectors)
        start = int(self.filled)
        room = self.reservoir_size - start
        if len(vectors) > room:
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:room].to(vectors.device)]
        self.reservoir[start : start + len(vectors)] = vectors
        self.filled += len(vectors)
        if start + len(vectors) < self.reservoir_size:
            return False
        codebook, uses = kmeans(self.reservoir, self.codebook_size, self.kmeans_iterations, generator)
        agree(codebook, uses)
        self.codebook.copy_(codebook)
        # as after one step whose vectors are spread like the reservoir
        self.counts.copy_(uses * (vectors_a_step / self.reservoir_size))
        self.sums.copy_(self.codebook * self.counts[:, None])
        self.ready.fill_(True)
        return True


class _Progress(NamedTuple):
    """The buffers of the same names."""

    ready: bool
    step: int


def _read_again(quantizer: VectorQuantizer, _: object) -> None:
    quantizer._known = None
