"""From magnitudes of the short-time spectrum to sound: phases that advance with the frequency that a bin hears, then
Griffin-Lim (1984) with the momentum of Perraudin et al. 2013 ("A fast Griffin-Lim algorithm").

The start integrates over time only what phase gradient heap integration (Prusa et al. 2017, arXiv:1609.00291) follows
over time and frequency: it needs no order of bins, and it is smooth, so that a rounding of magnitudes stays small.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MOMENTUM = 0.99


class Anchor(NamedTuple):
    """What the angles of a frame are, in place of 0 before the first."""

    frame: int
    angles: Tensor  # (B, bins)


def griffin_lim(magnitudes: Tensor, window: Tensor, hop: int, iterations: int, anchor: Anchor | None = None) -> Tensor:
    """magnitudes (B, C, M, bins), frame m centred on sample m * hop -> waveform (B, C, (M - 1) * hop).

    window (fft_size); scaled as `torch.stft` does. anchor: of the starting phases. Channels have the phases of their mean, so
    that a sound that is in several stays one.
    """
    size, length = len(window), (magnitudes.shape[2] - 1) * hop
    channels, magnitudes = magnitudes.mT, magnitudes.mean(1).mT
    angles = starting_angles(magnitudes, hop, anchor)
    phases = torch.polar(torch.ones_like(angles), angles).to(
        torch.complex128 if window.dtype == torch.float64 else torch.complex64
    )
    previous = torch.zeros_like(phases)
    inertia = MOMENTUM / (1 + MOMENTUM)
    for _ in range(iterations):
        waveform = torch.istft(magnitudes * phases, size, hop, window=window, length=length)
        consistent = torch.stft(
            waveform, size, hop, window=window, center=True, pad_mode="constant", return_complex=True
        )
        phases = consistent - inertia * previous
        phases = phases / phases.abs().clamp(min=1e-16)
        previous = consistent
    waveform = torch.istft((channels * phases[:, None]).flatten(0, 1), size, hop, window=window, length=length)
    return waveform.unflatten(0, channels.shape[:2])


def starting_angles(magnitudes: Tensor, hop: int, anchor: Anchor | None = None) -> Tensor:
    """magnitudes (B, bins, M) -> angles (B, bins, M), float64.

    A sine d bins above a bin raises the next bin over the one before by (1 + d) (2 + d) / ((1 - d) (2 - d)), as the main
    lobe of a Hann window has it; solved for d, and averaged over five bins by their power, so that the bins of one sine
    agree. Their phase advances by that frequency, the mean of two frames.
    """
    bins = magnitudes.shape[1]
    # silence has no slope
    magnitudes = magnitudes.double().clamp(min=1e-5 * (bins - 1))
    slope = F.pad(magnitudes[:, 2:].log() - magnitudes[:, :-2].log(), (0, 0, 1, 1)) / 2
    rise = slope.tanh()
    number = torch.arange(bins, device=magnitudes.device, dtype=torch.float64)[:, None]
    frequency = number + 4 * rise / (3 + (9 - 8 * rise.square()).sqrt())  # bins
    power = magnitudes.square()
    frequency = _neighbours(power * frequency) / _neighbours(power)
    advance = math.pi * hop / (bins - 1) * (frequency + F.pad(frequency, (1, 0))[..., :-1]) / 2
    # a frame's phases are counted from its first sample, half a window before its centre
    angles = advance.cumsum(-1) + math.pi * number
    if anchor is None:
        return angles
    return angles + (anchor.angles - angles[..., anchor.frame])[..., None]


def _neighbours(x: Tensor) -> Tensor:
    """x (B, bins, M) -> the sum of five bins around each."""
    return F.avg_pool2d(x[:, None], (5, 1), 1, (2, 0))[:, 0] * 5
