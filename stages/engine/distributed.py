"""Means over all ranks' items. DistributedDataParallel averages the ranks' gradients, which is the gradient of their mean only where all weigh the same."""

import torch
import torch.distributed as dist
from torch import Tensor

from models.quantizer.distributed import is_distributed


def shares(weights: Tensor) -> Tensor:
    """weights (K): of this rank's means -> (K): what each mean is multiplied by, W w / sum of w over the W ranks.

    The mean over ranks of what comes out is the mean over all their items. Ones in a single process. A collective.
    """
    if not is_distributed():
        return torch.ones_like(weights)
    total = weights.clone()
    dist.all_reduce(total)
    return weights * dist.get_world_size() / total
