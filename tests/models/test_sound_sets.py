"""Sets of sounds as distributions, and what a probe reads, against a slow loop and answers that are known."""

import math

import pytest
import torch
from torch import Tensor

from models.metrics.embedding import SoundEffectsEmbedding
from models.metrics.kernel import KernelAudioDistance
from models.metrics.probe import linear_probe


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kernel_distance_equals_a_slow_loop():
    x, y = noise(7, 3).double() * 10, noise(5, 3, seed=1).double() * 10 + 0.5
    distances = sorted((x[i] - x[j]).norm().item() for i in range(7) for j in range(i))
    width = distances[(len(distances) - 1) // 2]  # torch's median is the lower one

    def kernel(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * width**2))

    within = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    others = sum(kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(a, b) for a in x for b in y) / 35
    metric = KernelAudioDistance()
    metric.update(x[:4], real=True)
    metric.update(x[4:], real=True)
    metric.update(y, real=False)
    assert float(metric.compute()) == pytest.approx(100 * (within + others - 2 * across), rel=1e-9)


def test_kernel_distance_is_near_zero_for_equal_distributions_and_nan_for_one_sound():
    generator = torch.Generator().manual_seed(0)
    metric, far = KernelAudioDistance(), KernelAudioDistance()
    for real in (True, False):
        x = torch.randn(400, 8, generator=generator)
        metric.update(x, real)
        far.update(x + (not real), real)
    assert abs(float(metric.compute())) < 0.5 < 5 < float(far.compute())
    alone = KernelAudioDistance()
    alone.update(torch.zeros(1, 8), real=True)
    alone.update(torch.zeros(9, 8), real=False)
    assert math.isnan(float(alone.compute()))


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    sign = ["up" if value > 0 else "down" for value in x[:, 0] + 2 * x[:, 3]]
    crossed = ["up" if value > 0 else "down" for value in x[:, 0] * x[:, 3]]
    assert linear_probe(x[:300], sign[:300], x[300:], sign[300:]) > 0.95
    assert linear_probe(x[:300], crossed[:300], x[300:], crossed[300:]) < 0.65


def test_the_embedding_ignores_the_level_and_takes_any_length_and_rate():
    torch.manual_seed(0)
    model = SoundEffectsEmbedding().eval()
    for samples, rate in ((100, 44100), (16000, 16000), (150000, 44100)):
        sound = noise(2, samples)
        found = model(sound, rate)
        assert found.shape == (512,) and found.isfinite().all()
        torch.testing.assert_close(model(0.25 * sound, rate), found, atol=1e-4, rtol=1e-3)
    assert model(torch.zeros(1, 44100), 44100).isfinite().all()
