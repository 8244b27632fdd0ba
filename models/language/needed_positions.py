"""Positions that a loss depends on: those that predict a label, and what these attend to. The rest is never computed.

shared 0 0 0 | 1 1 1 1 | 2 2 2       branch of each position
labels           x x       x         in branch 1 the last position predicts nothing, in branch 2 the last two
kept   0 0 0 | 1 1 1   | 2           a chat template writes an end of turn and a new line behind each label
"""

from typing import NamedTuple

import torch
from torch import Tensor


class NeededPositions(NamedTuple):
    columns: Tensor  # (B, S') long, ascending: a tensor (B, S) is reduced by `gather(1, columns)`
    valid: Tensor  # (B, S') bool: False behind a row's last needed position


def needed_positions(predicting: Tensor, branches: Tensor | None) -> NeededPositions:
    """predicting (B, S) bool: has a label that counts; branches (B, S): see `branch_mask`. S' is the longest row's need.

    Law: in a causal LM the hidden states of the predicting positions are those of the whole sequence. The first
    position of a row is always needed, so that no row is empty.
    """
    columns = torch.arange(predicting.shape[1], device=predicting.device).expand_as(predicting)
    if branches is None:
        branches = torch.zeros_like(columns)
    last = torch.zeros(len(branches), int(branches.max()) + 1, dtype=torch.long, device=branches.device)
    last = last.scatter_reduce(1, branches, torch.where(predicting, columns, 0), "amax")
    last[:, 0] = last.amax(1)  # all branches attend to what they share
    needed = columns <= last.gather(1, branches)
    counts = needed.sum(1)
    order = needed.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    return NeededPositions(order, columns[:, : order.shape[1]] < counts[:, None])
