"""The picture of a sound in TensorBoard, in the report and of `--spectrogram`: mel bands in magma, 80 dB deep."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchaudio.functional import melscale_fbanks

BANDS, HOP, DECIBELS, LOWEST = 96, 512, 80.0, 40.0  # LOWEST: Hz
PALETTE = [
    "0b0a1c",
    "251255",
    "51127c",
    "832681",
    "b73779",
    "e75263",
    "fc8961",
    "fec488",
    "fcfdbf",
]  # matplotlib's magma, thinned


def image(sound: Tensor, rate: int) -> Image.Image:
    """sound (T), 1 is full scale, at `rate` Hz -> BANDS rows of mel bands up to half the rate, low ones at the
    bottom; a column every HOP samples at 44.1 kHz.
    """
    window = torch.hann_window(2048)
    padded = torch.nn.functional.pad(sound, (0, max(0, 2048 - len(sound))))
    hop = HOP * max(1, round(rate / 44100))
    power = torch.stft(padded, 2048, hop, window=window, return_complex=True).abs().square()
    mel = melscale_fbanks(1025, LOWEST, rate / 2, BANDS, rate).T @ power
    level = 10 * mel.clamp(min=1e-10).log10() - 40  # a loud tone is near 0
    index = (255 * ((level + DECIBELS) / DECIBELS).clamp(0, 1)).round().byte().flip(0).numpy()
    picture = Image.fromarray(index, mode="P")
    picture.putpalette(palette())
    return picture


def position(hertz: float, rate: int) -> float:
    """Of a frequency in the picture of a sound at `rate` Hz: 0 is its lower edge, 1 its upper one."""
    low, at, high = (math.log10(1 + one / 700) for one in (LOWEST, hertz, rate / 2))  # mel, as HTK has it
    return (at - low) / (high - low)


def palette() -> list[int]:
    """256 colours, red, green and blue of each in turn."""
    anchors = np.array([[int(colour[start : start + 2], 16) for start in (0, 2, 4)] for colour in PALETTE], float)
    positions = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(positions, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.stack(channels, 1).round().astype(int).ravel().tolist()
