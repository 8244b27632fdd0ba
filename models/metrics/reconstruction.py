"""How far decoded latents are from the true ones (the paper's Table I measures in this space), and sound from sound."""

from collections.abc import Sequence
from typing import Any

import torch
import torchaudio.functional as AF
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class LatentError(Metric):
    """Normalised mean squared error of latents: mean over valid frames and channels of (x - x_hat)^2 / var, per channel.

    0 is perfect, 1 is as good as always giving the mean latent (1 - R^2). States are sums, so that ranks agree exactly.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, latent_std: Tensor) -> None:
        """latent_std (D): per channel, of the training latents."""
        super().__init__()
        self.register_buffer("latent_std", latent_std.double(), persistent=False)
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("elements", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, latents: Tensor, num_frames: Tensor) -> None:
        """decoded, latents (B, F, D); num_frames (B): frames from num_frames on are padding."""
        valid = (torch.arange(latents.shape[1], device=latents.device) < num_frames[:, None])[..., None]
        error = (decoded.double() - latents.double()) / self.latent_std
        self.squares += (error.square() * valid).sum()
        self.elements += valid.sum() * latents.shape[2]

    def compute(self) -> Tensor:
        return self.squares / self.elements


class CodebookUse(Metric):
    """Counts of codes over an epoch: perplexity 2^H, share of entries used, and H in bits a code; means over levels."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, codebook_size: int, levels: Sequence[int] = (0,), **arguments: Any) -> None:
        """levels: the level of each code of one block; code s of a clip is of level levels[s % len(levels)]. arguments: of torchmetrics.Metric."""
        super().__init__(**arguments)
        self.codebook_size, self.levels = codebook_size, tuple(levels)
        self.add_state(
            "counts", torch.zeros(max(levels) + 1, codebook_size, dtype=torch.long), dist_reduce_fx="sum"
        )  # (Q, K)

    def update(self, codes: Tensor, mask: Tensor) -> None:
        """codes, mask (..., S): masked-out codes are padding and do not count."""
        places = torch.arange(codes.shape[-1], device=codes.device) % len(self.levels)
        rows = torch.tensor(self.levels, device=codes.device)[places] * self.codebook_size + codes
        self.counts += torch.bincount(rows[mask], minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> dict[str, Tensor]:
        share = self.counts.double() / self.counts.sum(-1, keepdim=True).clamp(min=1)
        bits = -(share * share.clamp(min=1e-300).log2()).sum(-1)
        return {
            "codebook_perplexity": bits.exp2().mean(),
            "codebook_used": (self.counts > 0).double().mean(),
            "codebook_bits": bits.mean(),
        }


class MelDistance(Metric):
    """Mean absolute difference of log-mel spectra: log base 10 of magnitudes, so 0.05 is one decibel; 0 is perfect.

    Hann windows of 1024 samples, hop 256, 64 bands (Slaney's scale, each the mean of its bins) from 0 Hz to half the
    rate; a sine of full scale has magnitude 1, and below 1e-5 (-100 dB) there is silence. Every frame and channel
    counts the same. States are sums, so that ranks agree exactly.
    """

    higher_is_better = False
    full_state_update = False
    fft_size, hop, bands, floor = 1024, 256, 64, 1e-5

    def __init__(self, sample_rate: int, **arguments: bool) -> None:
        """sample_rate in Hz; arguments: of torchmetrics.Metric."""
        super().__init__(**arguments)
        filters = AF.melscale_fbanks(
            self.fft_size // 2 + 1, 0.0, sample_rate / 2, self.bands, sample_rate, norm=None, mel_scale="slaney"
        )
        filters = filters[:, filters.any(0)]  # at high rates the lowest bands may hold no bin
        self.register_buffer("filters", filters / filters.sum(0), persistent=False)
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
        magnitude = _magnitude(waveform, self.window, self.hop) / (self.window.sum() / 2)
        return (magnitude.transpose(1, 2) @ self.filters).clamp(min=self.floor).log10()


class MultiResolutionStftDistance(Metric):
    """Spectral convergence (Frobenius norm of the difference over that of the truth) plus mean absolute difference of
    log10 magnitudes, each clip and channel by itself, averaged over them and over the windows; 0 is perfect.

    Hann windows of 2048, 1024, 512 and 256 samples with hops of a quarter; magnitudes above 1e-5 of a sine of full
    scale. A clip of silence has no spectral convergence and counts by its logarithms alone.
    """

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
            made, true = (
                (_magnitude(sound, window, size // 4) / (window.sum() / 2)).clamp(min=self.floor)
                for sound in (decoded, waveform)
            )
            logs = (made.log10() - true.log10()).abs().mean((1, 2))
            convergence = (made - true).norm(dim=(1, 2)) / true.norm(dim=(1, 2))
            silent = (true <= self.floor).all(2).all(1)
            self.total += (logs + torch.where(silent, torch.zeros_like(convergence), convergence)).double().sum()
            self.count += len(logs)

    def compute(self) -> Tensor:
        return self.total / self.count


def _magnitude(waveform: Tensor, window: Tensor, hop: int) -> Tensor:
    """(B, C, T) -> magnitudes (B C, bins, frames), frames centred, with silence beyond either end."""
    sound = F.pad(waveform.float().flatten(0, 1), (len(window) // 2, len(window) // 2))
    return torch.stft(sound, len(window), hop, window=window, center=False, return_complex=True).abs()
