"""Multi-resolution spectral loss (auraloss: Steinmetz and Reiss 2020; Yamamoto et al. 2020, arXiv:1910.11480)."""

import torch
from torch import Tensor, nn

from models.errors import ModelError


class SpectralLoss(nn.Module):
    """Spectral convergence plus mean absolute difference of log magnitudes, averaged over the resolutions.

    Natural logarithm, magnitudes above 1e-4, hops a quarter of the window. Stereo, as Stable Audio's: the mean over sum
    and difference of the channels, plus the mean over left and right.
    """

    def __init__(self, sample_rate: int, channels: int, fft_sizes: list[int], perceptual_weighting: bool) -> None:
        """sample_rate in Hz; perceptual_weighting: both sounds pass an A-weighting filter first.

        Raises ModelError for other than 1 or 2 channels, and without auraloss.
        """
        super().__init__()
        if channels not in (1, 2):
            raise ModelError(f"{channels} channels; 1 or 2 are allowed")
        try:
            from auraloss.freq import MultiResolutionSTFTLoss, SumAndDifferenceSTFTLoss
        except ImportError as error:
            raise ModelError("training a VAE needs auraloss: pip install 'make-some-noise[vae]'") from error
        arguments = {
            "fft_sizes": list(fft_sizes),
            "hop_sizes": [size // 4 for size in fft_sizes],
            "win_lengths": list(fft_sizes),
            "sample_rate": sample_rate,
            "perceptual_weighting": perceptual_weighting,
        }
        self.channels = channels
        self.each = MultiResolutionSTFTLoss(**arguments)
        self.joint = SumAndDifferenceSTFTLoss(**arguments) if channels == 2 else None

    def forward(self, decoded: Tensor, waveform: Tensor) -> Tensor:
        """decoded, waveform (B, C, T) -> (), 0 where they are equal."""
        with torch.autocast(waveform.device.type, enabled=False):
            decoded, waveform = decoded.float(), waveform.float()
            if self.joint is None:
                return self.each(decoded, waveform)
            sides = [self.each(decoded[:, [side]], waveform[:, [side]]) for side in (0, 1)]
            return self.joint(decoded, waveform) + torch.stack(sides).mean()
