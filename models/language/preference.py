"""Losses of pairs of answers: the chosen one is to become more probable than the rejected one.

    m = (log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))

    dpo     - log sigma(beta m)                        Rafailov et al. 2023, arXiv:2305.18290
    ipo     (m - 1 / (2 beta))^2                       Azar et al. 2023, arXiv:2310.12036
    simpo   - log sigma(beta (mean log p a token of chosen - of rejected) - margin), without a reference
                                                       Meng et al. 2024, arXiv:2405.14734

The reference is the model as it was when it began to learn.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.language.contrast import Slopes

Kind = Literal["dpo", "ipo", "simpo"]


class PreferenceLoss(NamedTuple):
    """Terms are chosen, rejected, chosen, rejected, ...: T = 2 P."""

    kind: Kind
    beta: float
    margin: float  # of simpo

    @property
    def needs_reference(self) -> bool:
        return self.kind != "simpo"

    def losses(self, log_p: Tensor, reference: Tensor, tokens: Tensor) -> Tensor:
        """log_p and reference (T): log-probability of each answer; tokens (T): how many it has -> (P)."""
        if self.kind == "simpo":
            per_token = log_p / tokens
            return F.softplus(self.margin - self.beta * (per_token[::2] - per_token[1::2]))
        gap = margins(log_p, reference)
        return F.softplus(-self.beta * gap) if self.kind == "dpo" else (gap - 1 / (2 * self.beta)).square()

    def slopes(self, log_p: Tensor, reference: Tensor, signs: Tensor, tokens: Tensor) -> Slopes:
        with torch.enable_grad():
            log_p = log_p.detach().requires_grad_()
            losses = self.losses(log_p, reference, tokens)
            (slopes,) = torch.autograd.grad(losses.sum(), log_p)
        return Slopes(losses.detach(), slopes)


def margins(log_p: Tensor, reference: Tensor) -> Tensor:
    """(T) -> (P): m, in nats."""
    ratios = log_p - reference
    return ratios[::2] - ratios[1::2]
