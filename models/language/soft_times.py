"""Targets of times that are softened: a time that is nearly right is nearly as good, which cross-entropy alone does not know.

    a target, and its neighbours       0.9    1.0    1.1    1.2    1.3 s
    shares, with a width of 0.1 s      0.05   0.24   0.40   0.24   0.05

Soft labels of an ordinal scale, as Diaz and Marathe 2019 (Soft Labels for Ordinal Regression, CVPR), with squared distances.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

REACH = 3  # widths; what lies beyond has a share of 0.3 % together


class SoftTargets(NamedTuple):
    """Of M targets each a distribution over K ids; a target that is no time has all of it."""

    ids: Tensor  # (M, K) long
    shares: Tensor  # (M, K) float32, which sum to 1


class SoftTimes(NamedTuple):
    """The ids of the times, one a step, and how far a target is softened."""

    first_id: int
    num_times: int
    width: (
        float  # steps; standard deviation of the normal distribution, of which there is none before 0 or after the last
    )

    def __call__(self, targets: Tensor, is_time: Tensor) -> SoftTargets:
        """targets (M) long; is_time (M) bool: those that are softened."""
        radius = math.ceil(REACH * self.width)
        offsets = torch.arange(-radius, radius + 1)
        ids = targets[:, None] + offsets
        exists = (ids >= self.first_id) & (ids < self.first_id + self.num_times) & is_time[:, None] | (offsets == 0)
        shares = torch.exp(-0.5 * (offsets / self.width).square()) * exists
        return SoftTargets(torch.where(exists, ids, targets[:, None]), shares / shares.sum(1, keepdim=True))
