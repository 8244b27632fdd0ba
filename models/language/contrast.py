"""Condition contrastive alignment: guidance, trained in (Chen et al. 2024, arXiv:2410.09347, of images; here of sound).

    its own caption, then the sound    r = log p(sound) - log p_ref(sound)    - log sigma(beta r)
    another caption, then the sound    r' alike                               - lambda log sigma(-beta r')

The reference is the model as it was when it began to learn. Where both losses are at their least, p is
p_ref(sound | caption) x (p(sound | caption) / p(sound)) ** (1 / beta), which is guidance with a weight of 1 + 1 / beta.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Slopes(NamedTuple):
    """Of T terms."""

    losses: Tensor  # (T), or fewer where a loss is of several terms
    slopes: Tensor  # (T) d (their sum) / d (log p of the term's answer)


class Objective(Protocol):
    """What is made of the log-probabilities of the terms of a batch."""

    @property
    def needs_reference(self) -> bool: ...

    def slopes(self, log_p: Tensor, reference: Tensor, signs: Tensor, tokens: Tensor) -> Slopes:
        """All (T): log p and log p_ref of each term's answer, its sign, how many tokens it has."""
        ...


class CaptionContrast(NamedTuple):
    beta: float
    negative_weight: float  # of a term with another caption

    @property
    def needs_reference(self) -> bool:
        return True

    def slopes(self, log_p: Tensor, reference: Tensor, signs: Tensor, tokens: Tensor) -> Slopes:
        return contrast(log_p - reference, signs, self.beta, self.negative_weight)


def contrast(log_ratios: Tensor, signs: Tensor, beta: float, negative_weight: float) -> Slopes:
    """log_ratios (T): log p - log p_ref of a sound; signs (T): 1 under its own caption, -1 under another."""
    weights = torch.ones_like(log_ratios).masked_fill(signs < 0, negative_weight)
    signs = signs.to(log_ratios.dtype)
    margins = signs * beta * log_ratios
    return Slopes(weights * F.softplus(-margins), -weights * signs * beta * torch.sigmoid(-margins))


@contextlib.contextmanager
def with_weights(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the parameters that `state` names have its values, of the same shape, dtype and device.

    For passes without a gradient. Those with one may come before or after, even under autocast, which keeps the
    parameters that it has cast.
    """
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in state}
    torch.clear_autocast_cache()
    try:
        for name, tensor in state.items():
            parameters[name].data = tensor
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor
        torch.clear_autocast_cache()
