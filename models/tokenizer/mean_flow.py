"""Mean velocities, with which one step leads from noise to data: MeanFlow (Geng et al. 2025, arXiv:2505.13447).

    u(x_t, t, r) = 1 / (r - t) * integral of v(x_s, s) over s from t to r,      so that x_r = x_t + (r - t) u(x_t, t, r)

Time 0 is noise and time 1 data here, and the papers have them the other way. Two laws say what u is without an integral:

    identity   u(x_t, t, r) = v(x_t, t) + (r - t) d/dt u(x_t, t, r),  d/dt along the path: (du/dx) v + du/dt
    split      (r - t) u(x_t, t, r) = (s - t) u(x_t, t, s) + (r - s) u(x_s, s, r)  for every s between t and r

The first is MeanFlow's, the second SplitMeanFlow's (Guo et al. 2025, arXiv:2507.16884). Here u is trained on the second,
its right side without gradient, and at r = t on the velocity. The first needs a forward derivative, which fused attention
and compiled blocks do not have, and the features of time reach 1000 radians (dit.py): training on it diverged.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

END_SHARE = 0.5  # of the spans begin at noise and, drawn apart, as many end at data: what few evaluations ask for

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t (B, F, D), t (B), r (B) -> (B, F, D)


class Spans(NamedTuple):
    """From one time of the path to another, 0 <= t <= s <= r <= 1; all (B)."""

    t: Tensor
    s: Tensor
    r: Tensor

    def to(self, device: torch.device) -> "Spans":
        return Spans(self.t.to(device), self.s.to(device), self.r.to(device))


def draw_spans(batch_size: int, instant_share: float, generator: torch.Generator) -> Spans:
    """t and r are two uniform times, s is uniform between them. Each of t and r is, in an END_SHARE of the spans, its end
    of the path instead. In an instant_share of the items, at random, all three are one time: the velocity is asked there.
    """
    times, ends, (between, order) = torch.rand(6, batch_size, generator=generator, device=generator.device).split(2)
    t, r = times.sort(0).values
    at_noise, at_data = ends < END_SHARE
    t, r = torch.where(at_noise, 0.0, t), torch.where(at_data, 1.0, r)
    # a fraction of an item is one item in as many of the batches
    count = (instant_share * batch_size + torch.rand(1, generator=generator, device=generator.device)).floor()
    instant = order.argsort() < count
    t, r = (torch.where(instant, times[0], end) for end in (t, r))
    return Spans(t, torch.lerp(t, r, between), r)


@torch.no_grad()
def split_target(u: MeanVelocity, x_t: Tensor, spans: Spans) -> Tensor:
    """((s - t) u(x_t, t, s) + (r - s) u(x_s, s, r)) / (r - t) (B, F, D), without gradient; u(x_t, t, t) where r = t."""
    t, s, r = spans
    first = u(x_t, t, s)
    x_s = x_t + (s - t)[:, None, None] * first
    share = ((s - t) / (r - t).clamp(min=1e-6))[:, None, None]
    return torch.where((r > t)[:, None, None], share * first + (1 - share) * u(x_s, s, r), first)
