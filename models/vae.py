"""The frozen front: waveform to latents and back, behind one interface.

Oobleck is Stable Audio Open's VAE (Evans et al. 2024, arXiv:2407.14358), the paper's. MelCodec needs no download: log-mel frames projected by PCA that
is fitted in closed form, at Oobleck's frame rate and width; back by the inverse projection and Griffin-Lim (1984). It knows no phase: its sound is rough.
"""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
import torchaudio.functional as audio
from torch import Tensor, nn


class Posterior(NamedTuple):
    mean: Tensor  # (B, F, D)
    std: Tensor  # (B, F, D)


class LatentCodec(Protocol):
    """F = ceil(T / hop_length); latent frame f belongs to samples f x hop_length to (f + 1) x hop_length."""

    sample_rate: int
    hop_length: int
    channels: int
    latent_dim: int

    def encode(self, waveform: Tensor) -> Posterior:
        """waveform (B, C, T) in [-1, 1], padded with zeros on the right to a multiple of the hop."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> waveform (B, C, F x hop_length)."""
        ...


class Oobleck(nn.Module):
    """`diffusers.AutoencoderOobleck`, frozen; rate, hop, width and channels are the model's own."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.sample_rate = int(autoencoder.config.sampling_rate)
        self.hop_length = int(autoencoder.hop_length)
        self.channels = int(autoencoder.config.audio_channels)
        self.latent_dim = int(autoencoder.config.decoder_input_channels)

    @classmethod
    def from_pretrained(cls, source: str, subfolder: str | None, revision: str | None) -> "Oobleck":
        """source: a folder or a hub id. Raises ValueError that says what to do where it cannot be had."""
        try:
            from diffusers import AutoencoderOobleck
        except ImportError:
            raise ValueError("Oobleck needs the package diffusers:   pip install 'make-some-noise[oobleck]'") from None
        try:
            model = AutoencoderOobleck.from_pretrained(source, subfolder=subfolder, revision=revision, torch_dtype=torch.float32)
        except OSError as error:
            raise ValueError(
                f"the VAE {source!r} (subfolder {subfolder!r}) cannot be loaded: {str(error).splitlines()[0]}\n"
                "Stable Audio Open is gated: accept its licence on its hub page, then `hf auth login`. Or give a folder: --codec.source=FOLDER "
                "--codec.subfolder=null, or take the codec that needs no download: --codec.kind=mel"
            ) from None
        return cls(model)

    def encode(self, waveform: Tensor) -> Posterior:
        found = self.autoencoder.encode(_pad(waveform, self.hop_length)).latent_dist
        return Posterior(found.mean.transpose(1, 2), found.std.transpose(1, 2))

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents.transpose(1, 2)).sample


class MelCodec(nn.Module):
    """Log-mel frames, hop_length / mel_hop of them stacked, projected on the latent_dim directions of largest variance."""

    components: Tensor
    mean: Tensor
    filters: Tensor
    channels = 1

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        fft_size: int,
        mel_hop: int,
        mel_bands: int,
        latent_dim: int,
        min_hz: float,
        max_hz: float,
        log_floor: float,
        griffin_lim_iterations: int,
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop_length, self.latent_dim = sample_rate, hop_length, latent_dim
        self.fft_size, self.mel_hop, self.mel_bands = fft_size, mel_hop, mel_bands
        self.log_floor, self.griffin_lim_iterations = log_floor, griffin_lim_iterations
        self.stack = hop_length // mel_hop
        size = self.stack * mel_bands
        if latent_dim > size:
            raise ValueError(f"latent_dim {latent_dim} is above the {size} values of a frame ({self.stack} mel frames x {mel_bands} bands)")
        filters = audio.melscale_fbanks(fft_size // 2 + 1, min_hz, max_hz, mel_bands, sample_rate, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.register_buffer("components", torch.zeros(size, latent_dim))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("explained_variance", torch.zeros(()))
        self.total, self.outer, self.count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0

    def accumulate(self, waveform: Tensor, num_samples: Tensor) -> None:
        """Adds the frames of waveform (B, C, T) that num_samples (B) reaches to the sums behind `fit`."""
        frames = self._frames(waveform)
        reached = -(-num_samples // self.hop_length)
        valid = frames[torch.arange(frames.shape[1], device=frames.device) < reached[:, None]].double().cpu()
        self.total += valid.sum(0)
        self.outer += valid.T @ valid
        self.count += len(valid)

    def fit(self) -> None:
        """PCA in closed form from the accumulated sums. The largest entry of each direction is positive, so that a fit is reproducible."""
        if self.count < 2:
            raise ValueError(f"the mel codec was given {self.count} frames of sound to be fitted on; it needs at least 2")
        mean = self.total / self.count
        values, vectors = torch.linalg.eigh(self.outer / self.count - torch.outer(mean, mean))
        order = values.argsort(descending=True)
        values, vectors = values[order].clamp(min=0), vectors[:, order[: self.latent_dim]]
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.components.copy_(vectors * signs)
        self.mean.copy_(mean)
        self.explained_variance.copy_(values[: self.latent_dim].sum() / values.sum().clamp(min=1e-12))

    def encode(self, waveform: Tensor) -> Posterior:
        """Deterministic: the standard deviation is zero. Raises ValueError before `fit`."""
        if not self.components.any():
            raise ValueError("the mel codec is not fitted: call accumulate() on training sound, then fit()")
        latents = (self._frames(waveform) - self.mean) @ self.components
        return Posterior(latents, torch.zeros_like(latents))

    def decode(self, latents: Tensor) -> Tensor:
        stacked = latents @ self.components.T + self.mean
        mel = stacked.view(len(latents), -1, self.mel_bands).clamp(max=12).exp().transpose(1, 2)
        power = (self._inverse() @ mel).clamp(min=0)
        length = latents.shape[1] * self.hop_length + self.fft_size - self.mel_hop
        frames = 1 + length // self.mel_hop  # Griffin-Lim's frames are centred; ours start at their hop
        half = (self.fft_size // self.mel_hop) // 2
        power = F.pad(power, (half, max(0, frames - half - power.shape[2])))[..., :frames]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # its random phases: the same latents give the same sound
            sound = audio.griffinlim(
                power, self.window, self.fft_size, self.mel_hop, self.fft_size, power=1.0, n_iter=self.griffin_lim_iterations,
                momentum=0.99, length=length, rand_init=True,
            )  # fmt: skip
        start = (self.fft_size - self.mel_hop) // 2
        return sound[:, None, start : start + latents.shape[1] * self.hop_length]

    def _frames(self, waveform: Tensor) -> Tensor:
        """(B, C, T) -> stacked log-mel (B, F, stack x bands). The window of a mel frame is centred on its own mel_hop samples."""
        sound = _pad(waveform, self.hop_length).mean(1)
        side = self.fft_size - self.mel_hop
        sound = F.pad(sound, (side // 2, side - side // 2))
        spectrum = torch.stft(sound, self.fft_size, self.mel_hop, window=self.window, center=False, return_complex=True).abs()
        mel = (spectrum.transpose(1, 2) @ self.filters).clamp(min=self.log_floor).log()
        return mel.reshape(len(mel), -1, self.stack * self.mel_bands)

    def _inverse(self) -> Tensor:
        """Filters back to bins (bins, bands): the transpose, scaled so that filters then inverse keep each band's level."""
        return self.filters / (self.filters.T @ self.filters).sum(1).clamp(min=1e-12)


def _pad(waveform: Tensor, hop_length: int) -> Tensor:
    return F.pad(waveform, (0, -waveform.shape[-1] % hop_length))
