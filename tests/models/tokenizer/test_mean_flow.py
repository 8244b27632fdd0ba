"""Mean velocities: both laws hold in closed form on a Gaussian, and the derivative of one is that of finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.tokenizer.decoder_finetuning import (
    ERROR_FLOOR,
    DecoderTask,
    adaptive_error,
    draw_task,
    flow_loss,
    freeze_codes,
    mean_flow_loss,
)
from models.tokenizer.flow import sample
from models.tokenizer.mean_flow import Spans, draw_spans, split_target
from models.tokenizer.tokenizer import Codes, LatentTokenizer
from models.tokenizer.transformer import attention
from tests.models.tokenizer.small_tokenizer import clips, seeded, tokenizer

DEVIATION = 0.3  # of the data, around MEAN; the noise has 1 around 0
MEAN = 2.0


def path_deviation(t: Tensor) -> Tensor:
    return ((t * DEVIATION).square() + (1 - t).square()).sqrt()


def carried(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Where the flow carries x from t to r, for data of N(MEAN, DEVIATION^2): quantiles keep their rank."""
    t, r = t[:, None, None], r[:, None, None]
    return MEAN * r + (x - MEAN * t) * path_deviation(r) / path_deviation(t)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """d/dr of `carried` at r = t, worked out: E[x_1 - x_0 | x_t = x]."""
    t = t[:, None, None]
    slope = (t * DEVIATION**2 - (1 - t)) / path_deviation(t).square()
    return MEAN + slope * (x - MEAN * t)


def mean_velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """For r > t."""
    return (carried(x, t, r) - x) / (r - t)[:, None, None]


def identity(u: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
    """MeanFlow's law: v + (r - t) d/dt u, d/dt along the path that has the velocity v at x and t."""
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        _, derivative = torch.func.jvp(u, (x, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))
    return v + (r - t)[:, None, None] * derivative


def points() -> tuple[Tensor, Spans]:
    x = torch.randn(16, 3, 2, dtype=torch.float64, generator=seeded(0))
    t, s, r = torch.rand(3, 16, dtype=torch.float64, generator=seeded(1)).sort(0).values
    return x, Spans(t, s, r)


def test_the_identity_holds_where_the_velocity_is_known():
    x, (t, _, r) = points()
    torch.testing.assert_close(identity(mean_velocity, x, t, r, velocity(x, t)), mean_velocity(x, t, r))
    wrong = identity(mean_velocity, x, t, r, velocity(x, t) + 0.1)
    assert not torch.allclose(wrong, mean_velocity(x, t, r), atol=0.01)


def test_the_split_holds_where_the_mean_velocity_is_known():
    x, spans = points()
    torch.testing.assert_close(split_target(mean_velocity, x, spans), mean_velocity(x, spans.t, spans.r))
    beside = split_target(lambda x, t, r: mean_velocity(x, t, r) + (r - t)[:, None, None], x, spans)
    assert not torch.allclose(beside, mean_velocity(x, spans.t, spans.r), atol=0.01)


def test_at_one_time_the_split_asks_for_the_velocity():
    x, (t, _, _) = points()
    asked: list[tuple[Tensor, Tensor]] = []

    def u(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        asked.append((t, r))
        return velocity(x, t)

    assert torch.equal(split_target(u, x, Spans(t, t, t)), velocity(x, t))
    assert all(torch.equal(t, r) for t, r in asked)


def test_one_step_of_the_mean_velocity_is_the_whole_flow():
    """Where many steps of the velocity come to, which one step misses: it gives the mean of the data."""
    noise = torch.randn(64, 3, 2, dtype=torch.float64, generator=seeded(2))
    one = sample(mean_velocity, noise, 1, "euler")
    torch.testing.assert_close(one, MEAN + DEVIATION * noise)
    torch.testing.assert_close(sample(lambda x, t, r: velocity(x, t), noise, 400, "heun"), one, atol=1e-4, rtol=0)
    blurred = sample(lambda x, t, r: velocity(x, t), noise, 1, "euler")
    torch.testing.assert_close(blurred, torch.full_like(blurred, MEAN))


def test_the_derivative_along_the_path_is_that_of_finite_differences():
    """Through the decoder's attention, in float64; r stays, so that the span shrinks as t grows."""
    x, v, first, last = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=seeded(3))
    t, r = torch.tensor([0.1, 0.5, 0.7]).double(), torch.tensor([0.9, 0.6, 1.0]).double()

    def u(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        heads = (x @ first[0] + t.cos()[:, None, None]).unflatten(-1, (2, 3)).transpose(1, 2)
        attended = attention(heads, heads, heads, None, causal=False).transpose(1, 2).flatten(2)
        return attended @ last[0] * (1 + (r - t).sin())[:, None, None]

    h = 1e-6
    slope = (u(x + h * v, t + h, r) - u(x - h * v, t - h, r)) / (2 * h)
    expected = v + (r - t)[:, None, None] * slope
    torch.testing.assert_close(identity(u, x, t, r, v), expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 1.0])
def test_times_are_in_order_and_a_share_of_them_is_one(share: float):
    t, s, r = draw_spans(64, share, seeded())
    assert (t >= 0).all() and (t <= s).all() and (s <= r).all() and (r <= 1).all()
    assert int((t == r).sum()) == round(64 * share)
    again = draw_spans(64, share, seeded())
    assert all(torch.equal(one, other) for one, other in zip((t, s, r), again, strict=True))


def test_half_of_the_spans_begin_at_noise_and_half_end_at_data_and_instants_are_anywhere():
    t, s, r = draw_spans(4096, 0.0, seeded())
    shares = [float(some.float().mean()) for some in (t == 0, r == 1, (t == 0) & (r == 1))]
    assert shares == pytest.approx([0.5, 0.5, 0.25], abs=0.03)
    whole = s[(t == 0) & (r == 1)]
    t, _, r = draw_spans(4096, 1.0, seeded())
    for uniform in (whole, t):
        assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.03)


