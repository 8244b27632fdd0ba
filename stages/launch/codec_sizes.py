"""Parameters, operations and activations of Oobleck and of its discriminator, by arithmetic on their sizes. No torch.

An activation is what autograd keeps of a training step in float32; compared with counted saved tensors in the tests.
"""

from itertools import pairwise
from math import prod
from typing import NamedTuple

from conf.sections.codec import DiscriminatorConf, OobleckConf

SNAKE = 5  # tensors that a snake and the convolution behind it keep
SNAKE_PASSES = 12  # over an element: a convolution reads and writes it, a snake passes over it five times
ALIVE = 4  # tensors of the widest layer at one time, without gradients


class HalfSizes(NamedTuple):
    """The encoder or the decoder. A layer is (channels in, channels out, kernel, outputs a sample)."""

    layers: list[tuple[int, int, int, float]]
    snakes: float  # elements a sample that pass through a snake
    widest: float  # elements a sample of the widest layer

    @property
    def parameters(self) -> int:
        """Weight norm has a length for each output beside the weights; a snake has two numbers a channel."""
        return sum(before * after * kernel + 4 * after for before, after, kernel, _ in self.layers)

    @property
    def flops(self) -> float:
        """Of a sample, forward."""
        return sum(2 * before * after * kernel * rate for before, after, kernel, rate in self.layers)

    @property
    def traffic(self) -> float:
        """Bytes of a sample that are read and written, forward, in float32."""
        return 4 * SNAKE_PASSES * self.snakes

    @property
    def activations(self) -> float:
        """Bytes of a sample."""
        return 4 * SNAKE * self.snakes

    @property
    def alive(self) -> float:
        """Bytes of a sample that are alive at one time without gradients."""
        return 4 * ALIVE * self.widest


class OobleckSizes(NamedTuple):
    encoder: HalfSizes
    decoder: HalfSizes
    hop_length: int
    sample_rate: int

    @classmethod
    def of(cls, conf: OobleckConf) -> "OobleckSizes":
        width, multiples = conf.encoder_hidden_size, [1, *conf.channel_multiples]
        down, snakes, rate = [(conf.audio_channels, width, 7, 1.0)], 0.0, 1.0
        for stride, (before, after) in zip(conf.downsampling_ratios, pairwise(multiples), strict=True):
            down += _residual_units(width * before, rate)
            snakes += 7 * rate * width * before
            rate /= stride
            down.append((width * before, width * after, 2 * stride, rate))
        down.append((width * multiples[-1], width, 3, rate))
        encoder = HalfSizes(down, snakes + rate * width * multiples[-1], width)

        width = conf.decoder_channels
        up, snakes = [(conf.decoder_input_channels, width * multiples[-1], 7, rate)], 0.0
        for stride, (before, after) in zip(conf.downsampling_ratios[::-1], pairwise(multiples[::-1]), strict=True):
            up.append((width * before, width * after, 2 * stride, rate))
            snakes += rate * width * before
            rate *= stride
            up += _residual_units(width * after, rate)
            snakes += 6 * rate * width * after
        up.append((width, conf.audio_channels, 7, rate))
        hop, sample_rate = prod(conf.downsampling_ratios), conf.sampling_rate
        return cls(encoder, HalfSizes(up, snakes + width, width), hop, sample_rate)

    @property
    def parameters(self) -> int:
        return self.encoder.parameters + self.decoder.parameters


class DiscriminatorSizes(NamedTuple):
    scales: int
    filters: int
    channels: int  # of the waveform

    @classmethod
    def of(cls, conf: DiscriminatorConf, channels: int) -> "DiscriminatorSizes":
        return cls(len(conf.fft_sizes), conf.filters, channels)

    @property
    def parameters(self) -> int:
        filters = self.filters
        kernels = 27 * 2 * self.channels * filters + (3 * 27 + 9) * filters**2 + 9 * filters
        return self.scales * (kernels + 10 * filters + 2)

    @property
    def flops(self) -> float:
        """Of a sample, forward. A spectrum has two complex numbers a sample, and three strides halve its bins."""
        filters = self.filters
        first, rest = 2 * 2 * 27 * 2 * self.channels * filters, 2 * filters**2 * (27 * (1 + 1 / 2 + 1 / 4) + 9 / 4)
        return self.scales * (first + rest)

    @property
    def activations(self) -> float:
        """Bytes of a sample that one step keeps: of two sounds to learn to judge, or of one and the other's features."""
        return 4 * self.scales * (16.3 * self.filters + 16.7)


def spectral_activations(scales: int, channels: int) -> float:
    """Bytes of a sample: the spectral loss looks at left and right, and at their sum and difference."""
    return 4 * 17.4 * scales * (4 if channels == 2 else 1)


def _residual_units(channels: int, rate: float) -> list[tuple[int, int, int, float]]:
    return [(channels, channels, kernel, rate) for _ in range(3) for kernel in (7, 1)]
