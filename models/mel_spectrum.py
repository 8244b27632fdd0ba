"""The one mel front end: filterbank, short-time magnitudes, bands. The codec and the metrics share it.

A band is the mean magnitude of its bins, where a sine of full scale has 1.
"""

from typing import Literal

import torch
import torchaudio.functional as AF
from torch import Tensor
from torch.nn import functional as F


def mel_filterbank(
    fft_size: int,
    bands: int,
    sample_rate: int,
    min_hz: float = 0.0,
    max_hz: float | None = None,
    scale: Literal["slaney", "htk"] = "slaney",
) -> Tensor:
    """Triangles (bins, bands) from min_hz to max_hz, half the rate where it is None; each band sums to 1.

    A band so narrow that it holds no bin is all 0.
    """
    top = sample_rate / 2 if max_hz is None else max_hz
    filters = AF.melscale_fbanks(fft_size // 2 + 1, min_hz, top, bands, sample_rate, norm=None, mel_scale=scale)
    return filters / filters.sum(0).clamp(min=1e-8)


def magnitudes(waveform: Tensor, window: Tensor, hop: int, padding: int) -> Tensor:
    """waveform (T) or (B, T) -> magnitudes of its short-time spectrum (..., frames, bins), scaled as `torch.stft` does.

    window (fft_size); hop and padding in samples: zeros are put at either end. padding = fft_size / 2 centres frame k
    on sample k * hop.
    """
    padded = F.pad(waveform, (padding, padding))
    spectrum = torch.stft(padded, len(window), hop, window=window, center=False, return_complex=True)
    return spectrum.abs().transpose(-1, -2)


def mel_spectrum(waveform: Tensor, window: Tensor, hop: int, padding: int, filters: Tensor, floor: float) -> Tensor:
    """waveform (T) or (B, T), filters (bins, bands) -> (..., frames, bands), at least `floor`, for a logarithm."""
    spectrum = magnitudes(waveform, window, hop, padding) / (window.sum() / 2)
    return (spectrum @ filters).clamp(min=floor)
