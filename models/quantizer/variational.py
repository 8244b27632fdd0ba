"""What "variational" may mean for a codebook: nothing more than the VQ-VAE, a random code, or a random vector.

none      The posterior of a VQ-VAE is one-hot and its prior uniform, so that KL(q || p) = log K, a constant without a
          gradient (van den Oord et al. 2017, arXiv:1711.00937, section 3.2). It is the default: with the decoder as the
          likelihood the plain loss is already the variational bound, up to that constant.
gumbel    q(k | x) = softmax(<x, c_k> / temperature), sampled by the Gumbel maximum (Maddison et al. 2014,
          arXiv:1411.0030); KL to the uniform prior = log K - H(q).
gaussian  x is a sample of N(mu, sigma^2), and quantised then (Kingma and Welling 2013, arXiv:1312.6114); KL to N(0, 1).
Evaluation takes the nearest code, and mu.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Variational = Literal["none", "gumbel", "gaussian"]


class Sample(NamedTuple):
    """A draw from the posterior, and the posterior's divergence from the prior."""

    drawn: Tensor  # gumbel: codes (B, N) long; gaussian: vectors (B, N, d)
    divergence: Tensor  # (B, N) nats


def gumbel(vectors: Tensor, codebook: Tensor, temperature: float, generator: torch.Generator | None) -> Sample:
    """vectors (B, N, d), codebook (K, d) -> codes; without a generator the likeliest ones.

    Keeps (B, N, K) products, and the codebook, for the gradient.
    """
    logits = vectors @ codebook.T / temperature
    log_q = logits.log_softmax(-1)
    divergence = math.log(len(codebook)) + (log_q.exp() * log_q).sum(-1)
    logits = logits.detach()
    if generator is not None:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(min=1e-20, max=1 - 1e-7)
        logits = logits - (-uniform.log()).log()
    return Sample(logits.argmax(-1), divergence)


def gaussian(projected: Tensor, generator: torch.Generator | None) -> Sample:
    """projected (B, N, 2 d): mu and log sigma^2 -> vectors, mu without a generator."""
    mu, log_variance = projected.chunk(2, -1)
    divergence = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    if generator is None:
        return Sample(mu, divergence)
    noise = torch.randn(mu.shape, generator=generator, device=mu.device)
    return Sample(mu + (0.5 * log_variance).exp() * noise, divergence)
