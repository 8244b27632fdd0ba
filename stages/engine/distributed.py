"""What ranks do together: means over all their items, and a wait that has no limit.

DistributedDataParallel averages the ranks' gradients, which is the gradient of their mean only where all weigh the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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


def not_broadcast(module: nn.Module, name: str) -> None:
    """Buffers of this name are equal on all ranks anyway: DDP does not send those of rank 0 with each batch."""
    ignored = [path for path, _ in module.named_buffers() if path.rpartition(".")[2] == name]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ignored)


@contextmanager
def long_barrier() -> Iterator[None]:
    """All ranks enter, and leave together, however long one of them works inside; a rank that fails does not wait.

    A collective's limit (30 minutes in Lightning) is that of its process group, so these ranks wait in another, of gloo.
    """
    if not is_distributed():
        yield
        return
    group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
    yield
    dist.barrier(group)
    dist.destroy_process_group(group)
