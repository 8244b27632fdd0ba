"""Sets of sounds as distributions, and what a probe reads, against a slow loop and answers that are known."""

import math

import pytest
import torch
from torch import Tensor

from models.metrics.codebook_use import code_histogram
from models.metrics.kernel_distance import KernelAudioDistance, kernel_distance
from models.metrics.probe import linear_probe
from models.metrics.sound_embedding import LogMelStatistics, SoundEffectsEmbedding


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


def test_kernel_distance_of_several_sounds_a_clip_is_the_mean_over_them():
    x, y = noise(12, 3).double(), noise(2, 9, 3, seed=1).double() + 0.05
    alone = []
    for one in y:
        metric = KernelAudioDistance()
        metric.update(x, real=True)
        metric.update(one, real=False)
        alone.append(float(metric.compute()))
    clips = [str(n) for n in range(12)]
    assert kernel_distance(x, y, clips, clips[:9], 20, 0).value == pytest.approx(sum(alone) / 2, rel=1e-9)
    assert math.isnan(kernel_distance(x[:1], y, clips[:1], clips[:9], 20, 0).value)
    assert math.isnan(kernel_distance(x, y[:, :3], clips, clips[:3], 20, 0).error)


def test_the_standard_error_of_a_kernel_distance_is_what_new_sounds_make_of_it():
    """Of two distributions that differ; of equal ones it is too large, at most twice."""
    generator, clips = torch.Generator().manual_seed(0), [str(n) for n in range(120)]
    for shift, low, high in ((1.0, 0.7, 1.4), (0.0, 0.9, 3.0)):
        actual = [
            kernel_distance(
                torch.randn(60, 4, generator=generator), torch.randn(1, 60, 4, generator=generator) + shift,
                clips[:60], clips[60:], 100, 0,
            )
            for _ in range(60)
        ]  # fmt: skip
        values, errors = (torch.tensor(part) for part in zip(*actual, strict=True))
        assert low < float(errors.mean() / values.std()) < high


def test_counts_of_codes_level_by_level():
    """Two levels of three codes, the second twice a block: codes 2 | 0 1 | 2 | 1 1."""
    actual = code_histogram([2, 0, 1, 2, 1, 1], 3, [0, 1, 1]).expm1().round().tolist()
    assert actual == [0, 0, 2, 1, 3, 0]


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    sign = ["up" if value > 0 else "down" for value in x[:, 0] + 2 * x[:, 3]]
    crossed = ["up" if value > 0 else "down" for value in x[:, 0] * x[:, 3]]
    assert linear_probe(x[:300], sign[:300], x[300:], sign[300:]) > 0.95
    assert linear_probe(x[:300], crossed[:300], x[300:], crossed[300:]) < 0.65


@pytest.mark.parametrize("kind", [SoundEffectsEmbedding, LogMelStatistics])
def test_the_embedding_ignores_the_level_and_takes_any_length_and_rate(kind: type):
    torch.manual_seed(0)
    model = kind().eval()
    for samples, rate in ((100, 44100), (16000, 16000), (150000, 44100)):
        sound = noise(2, samples)
        actual = model(sound, rate)
        assert actual.shape == (kind.size,) and actual.isfinite().all()
        torch.testing.assert_close(model(0.25 * sound, rate), actual, atol=1e-4, rtol=1e-3)
    assert model(torch.zeros(1, 44100), 44100).isfinite().all()


def test_log_mel_statistics_by_hand():
    """White noise whose second half is a tenth as loud: the mean falls by half a decade, the variance rises by 1/4."""
    steady = noise(1, 88200)
    fading = steady * torch.where(torch.arange(88200) < 44100, 1.0, 0.1)
    one, other = LogMelStatistics()(steady, 44100), LogMelStatistics()(fading, 44100)
    assert float((one - other)[20:64].mean()) == pytest.approx(0.5, abs=0.05)  # half of it is one decade lower
    assert float(other[84:].mean()) == pytest.approx((0.25 + float(one[84:].mean()) ** 2) ** 0.5, abs=0.03)
