"""The running average follows from its first step on, and goes on from its state to the same bits."""

import copy

import torch
from torch import nn

from models.running_average import RunningAverage


def walk(model: nn.Linear, average: RunningAverage, steps: range) -> None:
    """Steps of fixed random numbers."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        average.update(model)


def test_it_is_the_recursion_with_warm_up():
    for decay in (0.9999, 0.5):
        model = nn.Linear(3, 2).double()
        average = RunningAverage(model, decay)
        expected = model.weight.detach().clone()
        for step in range(40):
            walk(model, average, range(step, step + 1))
            d = min(decay, (1 + step) / (10 + step))
            expected = d * expected + (1 - d) * model.weight.detach()
            torch.testing.assert_close(average.module.weight, expected, rtol=1e-12, atol=1e-12)
    assert int(average.n_averaged) == 40 and not any(p.requires_grad for p in average.parameters())


def test_the_random_start_is_forgotten_in_a_hundred_steps_of_the_papers_decay():
    """A model that jumps to 1 at its first step: what is missing is the share of the start."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = RunningAverage(model, 0.9999)
    nn.init.ones_(model.weight)
    for _ in range(100):
        average.update(model)
    assert 1 - float(average.module.weight) < 1e-6  # with a constant decay 0.99


def test_it_goes_on_from_its_state_to_the_same_bits():
    model = nn.Linear(4, 4)
    average = RunningAverage(model, 0.99)
    walk(model, average, range(5))
    other_model, other = copy.deepcopy(model), RunningAverage(nn.Linear(4, 4), 0.99)
    other.load_state_dict(average.state_dict())
    walk(model, average, range(5, 12))
    walk(other_model, other, range(5, 12))
    assert all(torch.equal(one, two) for one, two in zip(average.parameters(), other.parameters(), strict=True))
    assert torch.equal(average.n_averaged, other.n_averaged)
