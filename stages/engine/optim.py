"""AdamW with warm-up and decay, the same for every stage that trains.

cosine   Loshchilov and Hutter 2017, arXiv:1608.03983: the end decides every rate
wsd      warm-up, stable, decay, Hu et al. 2024, arXiv:2404.06395: the end decides those of the decay alone, so that it can
         be moved (stages/runs/moved_end.py). Falls as 1 - sqrt, after Haegele et al. 2024, arXiv:2405.18392
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from conf.sections.common import OptimizerConf


class Phase(NamedTuple):
    """A part of training with a schedule of its own: warm-up from 0 to its peak rates, and decay."""

    steps: int
    learning_rate: float
    learning_rates: dict[str, float]  # for parameters whose name contains a key


def configure(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: OptimizerConf,
    max_steps: int,
    learning_rates: dict[str, float] | None = None,
    phases: Sequence[Phase] = (),
) -> OptimizerLRSchedulerConfig:
    """What Lightning's `configure_optimizers` returns. Weight decay falls on matrices alone, not on norms, biases and single vectors.

    learning_rates: for parameters whose name contains a key, that peak rate instead of the common one; the schedule's shape is shared.
    phases: one after the other, instead of that one schedule; their steps add up to max_steps. The optimizer goes on through all.
    """
    phases = phases or [Phase(max_steps, optimizer.learning_rate, learning_rates or {})]
    assert sum(phase.steps for phase in phases) == max_steps
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            key = next((part for part in phases[0].learning_rates if part in name), "")
            decay = optimizer.weight_decay if parameter.dim() >= 2 else 0.0
            groups.setdefault((key, decay), []).append(parameter)
    rates = [[phase.learning_rates.get(key, phase.learning_rate) for phase in phases] for key, _ in groups]
    built = AdamW(
        [
            {"params": parameters, "lr": max(peaks) or 1.0, "weight_decay": decay}
            for ((_, decay), parameters), peaks in zip(groups.items(), rates, strict=True)
        ],
        betas=(optimizer.betas[0], optimizer.betas[1]),
        fused=all(parameter.is_cuda for parameters in groups.values() for parameter in parameters),
    )
    # else Lightning refuses to clip gradients: a scaler unscales before the step, fused or not
    built._step_supports_amp_scaling = False
    schedule = LambdaLR(built, [_shares(peaks, phases, optimizer) for peaks in rates])
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _shares(peaks: list[float], phases: Sequence[Phase], optimizer: OptimizerConf) -> Callable[[int], float]:
    """Step -> share of the highest of a group's peak rates."""
    ends = list(accumulate(phase.steps for phase in phases))

    def share(step: int) -> float:
        number = min(sum(end <= step for end in ends), len(phases) - 1)
        phase = phases[number]
        floor = optimizer.final_learning_rate / phase.learning_rate if phase.learning_rate else 0.0
        within = step - (ends[number] - phase.steps)
        return peaks[number] / (max(peaks) or 1.0) * factor(within, optimizer, phase.steps, floor)

    return share


def factor(step: int, optimizer: OptimizerConf, max_steps: int, floor: float) -> float:
    """Share of the peak rate at a step: linear from 0 over the warm-up, then 1, then down to `floor` at `max_steps`."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    begin = optimizer.decay_start(max_steps)
    progress = min(1.0, max(0.0, (step - begin) / max(1, max_steps - begin)))
    left = 0.5 * (1 + math.cos(math.pi * progress)) if optimizer.schedule == "cosine" else 1 - math.sqrt(progress)
    return floor + (1 - floor) * left
