"""How far decoded latents are from the true ones (the paper's Table I measures in this space), and sound from sound."""

import torch
from torch import Tensor
from torchmetrics import Metric

from models.mel_spectrum import magnitudes, mel_filterbank, mel_spectrum


class LatentError(Metric):
    """Normalised mean squared error of latents: mean over valid frames and channels of squared error / variance.

    0 is perfect, 1 is as good as always giving the mean latent (1 - R^2). States are sums, so that ranks agree exactly.
    """

    latent_std: Tensor  # (D) float64
    squares: Tensor  # ()
    elements: Tensor  # ()

    higher_is_better = False
    full_state_update = False

    def __init__(self, latent_std: Tensor) -> None:
        """latent_std (D): of the training latents, by channel."""
        super().__init__()
        self.register_buffer("latent_std", latent_std.double(), persistent=False)
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("elements", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, latents: Tensor, num_frames: Tensor) -> None:
        """decoded, latents (B, F, D); num_frames (B): frames at and after num_frames are padding."""
        valid = (torch.arange(latents.shape[1], device=latents.device) < num_frames[:, None])[..., None]
        error = (decoded.double() - latents.double()) / self.latent_std
        self.squares += (error.square() * valid).sum()
        self.elements += valid.sum() * latents.shape[2]

    def compute(self) -> Tensor:
        return self.squares / self.elements


class MelDistance(Metric):
    """Mean absolute difference of log-mel spectra: log base 10 of magnitudes, so 0.05 is one decibel; 0 is perfect.

    Hann windows of 1024 samples, hop 256, 64 bands (Slaney's scale, each the mean of its bins) from 0 Hz to half the
    rate; a sine of full scale has magnitude 1, and magnitudes below 1e-5 (-100 dB) are silence. Every frame and channel
    counts the same. States are sums, so that ranks agree exactly.
    """

    window: Tensor  # (fft_size)
    filters: Tensor  # (bins, bands)
    total: Tensor  # ()
    count: Tensor  # ()

    higher_is_better = False
    full_state_update = False
    fft_size, hop, bands, floor = 1024, 256, 64, 1e-5

    def __init__(self, sample_rate: int, **arguments: bool) -> None:
        """sample_rate in Hz; arguments: of torchmetrics.Metric."""
        super().__init__(**arguments)
        filters = mel_filterbank(self.fft_size, self.bands, sample_rate)
        # at high rates the lowest bands may hold no bin
        self.register_buffer("filters", filters[:, filters.any(0)], persistent=False)
        self.register_buffer("window", torch.hann_window(self.fft_size), persistent=False)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, waveform: Tensor) -> None:
        """decoded, waveform (B, C, T)."""
        difference = (self._log_mel(decoded) - self._log_mel(waveform)).abs().double()
        self.total += difference.sum()
        self.count += difference.numel()

    def compute(self) -> Tensor:
        return self.total / self.count

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """(B, C, T) -> (B C, frames, bands)."""
        sound, padding = waveform.float().flatten(0, 1), self.fft_size // 2
        return mel_spectrum(sound, self.window, self.hop, padding, self.filters, self.floor).log10()


class MultiResolutionStftDistance(Metric):
    """Spectral convergence plus mean absolute difference of log10 magnitudes; 0 is perfect.

    Spectral convergence is the Frobenius norm of the difference over that of the true magnitudes. Both are of each clip
    and channel by itself, averaged over them and over Hann windows of 2048, 1024, 512 and 256 samples with hops of a
    quarter; magnitudes are at least 1e-5 of a sine of full scale. A clip of silence has no spectral convergence and
    counts by its logarithms alone.
    """

    total: Tensor  # ()
    count: Tensor  # ()

    higher_is_better = False
    full_state_update = False
    fft_sizes, floor = (2048, 1024, 512, 256), 1e-5

    def __init__(self, **arguments: bool) -> None:
        """arguments: of torchmetrics.Metric."""
        super().__init__(**arguments)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, waveform: Tensor) -> None:
        """decoded, waveform (B, C, T)."""
        for size in self.fft_sizes:
            window = torch.hann_window(size, device=waveform.device)
            spectra = (magnitudes(x.float().flatten(0, 1), window, size // 4, size // 2) for x in (decoded, waveform))
            made, true = ((x / (window.sum() / 2)).clamp(min=self.floor) for x in spectra)
            logs = (made.log10() - true.log10()).abs().mean((1, 2))
            convergence = (made - true).norm(dim=(1, 2)) / true.norm(dim=(1, 2))
            silent = (true <= self.floor).all(2).all(1)
            self.total += (logs + torch.where(silent, torch.zeros_like(convergence), convergence)).double().sum()
            self.count += len(logs)

    def compute(self) -> Tensor:
        return self.total / self.count
