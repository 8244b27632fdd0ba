"""Sounds as vectors: the sound-effects network of aiSFX (Ma and Lerch, ISMIR 2022), and plain statistics.

aiSFX's network is the 9-layer CNN of Kong et al. 2018 (arXiv:1808.00773), with the weights of the wheel `aisfx`; its
front end computes what the package's does with librosa. Scores with it compare with each other, and with none of
another embedder.
"""

import importlib
import itertools
from pathlib import Path
from typing import Any

import torch
import torchaudio.functional as AF
from torch import Tensor, nn
from torch.nn import functional as F

from models.mel_spectrum import magnitudes, mel_filterbank

NAME = "aisfx-0.1.2"
SAMPLE_RATE = 44100  # Hz
FFT_SIZE, HOP = 2048, 1024
BLOCK_FRAMES = 100  # 2.3 s
# the largest log spectrum of its training set, that the package divides by
LARGEST = 9.457798957824707


class SoundEffectsEmbedding(nn.Module):
    """waveform -> (512): the mean over blocks of 2.3 s, each of which overlaps the next by half."""

    size = 512
    filters: Tensor  # (bins, 96)

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 128, 256, 512)
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in itertools.pairwise(widths))
        self.register_buffer("filters", mel_filterbank(FFT_SIZE, 96, SAMPLE_RATE, scale="htk"), persistent=False)

    @classmethod
    def from_checkpoint(cls, path: Path) -> "SoundEffectsEmbedding":
        """path: `aisfx/models/checkpoint.pth` of the wheel."""
        import numpy

        # under the name that numpy 1 wrote
        scalar = (importlib.import_module("numpy._core.multiarray").scalar, "numpy.core.multiarray.scalar")
        allowed: list[Any] = [numpy.dtype, scalar, type(numpy.dtype("int64")), type(numpy.dtype("float64"))]
        with torch.serialization.safe_globals(allowed):
            state, _ = torch.load(path, map_location="cpu", weights_only=True)
        model = cls()
        prefix = "embedding_net.conv_block"
        model.blocks.load_state_dict(
            {
                f"{int(name[len(prefix)]) - 1}{name[len(prefix) + 1 :]}": value
                for name, value in state.items()
                if name.startswith(prefix)
            }
        )
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """sound (C, T) at sample_rate Hz -> (512). Channels are averaged; the level has no effect."""
        sound = AF.resample(sound.mean(0), sample_rate, SAMPLE_RATE)
        sound = sound / sound.abs().max().clamp(min=1e-8)
        window = torch.hann_window(FFT_SIZE, device=sound.device)
        power = magnitudes(sound, window, HOP, FFT_SIZE // 2).square()
        spectra = (power @ self.filters * 10000 + 1).log10() / LARGEST
        step = BLOCK_FRAMES // 2
        count = max(1, (len(spectra) - BLOCK_FRAMES) // step + 1)
        spectra = F.pad(spectra, (0, 0, 0, max(0, BLOCK_FRAMES - len(spectra))))
        x = torch.stack([spectra[start * step :][:BLOCK_FRAMES] for start in range(count)])[:, None]
        for number, block in enumerate(self.blocks):
            x = block(x, 2 if number < 3 else 1)
        return x.mean(3).amax(2).mean(0)


class LogMelStatistics(nn.Module):
    """waveform -> (128): mean and deviation over time of 64 log-mel bands. No weights: a baseline of embedders."""

    size = 128
    bands, floor = 64, 1e-5  # magnitudes below -100 dB of the loudest bin are silence
    filters: Tensor  # (bins, bands)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filterbank(FFT_SIZE, self.bands, SAMPLE_RATE), persistent=False)

    @torch.no_grad()
    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """sound (C, T) at sample_rate Hz -> (128). Channels are averaged; the level has no effect."""
        sound = AF.resample(sound.mean(0), sample_rate, SAMPLE_RATE)
        spectrum = magnitudes(sound, torch.hann_window(FFT_SIZE, device=sound.device), HOP, FFT_SIZE // 2)
        bands = (spectrum / spectrum.max().clamp(min=1e-8)) @ self.filters
        levels = bands.clamp(min=self.floor).log10()
        return torch.cat([levels.mean(0), levels.std(0, correction=0)])


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, pool: int) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.max_pool2d(x, pool)
