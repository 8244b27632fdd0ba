"""Conditional flow matching on straight paths (Lipman et al. 2023, arXiv:2210.02747), time from noise (t = 0) to data (t = 1)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class PathSample(NamedTuple):
    x_t: Tensor  # (B, F, D)
    velocity: Tensor  # (B, F, D)


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
    """Straight path from noise to data, and its velocity.

    x_0 noise, x_1 data: (B, F, D); t: (B,) in [0, 1] -> x_t = (1 - t) x_0 + t x_1, velocity = x_1 - x_0.
    Lipman et al. 2023 with sigma_min = 0. Law: d x_t / d t = velocity.
    """
    t = t[:, None, None]
    return PathSample((1 - t) * x_0 + t * x_1, x_1 - x_0)


def sample_times(batch: int, logit_normal_share: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Times (B,) in (0, 1), stratified: one in each of B equal bins, in random order.

    logit_normal_share of them (drawn) come through the quantile function of logit-normal(0, 1) (Esser et al. 2024, arXiv:2403.03206), the rest are
    uniform.
    """
    order = torch.randperm(batch, generator=generator, device=device)
    uniform = (order + torch.rand(batch, generator=generator, device=device)) / batch
    normal = torch.sigmoid(torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)))
    chosen = torch.rand(batch, generator=generator, device=device) < logit_normal_share
    return torch.where(chosen, normal, uniform)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the valid frames, in float32. prediction, target (B, F, D); mask (B, F)."""
    error = (prediction.float() - target.float()).square() * mask[..., None]
    return error.sum() / (mask.sum() * target.shape[-1]).clamp(min=1)


def solve(velocity: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, num_steps: int, solver: str) -> Tensor:
    """Follows dx/dt = velocity(x, t) from t = 0 to 1 in equal steps.

    x_0 (B, F, D); t passed as (B,). solver: euler (one evaluation a step, order 1), midpoint or heun (two, order 2).
    """
    if solver not in ("euler", "midpoint", "heun"):
        raise ValueError(f"solver {solver!r}: euler, midpoint and heun are allowed")
    x, step = x_0, 1.0 / num_steps
    for number in range(num_steps):
        t = torch.full((x.shape[0],), number * step, device=x.device, dtype=x.dtype)
        slope = velocity(x, t)
        if solver == "midpoint":
            slope = velocity(x + 0.5 * step * slope, t + 0.5 * step)
        elif solver == "heun":
            slope = 0.5 * (slope + velocity(x + step * slope, t + step))
        x = x + step * slope
    return x
