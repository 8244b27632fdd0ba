"""Frechet audio distance (Kilgour et al. 2019, arXiv:1812.08466): two sets of embedded sounds, each taken for a Gaussian."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class FrechetAudioDistance(Metric):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) with sample covariances, in float64; 0 for equal sets.

    It is biased upwards for few sounds: for equal distributions of 128 dimensions 134 with 50 sounds a side and 4 with 2,000. So it is NaN
    with E sounds or fewer a side, for E dimensions: the covariance has no full rank. The number belongs to the embedder (`fad[aisfx-0.1.2]`).
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("reference", [], dist_reduce_fx="cat")
        self.add_state("candidates", [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, real: bool) -> None:
        """embeddings (M, E), of the reference set or of the sounds to be judged."""
        (self.reference if real else self.candidates).append(embeddings.double().cpu())

    def compute(self) -> Tensor:
        if not self.reference or not self.candidates:
            return torch.tensor(float("nan"))
        x, y = dim_zero_cat(self.reference), dim_zero_cat(self.candidates)
        if min(len(x), len(y)) <= x.shape[1]:
            return torch.tensor(float("nan"))
        return frechet_distance(x, y)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """x (M, E), y (N, E), float64, two or more each -> (). tr (C1 C2)^1/2 is the sum of roots of the eigenvalues of C1^1/2 C2 C1^1/2."""
    first, second = (torch.atleast_2d(torch.cov(part.T)) for part in (x, y))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + first.trace() + second.trace() - 2 * mixed
