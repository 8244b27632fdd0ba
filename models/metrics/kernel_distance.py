"""Kernel audio distance (Chung et al. 2025, arXiv:2502.15602): two sets of embedded sounds, as distributions."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class KernelAudioDistance(Metric):
    """100 x the unbiased squared maximum mean discrepancy with a Gaussian kernel, in float64.

    The kernel's width is the median distance within the reference set. 0 for equal distributions, where it may be a
    little below: it is not clipped. The number belongs to the embedder, which must be in its name (`kad[aisfx-0.1.2]`).
    """

    # The bytes of float64, as one axis of float32: what torchmetrics makes for a rank without a sound is that, and it
    # gathers only what agrees in axes and type.
    reference: list[Tensor]
    candidates: list[Tensor]
    embedding_dim: Tensor  # ()

    higher_is_better = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("reference", [], dist_reduce_fx="cat")
        self.add_state("candidates", [], dist_reduce_fx="cat")
        self.add_state("embedding_dim", torch.tensor(0), dist_reduce_fx="max")

    def update(self, embeddings: Tensor, real: bool) -> None:
        """embeddings (M, E): real ones of the reference set, others of the sounds that are measured."""
        (self.reference if real else self.candidates).append(embeddings.double().flatten().view(torch.float32).cpu())
        self.embedding_dim.fill_(embeddings.shape[1])

    def compute(self) -> Tensor:
        """NaN where either set has fewer than two sounds, or the reference is one point."""
        if not self.embedding_dim or len(self.reference) == 0 or len(self.candidates) == 0:
            return torch.tensor(float("nan"))
        dim = int(self.embedding_dim)
        x, y = (dim_zero_cat(sounds).view(torch.float64).view(-1, dim) for sounds in (self.reference, self.candidates))
        if min(len(x), len(y)) < 2:
            return torch.tensor(float("nan"))
        within = torch.pdist(x)
        width = within.median()
        if width == 0:
            return torch.tensor(float("nan"))

        def kernel(distances: Tensor) -> Tensor:
            return (-distances.square() / (2 * width.square())).exp()

        return 100 * (kernel(within).mean() + kernel(torch.pdist(y)).mean() - 2 * kernel(torch.cdist(x, y)).mean())


class Distance(NamedTuple):
    """A kernel audio distance and how uncertain it is."""

    value: float  # NaN where either set has fewer than two sounds, or the reference is one point
    error: float  # standard error; NaN below four clips


def kernel_distance(
    x: Tensor, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str], halves: int, seed: int
) -> Distance:
    """Kernel audio distance of x (M, E), the reference, and y (R, N, E), R sounds of each of N clips.

    It is the mean over R, so that sounds of one clip are never compared as if they were of two. x_clips (M) and
    y_clips (N) name the clips. The standard error is the deviation over `halves` random halves of the clips, which is
    the delete-half jackknife (Shao and Wu 1989); a clip takes its sounds of both sides along. Near a distance of 0 it
    is too large, up to twice, for there the distance falls as 1 / N.
    """
    x, y = x.double(), y.double()
    if len(x) < 2 or y.shape[1] < 2 or not (width := torch.pdist(x).median()):
        return Distance(float("nan"), float("nan"))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * width.square())).exp()

    xx = kernel(x, x).fill_diagonal_(0)
    yy = (sum((kernel(sounds, sounds) for sounds in y), torch.zeros(())) / len(y)).fill_diagonal_(0)
    xy = sum((kernel(x, sounds) for sounds in y), torch.zeros(())) / len(y)

    def distances(left: Tensor, right: Tensor) -> Tensor:
        """left (H, M), right (H, N): 1 where a clip belongs to the half -> distances (H)."""
        m, n = left.sum(1), right.sum(1)
        within = ((left @ xx) * left).sum(1) / (m * (m - 1)) + ((right @ yy) * right).sum(1) / (n * (n - 1))
        return 100 * (within - 2 * ((left @ xy) * right).sum(1) / (m * n))

    value = distances(torch.ones_like(xx[:1]), torch.ones_like(yy[:1]))
    clips, draw = sorted({*x_clips, *y_clips}), random.Random(seed)
    drawn = [set(draw.sample(clips, len(clips) // 2)) for _ in range(halves)]
    left, right = (
        torch.tensor([[float(clip in half) for clip in side] for half in drawn]).double() for side in (x_clips, y_clips)
    )
    two_or_more = (left.sum(1) > 1) & (right.sum(1) > 1)
    spread = distances(left[two_or_more], right[two_or_more])
    few = min(len(set(x_clips)), len(set(y_clips))) < 4 or len(spread) < 2
    return Distance(float(value), float("nan") if few else float(spread.std(correction=0)))
