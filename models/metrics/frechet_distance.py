"""Fréchet audio distance (Kilgour et al. 2019, arXiv:1812.08466): two sets of embedded sounds, each as a Gaussian."""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """x (M, E), y (N, E) -> |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) (), with sample covariances, in float64.

    0 for equal sets. It is biased upwards for few sounds: for equal distributions of 128 dimensions 134 with 50 sounds
    a side and 4 with 2,000. So it is NaN with E sounds or fewer a side, whose covariance has no full rank. The number
    belongs to the embedder, which must be in its name (`fad[aisfx-0.1.2]`).
    """
    if min(len(x), len(y)) <= x.shape[1]:
        return torch.tensor(float("nan"))
    x, y = x.double(), y.double()
    first, second = (torch.atleast_2d(torch.cov(part.T)) for part in (x, y))
    values, vectors = torch.linalg.eigh(first)
    # tr (C1 C2)^1/2 is the sum of the roots of the eigenvalues of C1^1/2 C2 C1^1/2
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + first.trace() + second.trace() - 2 * mixed
