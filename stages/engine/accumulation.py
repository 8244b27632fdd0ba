"""Gradient accumulation that weighs tokens: the loss of an optimizer step does not depend on how many batches it is cut into.

Lightning's accumulate_grad_batches takes the mean over batches, in which a token of a small batch counts for more. Here
the sum over batches and ranks is divided once, by the sum of all weights (transformers: `num_items_in_batch`).
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.quantizer.distributed import is_distributed


class WeightedAccumulation:
    """The mean over all weights of an optimizer step, from the means of its batches."""

    def __init__(self, batches: int, scale: float) -> None:
        """batches: of a step, by which the trainer divides each loss. scale: about the weight of a batch."""
        self.batches, self.scale = batches, scale
        self.total: Tensor | None = None  # () float64: weights of this rank since the last step

    def add(self, loss: Tensor, weight: Tensor) -> Tensor:
        """loss (): a mean over weights of sum `weight` () -> what is differentiated, by the trainer divided by `batches`."""
        added = weight.detach().double()
        self.total = added if self.total is None else self.total + added
        return loss * (weight.detach() / self.scale)

    def apply(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Before the optimizer's step: gradients of the sum, in which DDP has taken ranks' means, become those of the mean.

        Returns what they were multiplied by (). A collective where there are several ranks.
        """
        assert self.total is not None, "a step has a batch"
        total, world = self.total, 1
        if is_distributed():
            dist.all_reduce(total)
            world = dist.get_world_size()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        factor = self.batches * world * self.scale / total
        if gradients:
            torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        self.total = None
        return factor
