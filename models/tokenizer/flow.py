"""Conditional flow matching along straight paths (Lipman et al. 2023, arXiv:2210.02747): pure functions.

Time 0 is noise, time 1 is data. A velocity network has the signature velocity(x_t, t, condition, mask, r=None); r > t
asks for the mean velocity from t to r (MeanFlow, Geng et al. 2025, arXiv:2505.13447), None for the velocity at t.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.errors import ModelError

Solver = Literal["euler", "midpoint", "heun"]


class PathSample(NamedTuple):
    """A point of the path from noise to data, and the path's velocity there."""

    x_t: Tensor  # (B, F, D)
    velocity: Tensor  # (B, F, D)


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
    """Straight path from noise to data, and its velocity.

    x_0 noise, x_1 data: (B, F, D); t: (B) in [0, 1] -> x_t = (1 - t) x_0 + t x_1, velocity = x_1 - x_0, both (B, F, D).
    Law: d x_t / d t = velocity. sigma_min is 0: the usual 1e-4 is below the rounding of half precision.
    """
    t = t[:, None, None]
    return PathSample((1 - t) * x_0 + t * x_1, x_1 - x_0)


def stratified_times(batch_size: int, logit_normal_share: float, generator: torch.Generator) -> Tensor:
    """Times (B) in (0, 1), on the generator's device.

    There is one in each of `batch_size` equal slices of probability, in random order.
    A `logit_normal_share` of them, at random, follows the logistic function of a standard normal (Esser et al. 2024,
    arXiv:2403.03206), which trains the middle more; the rest is uniform.
    """
    device = generator.device
    order = torch.randperm(batch_size, generator=generator, device=device)
    uniform = (order + torch.rand(batch_size, generator=generator, device=device)) / batch_size
    logit_normal = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()
    chosen = torch.rand(batch_size, generator=generator, device=device) < logit_normal_share
    return torch.where(chosen, logit_normal, uniform)


def masked_mean_square(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of the squared difference over the elements of valid frames, in float32.

    prediction, target (B, F, D); mask (B, F) bool -> ().
    """
    squares = (prediction.float() - target.float()).square() * mask[..., None]
    return squares.sum() / (mask.sum() * prediction.shape[-1])


def sample(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], noise: Tensor, num_steps: int, solver: Solver
) -> Tensor:
    """Carries noise (B, F, D) from time 0 to time 1 in equal steps.

    velocity(x_t (B, F, D), t (B), r (B)) -> (B, F, D): the velocity at t, or its mean from t to r where that is known.
    Errors of the former fall with the first power of the step (euler, one evaluation a step) or the second (midpoint
    and heun, two evaluations a step, at r = t). Of the latter, euler takes exact steps of any length.
    Raises ModelError for no step, or another solver.
    """
    if num_steps < 1:
        raise ModelError(f"num_steps {num_steps}; at least 1 is allowed")
    if solver not in ("euler", "midpoint", "heun"):
        raise ModelError(f"solver {solver!r}; euler, midpoint and heun are allowed")
    x, step = noise, 1 / num_steps
    times = torch.linspace(0, 1, num_steps + 1, device=noise.device, dtype=noise.dtype)
    for index in range(num_steps):
        t, r = times[index].expand(len(noise)), times[index + 1].expand(len(noise))
        if solver == "euler":
            v = velocity(x, t, r)
        elif solver == "midpoint":
            middle = t + step / 2
            v = velocity(x + step / 2 * velocity(x, t, t), middle, middle)
        else:
            v = velocity(x, t, t)
            v = (v + velocity(x + step * v, r, r)) / 2
        x = x + step * v
    return x


def continued(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], noise: Tensor, known: Tensor, is_known: Tensor
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A velocity that leads the known frames to their known values, so that the others are sampled as what goes on.

    noise, known (B, F, D): where the known frames start and end, anything elsewhere; is_known (B, F) bool. At every
    time the known frames are on their own straight path, as RePaint has them (Lugmayr et al. 2022, arXiv:2201.09865);
    its velocity is constant, so that no solver leaves it. Where `noise` is what the known frames were sampled from, it
    says at time 0 already what they will be: then one step from noise to data goes on from them, too.
    """
    own, chosen = known - noise, is_known[..., None]
    return lambda x, t, r: torch.where(chosen, own, velocity(x, t, r))
