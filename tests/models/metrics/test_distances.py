"""Distances of sounds, against hand computations, scipy and the packages of PESQ and STOI."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from models.metrics.frechet_distance import frechet_distance
from models.metrics.kernel_distance import KernelAudioDistance
from models.metrics.signal_scores import SignalMetric, SignalScore


def gaussian(count: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kad(x: torch.Tensor, y: torch.Tensor) -> float:
    metric = KernelAudioDistance()
    metric.update(x, real=True)
    metric.update(y, real=False)
    return float(metric.compute())


def test_frechet_distance_is_scipys_and_the_one_worked_by_hand():
    x, y = gaussian(60), gaussian(70, seed=1) @ torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64)) + 0.5
    first, second = (np.cov(part.numpy(), rowvar=False) for part in (x, y))
    root = sqrtm(first @ second).real
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    assert frechet_distance(x, y).item() == pytest.approx(mean + np.trace(first + second - 2 * root), rel=1e-9)
    line = torch.tensor([[0.0], [2.0]], dtype=torch.float64)  # mean 1, variance 2
    wide = torch.tensor([[0.0], [4.0]], dtype=torch.float64)  # mean 2, variance 8: 1 + (sqrt 8 - sqrt 2)^2
    assert frechet_distance(line, wide).item() == pytest.approx(1 + 2)
    assert frechet_distance(x, x).item() == pytest.approx(0, abs=1e-9)


def test_too_few_sounds_have_no_frechet_distance():
    for count, known in ((8, False), (9, True)):
        assert math.isnan(frechet_distance(gaussian(count), gaussian(40))) is not known
        assert math.isnan(frechet_distance(gaussian(40), gaussian(count))) is not known


def test_both_distances_rise_with_noise_and_the_kernels_is_near_zero_for_two_halves():
    x, y = gaussian(400), gaussian(400, seed=1)
    noise = gaussian(400, seed=2)
    kernel = [kad(x, y + level * noise) for level in (0.0, 0.5, 1.0, 2.0)]
    frechet = [frechet_distance(x, y + level * noise).item() for level in (0.0, 0.5, 1.0, 2.0)]
    assert abs(kernel[0]) < 0.3
    assert kernel == sorted(kernel) and frechet == sorted(frechet)
    assert kernel[-1] > 5 and frechet[-1] > 5


def speechlike(seconds: float = 2.0, rate: int = 16000) -> torch.Tensor:
    times = torch.arange(int(seconds * rate)) / rate
    tone = sum(torch.sin(2 * torch.pi * 120 * n * times) / n for n in range(1, 20))
    return (0.1 * tone * (1 + torch.sin(2 * torch.pi * 4 * times)))[None]


def test_si_sdr_is_the_one_worked_by_hand():
    true = speechlike()
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)) * 0.01
    actual = SignalScore("si_sdr", 16000)
    actual.update(0.3 * true + noise + 0.2, true)
    s, made = (sound[0].double() - sound[0].double().mean() for sound in (true, 0.3 * true + noise))
    target = (made @ s) / (s @ s) * s
    expected = 10 * math.log10((target @ target) / ((made - target) @ (made - target)))
    assert actual.compute().mean == pytest.approx(expected, abs=1e-6)
    assert actual.compute().excluded == {}


def test_pesq_and_stoi_are_the_packages_own():
    pesq, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    true = speechlike()
    made = true + 0.02 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    actual = {}
    for name in ("pesq", "stoi"):
        score = SignalScore(name, 16000)
        score.update(made, true)
        actual[name] = score.compute().mean
    a, b = true[0].numpy(), made[0].numpy()
    assert actual["pesq"] == pytest.approx(pesq.pesq(16000, a, b, "wb"), abs=1e-6)
    assert actual["stoi"] == pytest.approx(float(pystoi.stoi(a, b, 16000)), abs=1e-6)


@pytest.mark.parametrize("name", ["si_sdr", "pesq", "stoi"])
def test_what_cannot_be_scored_is_counted_and_not_averaged(name: str):
    if name != "si_sdr":
        pytest.importorskip({"pesq": "pesq", "stoi": "pystoi"}[name])
    score, true = SignalScore(name, 16000), speechlike()
    score.update(true + 0.01 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0)), true)
    alone = score.compute().mean
    score.update(torch.zeros_like(true), true)
    score.update(true, torch.zeros_like(true))
    score.update(true * float("nan"), true)
    if name != "si_sdr":
        score.update(true[:, :1600], true[:, :1600])
    actual = score.compute()
    assert actual.mean == alone and actual.scored == 1
    assert actual.excluded.keys() >= {"silent", "silent reference", "not finite"}
    assert sum(actual.excluded.values()) == 3 + (name != "si_sdr")
    with pytest.raises(ValueError, match="32000 samples against 31999"):
        score.update(true, true[:, 1:])


def test_a_signal_metric_is_the_mean_of_its_scores_whatever_the_batches():
    true = torch.stack([speechlike(), 0.5 * speechlike(), torch.zeros_like(speechlike())])
    made = true + 0.01 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    score, together, alone = SignalScore("si_sdr", 16000), SignalMetric("si_sdr", 16000), SignalMetric("si_sdr", 16000)
    together.update(made, true)
    for one, other in zip(made, true, strict=True):
        score.update(one, other)
        alone.update(one[None], other[None])
    actual = together.compute()
    assert float(actual["si_sdr"]) == float(alone.compute()["si_sdr"]) == pytest.approx(score.compute().mean)
    assert float(actual["si_sdr_excluded"]) == 1
    silent = SignalMetric("stoi", 16000)
    silent.update(made[2:], true[2:])
    assert math.isnan(float(silent.compute()["stoi"])) and float(silent.compute()["stoi_excluded"]) == 1
    with pytest.raises(ValueError, match="no signal metric 'snr'"):
        SignalMetric("snr", 16000)
