"""Kernel audio distance (Chung et al. 2025, arXiv:2502.15602): how far two sets of embedded sounds are as distributions."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class KernelAudioDistance(Metric):
    """100 x the unbiased squared maximum mean discrepancy with a Gaussian kernel, whose width is the median distance within
    the reference set. In float64. 0 for equal distributions, where it may fall a little below: it is not clipped.

    The number belongs to the embedder, which must stand in its name (`kad[aisfx-0.1.2]`).
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
        """NaN where either set has fewer than two sounds, or the reference is one point."""
        if not self.reference or not self.candidates:
            return torch.tensor(float("nan"))
        x, y = dim_zero_cat(self.reference), dim_zero_cat(self.candidates)
        if min(len(x), len(y)) < 2:
            return torch.tensor(float("nan"))
        within = torch.pdist(x)
        width = within.median()
        if width == 0:
            return torch.tensor(float("nan"))

        def kernel(distances: Tensor) -> Tensor:
            return (-distances.square() / (2 * width.square())).exp()

        return 100 * (kernel(within).mean() + kernel(torch.pdist(y)).mean() - 2 * kernel(torch.cdist(x, y)).mean())
