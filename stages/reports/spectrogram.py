"""The picture of a sound that the report shows and that `--spectrogram` writes: mel bands in magma, 80 dB deep."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchaudio.functional import melscale_fbanks

BANDS, HOP, DECIBELS = 96, 512, 80.0  # of a picture
PALETTE = (
    "0b0a1c",
    "251255",
    "51127c",
    "832681",
    "b73779",
    "e75263",
    "fc8961",
    "fec488",
    "fcfdbf",
)  # matplotlib's magma, thinned


def image(sound: Tensor, rate: int) -> Image.Image:
    """sound (T), 1 is full scale -> BANDS rows of mel bands up to half the rate, low ones at the bottom; a column every HOP samples at 44.1 kHz."""
    window = torch.hann_window(2048)
    padded = torch.nn.functional.pad(sound, (0, max(0, 2048 - len(sound))))
    power = (
        torch.stft(padded, 2048, HOP * max(1, round(rate / 44100)), window=window, return_complex=True).abs().square()
    )
    mel = melscale_fbanks(1025, 40.0, rate / 2, BANDS, rate).T @ power
    level = 10 * mel.clamp(min=1e-10).log10() - 40  # a loud tone is near 0
    grey = (255 * ((level + DECIBELS) / DECIBELS).clamp(0, 1)).round().byte().flip(0).numpy()
    drawn = Image.fromarray(grey, mode="P")
    drawn.putpalette(_palette())
    return drawn


def _palette() -> list[int]:
    anchors = np.array([[int(colour[place : place + 2], 16) for place in (0, 2, 4)] for colour in PALETTE], float)
    places = np.linspace(0, len(anchors) - 1, 256)
    return (
        np.stack([np.interp(places, np.arange(len(anchors)), one) for one in anchors.T], 1)
        .round()
        .astype(int)
        .ravel()
        .tolist()
    )