def test_a_batch_of_one_clip_has_instants_too():
    generator = seeded()
    instants = [bool((spans.t == spans.r).all()) for spans in (draw_spans(1, 0.25, generator) for _ in range(800))]
    assert sum(instants) / len(instants) == pytest.approx(0.25, abs=0.05)


def test_training_of_mean_velocities_starts_from_the_velocity():
    """Whatever span is asked for; and at one time nothing has changed."""
    model = tokenizer()
    latents, num_frames = clips(12, 12, 7)
    condition = model.condition(*model.encode(latents, num_frames), num_frames)
    t = torch.tensor([0.2, 0.7])
    with torch.no_grad():
        before = model.decoder(latents, t, condition, None)
        apart = model.decoder(latents, t, condition, None, torch.ones(2))
        model.decoder.start_spans()
        after, mean = (model.decoder(latents, t, condition, None, r) for r in (t, torch.ones(2)))
    torch.testing.assert_close(after, before)
    assert (mean - before).norm() < 0.05 * before.norm() < (apart - before).norm()


def drawn(model: LatentTokenizer) -> DecoderTask:
    latents, num_frames = clips(24, 24, 13, 1)
    return draw_task(model, latents, model.encode(latents, num_frames), num_frames, True, seeded())


def test_the_temperature_is_that_of_the_noise_alone():
    model = tokenizer()
    latents, num_frames = clips(24, 24, 13, 1)
    codes = model.encode(latents, num_frames)
    cold = draw_task(model, latents, codes, num_frames, True, seeded(), temperature=0.5)
    assert torch.equal(2 * cold.x_0, drawn(model).x_0) and torch.equal(cold.x_1, drawn(model).x_1)


def losses(objective: str) -> tuple[LatentTokenizer, Callable[[DecoderTask], Tensor]]:
    model, average, before = tokenizer(), tokenizer(), tokenizer()
    freeze_codes(model, objective == "mean")
    freeze_codes(average, objective == "mean")
    if objective == "flow":
        return model, lambda task: flow_loss(model, task, 0.5, 0.0, seeded(1))
    return model, lambda task: mean_flow_loss(model, average, before, task, 1.5, 0.5, seeded(1))


@pytest.mark.parametrize("objective", ["flow", "mean"])
def test_the_decoder_alone_learns_and_all_of_what_is_trainable(objective: str):
    """Every parameter that asks for a gradient has one, as DistributedDataParallel wants; encoder and codebook have none."""
    model, loss = losses(objective)
    loss(drawn(model)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        trained = name.startswith("decoder.") and "prior_head" not in name
        assert parameter.requires_grad == (trained and not (objective == "mean" and "no_tokens" in name))


@pytest.mark.parametrize("objective", ["flow", "mean"])
def test_values_of_padding_change_no_loss(objective: str):
    model, loss = losses(objective)
    task = drawn(model)
    spoiled = task.x_0.masked_fill(~task.mask[..., None], 1e3)
    torch.testing.assert_close(loss(task._replace(x_0=spoiled)), loss(task))


def test_a_frame_counts_as_much_as_one_that_is_missed_by_far():
    """The gradient is that of the squared error with MeanFlow's weight, held fixed; padding has none."""
    prediction = torch.randn(2, 6, 4, generator=seeded()) * torch.tensor([1e-2, 1e-1, 1.0, 10.0, 1.0, 1.0])[:, None]
    prediction.requires_grad_()
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    target = torch.zeros_like(prediction)
    error = prediction.square().mean(-1)
    weighted = error / (error.detach() + ERROR_FLOOR) * mask
    (expected,) = torch.autograd.grad((weighted.sum(1) / mask.sum(1)).mean(), prediction)
    (gradient,) = torch.autograd.grad(adaptive_error(prediction, target, mask), prediction)
    torch.testing.assert_close(gradient, expected)
    shares = (gradient * prediction).sum(-1)[0, 1:]  # what a step in proportion to each frame's error gains
    assert shares.max() < 1.5 * shares.min()


def test_mean_velocities_are_learnt():
    """The law's two sides come together in a few steps of gradient descent on one batch."""
    model, loss = losses("mean")
    task, optimizer = drawn(model), torch.optim.AdamW(model.decoder.parameters(), 3e-3)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(task)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]


def test_guidance_is_in_the_mean_velocity_and_a_regression_has_none():
    model, num_frames = tokenizer(), torch.tensor([5])
    codes = Codes(torch.zeros(1, 5, dtype=torch.long), torch.tensor([int(model.num_codes(5))]))
    freeze_codes(model, mean=True)
    with pytest.raises(ValueError, match=r"guidance 1\.5; 1 is allowed"):
        model.decode(*codes, num_frames, 1, "euler", 1.5, torch.zeros(1, 5, 4))
    assert model.decode(*codes, num_frames, 1, "euler", 1.0, torch.zeros(1, 5, 4)).isfinite().all()
    with pytest.raises(ValueError, match="objective mse has no velocity"):
        freeze_codes(tokenizer("mse"), mean=True)
    assert math.isclose(float(path_deviation(torch.tensor(1.0))), DEVIATION, rel_tol=1e-6)
