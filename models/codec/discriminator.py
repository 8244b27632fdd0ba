"""Multi-scale complex-STFT discriminator (EnCodec, Défossez et al. 2022, arXiv:2210.13438), and its three losses."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Judgement(NamedTuple):
    """Scores and features of a batch of sounds, by scale."""

    scores: list[Tensor]  # by scale (B, 1, frames, bins): above 0 real, below 0 decoded
    features: list[list[Tensor]]  # by scale and layer (B, filters, frames, bins)


class Discriminator(nn.Module):
    """One network a scale, on real and imaginary parts of a short-time spectrum, all channels together."""

    def __init__(self, channels: int, fft_sizes: list[int], filters: int) -> None:
        """channels: of the waveform; fft_sizes: window lengths in samples, one a scale; a hop is a quarter of it."""
        super().__init__()
        self.scales = nn.ModuleList(_Scale(channels, size, filters) for size in fft_sizes)

    def forward(self, waveform: Tensor) -> Judgement:
        """waveform (B, C, T) -> scores and features of every scale."""
        scores, features = zip(*(scale(waveform) for scale in self.scales), strict=True)
        return Judgement(list(scores), list(features))


class _Scale(nn.Module):
    window: Tensor  # (fft_size)

    def __init__(self, channels: int, fft_size: int, filters: int) -> None:
        super().__init__()
        self.fft_size = fft_size
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        layers = [nn.Conv2d(2 * channels, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):  # in time; the stride halves the bins
            layers.append(nn.Conv2d(filters, filters, (3, 9), (1, 2), (dilation, 4), (dilation, 1)))
        layers.append(nn.Conv2d(filters, filters, (3, 3), padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """waveform (B, C, T) -> scores and, layer by layer, features of this scale."""
        batch = waveform.shape[0]
        spectrum = torch.stft(
            waveform.flatten(0, 1),
            self.fft_size,
            self.fft_size // 4,
            window=self.window,
            normalized=True,
            return_complex=True,
        ).unflatten(0, (batch, -1))
        hidden = torch.cat([spectrum.real, spectrum.imag], 1).transpose(2, 3)  # (B, 2 C, frames, bins)
        features = []
        for layer in self.layers:
            hidden = nn.functional.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features


def discriminator_loss(real: Judgement, decoded: Judgement) -> Tensor:
    """Hinge loss of the discriminator -> (): real scores above 1 and decoded ones below -1 cost nothing."""
    pairs = zip(real.scores, decoded.scores, strict=True)
    return torch.stack([(1 - r).relu().mean() + (1 + d).relu().mean() for r, d in pairs]).mean()


def adversarial_loss(decoded: Judgement) -> Tensor:
    """Loss of the generator -> (): minus the mean score of the sound that it decoded, averaged over the scales."""
    return torch.stack([-scores.mean() for scores in decoded.scores]).mean()


def feature_matching_loss(real: Judgement, decoded: Judgement) -> Tensor:
    """Mean absolute difference of the features -> (), averaged over the layers and then over the scales."""
    return torch.stack([_difference(*layers) for layers in zip(real.features, decoded.features, strict=True)]).mean()


def _difference(real: list[Tensor], decoded: list[Tensor]) -> Tensor:
    """Features of one scale, layer by layer; the gradient flows into the decoded ones."""
    return torch.stack([(r.detach() - d).abs().mean() for r, d in zip(real, decoded, strict=True)]).mean()
