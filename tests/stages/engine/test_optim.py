"""The learning rate by step: one schedule, or several one after the other."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from conf.sections.common import OptimizerConf
from stages.engine.optim import Phase, configure, factor

OPTIMIZER = OptimizerConf(
    learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=3, schedule="cosine", decay_steps=None, weight_decay=0.1,
    betas=[0.9, 0.95],
)  # fmt: skip
WSD = replace(OPTIMIZER, schedule="wsd", decay_steps=5)


def rates(built: dict, steps: int) -> list[list[float]]:
    learning_rates = []
    for _ in range(steps):
        learning_rates.append([group["lr"] for group in built["optimizer"].param_groups])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    return learning_rates


def named() -> list[tuple[str, nn.Parameter]]:
    return [("lora.weight", nn.Parameter(torch.zeros(2, 2))), ("new_rows", nn.Parameter(torch.zeros(2, 2)))]


def test_one_schedule_warms_up_and_decays():
    built = configure(named(), OPTIMIZER, 20, {"new_rows": 3e-3})
    for step, (lora, rows) in enumerate(rates(built, 20)):
        assert lora == pytest.approx(1e-3 * factor(step, OPTIMIZER, 20, 0.01)) and rows == pytest.approx(3 * lora)
    assert [group["weight_decay"] for group in built["optimizer"].param_groups] == [0.1, 0.1]


def test_phases_are_schedules_one_after_the_other():
    """Each as if it were alone, with its own rates; a rate of 0 is 0 all along."""
    phases = [
        Phase(8, 0.0, {"new_rows": 1e-2}),
        Phase(12, 2e-3, {"new_rows": 1e-3}),
        Phase(5, 1e-4, {"new_rows": 1e-4}),
    ]
    scheduled = rates(configure(named(), OPTIMIZER, 25, phases=phases), 25)
    begin = 0
    for phase in phases:
        floor = 1e-5 / phase.learning_rate if phase.learning_rate else 0.0
        for step in range(phase.steps):
            share = factor(step, OPTIMIZER, phase.steps, floor)
            assert scheduled[begin + step] == pytest.approx(
                [phase.learning_rate * share, phase.learning_rates["new_rows"] * share]
            )
        begin += phase.steps


def test_a_phase_alone_is_the_plain_schedule():
    phases = [Phase(20, 1e-3, {"new_rows": 3e-3})]
    assert rates(configure(named(), OPTIMIZER, 20, phases=phases), 20) == rates(
        configure(named(), OPTIMIZER, 20, {"new_rows": 3e-3}), 20
    )


def test_wsd_stays_at_its_peak_whatever_its_end():
    """Up to the decay, its first step included, the same to the last bit; at the last step, the final rate."""
    short, long = ([rate for (rate,) in rates(configure(named(), WSD, steps), steps + 1)] for steps in (20, 40))
    assert short[:16] == long[:16] and short[16] < long[16]
    assert short[3:16] == pytest.approx([1e-3] * 13) and short[20] == pytest.approx(1e-5)
    assert short[17] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 - 0.4**0.5))
    assert WSD.decay_start(20) == 15 and replace(WSD, decay_steps=None).decay_start(41) == 36
