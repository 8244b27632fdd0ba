"""Phases: a steady sine comes back from its magnitudes alone, and rounding stays rounding."""

import math

import pytest
import torch
from torch import Tensor

from models.codec.phases import griffin_lim, starting_angles

SIZE, HOP, FRAMES = 256, 64, 60
WINDOW = torch.hann_window(SIZE, dtype=torch.float64)


def spectrum(waveform: Tensor) -> Tensor:
    """(B, T) -> complex (B, bins, M), zeros beyond the ends."""
    return torch.stft(waveform, SIZE, HOP, window=WINDOW, center=True, pad_mode="constant", return_complex=True)


def sine(bin: float) -> Tensor:
    """(1, T); bin: frequency in bins."""
    return (2 * math.pi * bin / SIZE * torch.arange((FRAMES - 1) * HOP, dtype=torch.float64))[None].sin()


def error(waveform: Tensor, magnitudes: Tensor) -> float:
    """Of the frames that no end reaches, 0 is perfect."""
    inside = slice(4, -4)
    difference = spectrum(waveform).abs()[..., inside] - magnitudes[..., inside]
    return float(difference.norm() / magnitudes[..., inside].norm())


@pytest.mark.parametrize("bin", [9.0, 20.3, 33.5, 70.8])
def test_a_sine_comes_back_before_any_iteration(bin: float):
    magnitudes = spectrum(sine(bin)).abs()[..., 4:-4]  # the ends are no sine
    assert error(griffin_lim(magnitudes.mT[:, None], WINDOW, HOP, 0)[:, 0], magnitudes) < 0.1
    without = torch.istft(magnitudes + 0j, SIZE, HOP, window=WINDOW, length=(FRAMES - 9) * HOP)
    assert error(without, magnitudes) > 0.5


def test_iterations_bring_the_magnitudes_nearer():
    generator = torch.Generator().manual_seed(0)
    magnitudes = spectrum(torch.randn(2, (FRAMES - 1) * HOP, generator=generator, dtype=torch.float64)).abs()
    errors = [error(griffin_lim(magnitudes.mT[:, None], WINDOW, HOP, count)[:, 0], magnitudes) for count in (0, 4, 64)]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.3


def test_a_rounding_of_magnitudes_stays_a_rounding_of_phases():
    generator = torch.Generator().manual_seed(0)
    magnitudes = spectrum(torch.randn(1, (FRAMES - 1) * HOP, generator=generator, dtype=torch.float64)).abs()
    noise = torch.randn(magnitudes.shape, generator=generator, dtype=torch.float64)
    angles, rounded = (starting_angles(x, HOP) for x in (magnitudes, magnitudes * (1 + 1e-10 * noise)))
    torch.testing.assert_close(rounded, angles, atol=1e-7, rtol=0)


def test_silence_is_silent_and_float32_stays_float32():
    silence = torch.zeros(1, 2, FRAMES, SIZE // 2 + 1)
    waveform = griffin_lim(silence, WINDOW.float(), HOP, 3)
    assert waveform.shape == (1, 2, (FRAMES - 1) * HOP) and waveform.dtype == torch.float32 and not waveform.any()
