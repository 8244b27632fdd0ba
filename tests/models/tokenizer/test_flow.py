"""Flow matching: the velocity is the path's derivative, times cover their bins, solvers have their orders."""

import math

import pytest
import torch
from torch import Tensor

from models.tokenizer.flow import continued, interpolate, masked_mean_square, sample, stratified_times


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_velocity_is_the_derivative_of_the_path():
    x_0, x_1 = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=seeded(0))
    t = torch.rand(3, dtype=torch.float64, generator=seeded(1))
    _, derivative = torch.autograd.functional.jvp(lambda t: interpolate(x_0, x_1, t).x_t, t, torch.ones_like(t))
    torch.testing.assert_close(derivative, interpolate(x_0, x_1, t).velocity)


def test_path_begins_at_noise_and_ends_at_data():
    x_0, x_1 = torch.randn(2, 3, 5, 4, generator=seeded(0))
    assert torch.equal(interpolate(x_0, x_1, torch.zeros(3)).x_t, x_0)
    assert torch.equal(interpolate(x_0, x_1, torch.ones(3)).x_t, x_1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_bin_has_one_time(batch_size: int):
    t = stratified_times(batch_size, 0.0, seeded(0))
    assert torch.equal((t * batch_size).long().sort().values, torch.arange(batch_size))


def test_every_bin_of_probability_has_one_logit_normal_time():
    t = stratified_times(64, 1.0, seeded(0)).double()
    probability = torch.special.ndtr(t.logit())
    assert torch.equal((probability * 64).long().sort().values, torch.arange(64))


def test_share_of_logit_normal_times():
    """The same draws with share 0 and 1 say which of the two each time is."""
    mixed, uniform, logit_normal = (stratified_times(4000, share, seeded(0)) for share in (0.25, 0.0, 1.0))
    assert torch.equal(torch.where(mixed == logit_normal, logit_normal, uniform), mixed)
    assert (mixed == logit_normal).double().mean() == pytest.approx(0.25, abs=0.03)


def test_times_come_in_random_order():
    """A clip's place in the batch does not decide its time: the mean over draws is 1/2 at both ends."""
    generator = seeded(0)
    t = torch.stack([stratified_times(8, 0.0, generator) for _ in range(2000)])
    torch.testing.assert_close(t.mean(0), torch.full((8,), 0.5), atol=0.03, rtol=0)


def test_masked_mean_square_by_hand():
    prediction, target = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    assert masked_mean_square(prediction, target, torch.tensor([[True, False]])) == 2.5  # (1 + 4) / 2
    assert masked_mean_square(prediction, target, torch.tensor([[True, True]])) == 41.75  # (1 + 4 + 81 + 81) / 4


@pytest.mark.parametrize("solver, order", [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_order_of_convergence_on_a_linear_equation(solver: str, order: int):
    """dx/dt = 2 t x - x + 1 has x(1) = x(0) e^(0) + integral of e^(s - s^2) ds; halving the step divides the error by
    2^order.
    """
    noise = torch.randn(2, 3, 4, dtype=torch.float64, generator=seeded(0))
    s = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    exact = noise + (s - s**2).exp().mean()

    def velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return (2 * t[:, None, None] - 1) * x + 1

    errors = [(sample(velocity, noise, steps, solver) - exact).abs().max().item() for steps in (32, 64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver, evaluations", [("euler", 3), ("midpoint", 6), ("heun", 6)])
def test_straight_paths_are_exact_and_cost_their_evaluations(solver: str, evaluations: int):
    x_0, x_1 = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=seeded(0))
    asked: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        asked.append(t)
        torch.testing.assert_close(x, interpolate(x_0, x_1, t).x_t)
        return x_1 - x_0

    torch.testing.assert_close(sample(velocity, x_0, 3, solver), x_1)
    assert len(asked) == evaluations
    assert all(t.shape == (3,) and t.min() >= 0 and t.max() <= 1 for t in asked)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
@pytest.mark.parametrize("steps", [1, 5])
def test_known_frames_end_where_they_are_known_and_are_on_their_path_until_then(solver: str, steps: int):
    """And the velocity of the other frames sees them there, at every time."""
    noise, known = torch.randn(2, 2, 6, 3, dtype=torch.float64, generator=seeded(0))
    is_known = torch.arange(6) < torch.tensor([2, 4])[:, None]

    def velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        torch.testing.assert_close(x[is_known], interpolate(noise, known, t).x_t[is_known])
        return x.mean(1, keepdim=True).expand_as(x)

    made = sample(continued(velocity, noise, known, is_known), noise, steps, solver)
    torch.testing.assert_close(made[is_known], known[is_known])
    if steps > 1:  # and the others heed them
        other = sample(
            continued(lambda x, t, r: x.mean(1, keepdim=True).expand_as(x), noise, 2 * known, is_known),
            noise,
            steps,
            solver,
        )
        assert not torch.allclose(made[~is_known], other[~is_known], atol=1e-2)


def test_a_mean_velocity_takes_steps_of_any_length():
    """Of dx/dt = x it is x (e^(r - t) - 1) / (r - t): one step is exact, and so are three."""
    noise = torch.randn(2, 3, 4, dtype=torch.float64, generator=seeded(0))

    def mean_velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return x * (torch.expm1(r - t) / (r - t))[:, None, None]

    for steps in (1, 3):
        torch.testing.assert_close(sample(mean_velocity, noise, steps, "euler"), math.e * noise)


def test_refusals():
    noise = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="num_steps 0; at least 1"):
        sample(lambda x, t, r: x, noise, 0, "euler")
    with pytest.raises(ValueError, match="'rk4'; euler, midpoint and heun"):
        sample(lambda x, t, r: x, noise, 1, "rk4")  # type: ignore[arg-type]
