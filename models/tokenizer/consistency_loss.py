"""One sound, one row of codes: a part of it, and with noise, is to have the tokens that it has in the whole.

    latents            ──causal encoder──► tokens  t0 t1 t2 t3 t4 ...        ┐ mean squared difference,
    from token k on, with noise ─────────► tokens        t2' t3' t4' ...     ┘ of a token's variance

The two views of Analyzing and Mitigating Inconsistency in Discrete Audio Tokens (Liu et al. 2025, ACL 2025 long 1498): a
slice, and a disturbance that is not heard. In place of UniAudio 1.5's consistency loss, which needs Whisper.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.quantizer.interface import masked_mean
from models.tokenizer.grid import TokenGrid


class View(NamedTuple):
    """Another view of a batch of sounds."""

    latents: Tensor  # (B, F', D)
    num_frames: Tensor  # (B) long, at least 1
    first_token: int  # of the whole, that the view begins with


def draw_view(
    latents: Tensor, num_frames: Tensor, grid: TokenGrid, block: int, noise: float, generator: torch.Generator
) -> View:
    """latents (B, F, D) standardised by channel, of which num_frames (B) are valid -> the same from a token on.

    It begins with a token's first frame, and with a block of codes: up to half of the sound is left out.
    noise: standard deviation of what is added, of a channel's.
    """
    choices = grid.num_tokens(latents.shape[1]) // 2 // block + 1
    drawn = torch.randint(choices, (), generator=generator, device=generator.device)
    first = int(drawn) * block
    begin = grid.first_frame(first)
    part = latents[:, begin:]
    disturbance = torch.randn(part.shape, generator=generator, device=generator.device).to(part)
    return View(part + noise * disturbance, (num_frames - begin).clamp(min=1), first)


def consistency_loss(tokens: Tensor, mask: Tensor, seen: Tensor, first_token: int) -> Tensor:
    """tokens (B, N, W) of the whole, mask (B, N) bool, seen (B, N', W) of a view that begins at first_token -> (): mean
    squared difference, divided by the variance of the tokens in the batch, so that shrinking them gains nothing.
    """
    whole, valid = tokens[:, first_token:].float(), mask[:, first_token:]
    variance = _variance(whole, valid).detach().clamp(min=1e-8)
    count = min(whole.shape[1], seen.shape[1])
    difference = (whole[:, :count] - seen[:, :count].float()).square().mean(-1)
    return masked_mean(difference, valid[:, :count]) / variance


def _variance(tokens: Tensor, mask: Tensor) -> Tensor:
    """() over the valid tokens, the mean of all features."""
    weights = mask[..., None] / mask.sum().clamp(min=1)
    mean = (tokens * weights).sum((0, 1))
    return ((tokens - mean).square() * weights).sum((0, 1)).mean()
