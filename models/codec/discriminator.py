"""Multi-scale complex-STFT discriminator (EnCodec, Défossez et al. 2022, arXiv:2210.13438), and its three losses."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Judgement(NamedTuple):
    """What each scale says of a sound."""

    scores: list[Tensor]  # per scale (B, 1, frames, bins): above 0 real, below 0 made
    features: list[list[Tensor]]  # per scale and layer (B, filters, frames, bins)


class Discriminator(nn.Module):
    """One network a scale on real and imaginary parts of a short-time spectrum, all channels together."""

    def __init__(self, channels: int, fft_sizes: list[int], filters: int) -> None:
        """channels: of the waveform; fft_sizes: window lengths in samples, one a scale, with hops of a quarter."""
        super().__init__()
        self.scales = nn.ModuleList(_Scale(channels, size, filters) for size in fft_sizes)

    def forward(self, waveform: Tensor) -> Judgement:
        """waveform (B, C, T) -> scores and features of every scale."""
        scores, features = zip(*(scale(waveform) for scale in self.scales), strict=True)
        return Judgement(list(scores), list(features))


class _Scale(nn.Module):
    def __init__(self, channels: int, fft_size: int, filters: int) -> None:
        super().__init__()
        self.fft_size = fft_size
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        layers = [nn.Conv2d(2 * channels, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):  # in time; the bins are halved
            layers.append(
                nn.Conv2d(filters, filters, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            )
        layers.append(nn.Conv2d(filters, filters, (3, 3), padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        batch = waveform.shape[0]
        spectrum = torch.stft(
            waveform.flatten(0, 1), self.fft_size, self.fft_size // 4, window=self.window, normalized=True,
            return_complex=True,
        ).unflatten(0, (batch, -1))  # fmt: skip
        hidden = torch.cat([spectrum.real, spectrum.imag], 1).transpose(2, 3)  # (B, 2 C, frames, bins)
        features = []
        for layer in self.layers:
            hidden = nn.functional.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features


def discriminator_loss(real: Judgement, made: Judgement) -> Tensor:
    """Hinge: real scores above 1 and made ones below -1 cost nothing. Mean over the scales, as all three."""
    losses = [(1 - r).relu().mean() + (1 + m).relu().mean() for r, m in zip(real.scores, made.scores, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(made: Judgement) -> Tensor:
    """What the generator lowers: minus the scores of what it made."""
    return torch.stack([-scores.mean() for scores in made.scores]).mean()


def feature_matching_loss(real: Judgement, made: Judgement) -> Tensor:
    """Mean absolute difference of the features, layer by layer."""
    return torch.stack(
        [
            torch.stack([(r.detach() - m).abs().mean() for r, m in zip(reals, mades, strict=True)]).mean()
            for reals, mades in zip(real.features, made.features, strict=True)
        ]
    ).mean()
