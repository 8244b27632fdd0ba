"""AdamW with warm-up and cosine decay, the same for every stage that trains."""

import math
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


def configure(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: dict[str, Any],
    max_steps: int,
    learning_rates: dict[str, float] | None = None,
) -> dict[str, Any]:
    """What Lightning's `configure_optimizers` returns. Weight decay falls on matrices alone, not on norms, biases and single vectors.

    learning_rates: for parameters whose name contains a key, that peak rate instead of the common one; the schedule's shape is shared.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            rate = next(
                (rate for part, rate in (learning_rates or {}).items() if part in name), optimizer["learning_rate"]
            )
            decay = optimizer["weight_decay"] if parameter.dim() >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    built = AdamW(
        [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
        betas=tuple(optimizer["betas"]),
    )
    floor = optimizer["final_learning_rate"] / optimizer["learning_rate"]
    schedule = LambdaLR(built, lambda step: factor(step, optimizer["warmup_steps"], max_steps, floor))
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def factor(step: int, warmup_steps: int, max_steps: int, floor: float) -> float:
    """Share of the peak rate at a step: linear from 0 over the warm-up, then a half cosine down to `floor` at `max_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
