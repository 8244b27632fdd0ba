"""Collectives over the ranks; without effect in a single process. Modules are built before the process group is."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def gather(vectors: Tensor) -> Tensor:
    """vectors (M, d) of this rank -> those of all ranks, in the order of ranks; M may differ, and be 0."""
    if not is_distributed():
        return vectors
    count = torch.tensor([len(vectors)], device=vectors.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = max(int(other) for other in counts)
    padded = F.pad(vectors, (0, 0, 0, longest - len(vectors)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(other)] for part, other in zip(parts, counts, strict=True)])


def add_up(values: Tensor) -> None:
    """In place: the sum over ranks."""
    if is_distributed():
        dist.all_reduce(values)


def agree(*values: Tensor) -> None:
    """In place: the values of rank 0. Sums on a GPU differ in their last bits from rank to rank."""
    if is_distributed():
        for value in values:
            dist.broadcast(value, 0)


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def is_distributed() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
