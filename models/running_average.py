"""A model whose weights are the running mean of another's, with warm-up (ema_pytorch; timm's ModelEmaV3)."""

import copy

import torch
from torch import Tensor, nn


class RunningAverage(nn.Module):
    """`module`, a copy of `model`, becomes d module + (1 - d) model at update t = 0, 1, ..., with
    d = min(decay, (1 + t) / (10 + t)).

    A constant decay would keep decay^t of the weights that training began with: 90 % of random ones after 1,000 steps
    of 0.9999. With warm-up, of t updates it is (10 / t)^9 or so until the decay is reached. What follows depends on
    `state_dict` alone. Buffers are the model's.
    """

    n_averaged: Tensor  # () long: updates so far

    def __init__(self, model: nn.Module, decay: float, copied: nn.Module | None = None) -> None:
        """copied: a copy of `model`, where copy.deepcopy can make none."""
        super().__init__()
        self.decay = decay
        self.module = (copied or copy.deepcopy(model)).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))
        self._updates: int | None = None  # n_averaged without a wait for the device; None: read it
        self.register_load_state_dict_post_hook(_read_again)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After each optimizer step."""
        if self._updates is None:
            self._updates = int(self.n_averaged)
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        averages: list[Tensor] = list(self.module.parameters())
        others = [parameter.detach() for parameter in model.parameters()]
        if averages:
            torch._foreach_lerp_(averages, others, 1 - decay)
        for buffer, other in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(other)
        self._updates += 1
        self.n_averaged += 1


def _read_again(average: RunningAverage, _: object) -> None:
    average._updates = None
