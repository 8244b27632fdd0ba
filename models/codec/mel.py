"""Frozen VAEs behind one interface: waveform to latents and back. Oobleck, the trained one, is in oobleck.py.

MelCodec needs no download: log-mel frames, projected by principal components that are fitted in closed form; back by
the inverse projection, the inverse mel filters and Griffin-Lim.
"""

from typing import NamedTuple, Protocol

import torch
import torchaudio.functional as AF
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError

SAMPLES_ON_CPU = 1 << 19  # analysed at once: the spectra of more leave the cache, and take 2.7 times as long


class Posterior(NamedTuple):
    mean: Tensor  # (B, F, D)
    std: Tensor  # (B, F, D)


class Context(NamedTuple):
    """Frames before and after a frame that what belongs to it hangs on."""

    before: int
    after: int


class LatentCodec(Protocol):
    """Latent frame f stands for the samples f * hop_length to (f + 1) * hop_length. Shapes: waveform (B, C, T) in [-1,
    1], latents (B, F, D).
    """

    sample_rate: int  # Hz
    hop_length: int  # samples
    channels: int
    latent_dim: int
    encoder_context: Context

    def encode(self, waveform: Tensor) -> Posterior:
        """waveform (B, C, T) -> (B, F, D), F = ceil(T / hop_length): zeros are put on the right of the last frame."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> waveform (B, C, F * hop_length)."""
        ...


class MelCodec(nn.Module):
    """Log-mel frames, `hop_length / mel_hop` of them in a latent frame, projected on `latent_dim` principal components.
    Mono.

    The latents are the components' scores, turned by a Hadamard matrix and divided by one number: every channel has
    mean 0 and standard deviation 1 on the training corpus, and yet distances between latents are distances between
    log-mel spectra, but for that one factor. (Whitened scores, or plain ones that are standardised later, would let the
    last component, with its thousandth of the first one's variance, weigh as much as the first.)

    `accumulate` the training corpus, then `fit`; both are exact, whatever the batches were. A band is the mean
    magnitude of its bins, where a sine of full scale has 1; below `log_floor` there is silence (1e-5 is -100 dB).
    """

    fitted: Tensor
    components: Tensor  # (latent_dim, bands * frames)
    mean: Tensor
    scale: Tensor
    explained_variance: Tensor  # share of the log-mel variance that the components keep; NaN before fit

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
        if hop_length % mel_hop or mel_hop % 2 or fft_size < 2 * mel_hop or (fft_size - mel_hop) % 2:
            raise ModelError(
                f"hop_length {hop_length}, mel_hop {mel_hop}, fft_size {fft_size}: hop_length must be a multiple of "
                "mel_hop, both others even, and fft_size at least twice mel_hop, as in 2048, 512, 2048"
            )
        width = mel_bands * (hop_length // mel_hop)
        if latent_dim > width or latent_dim & (latent_dim - 1):
            raise ModelError(
                f"latent_dim {latent_dim}: a power of 2 up to mel_bands * hop_length / mel_hop = {width} is allowed"
            )
        if not 0 <= min_hz < max_hz <= sample_rate / 2:
            raise ModelError(
                f"min_hz {min_hz}, max_hz {max_hz}: they must rise, within 0 to sample_rate / 2 = {sample_rate / 2}"
            )
        self.sample_rate, self.hop_length, self.channels, self.latent_dim = sample_rate, hop_length, 1, latent_dim
        self.fft_size, self.mel_hop, self.mel_bands = fft_size, mel_hop, mel_bands
        self.log_floor, self.griffin_lim_iterations = log_floor, griffin_lim_iterations
        reach = -(-((fft_size - mel_hop) // 2) // hop_length)
        self.encoder_context = Context(reach, reach)

        filters = AF.melscale_fbanks(
            fft_size // 2 + 1, min_hz, max_hz, mel_bands, sample_rate, norm=None, mel_scale="slaney"
        )
        if not filters.any(0).all():
            raise ModelError(
                f"{mel_bands} mel_bands are too many for fft_size {fft_size}: some hold no bin. "
                "Type fewer bands or a longer fft_size"
            )
        filters = filters / filters.sum(0)  # a band is a mean of its bins
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (bins, bands)
        inverse = torch.linalg.pinv(filters.double()).float()
        self.register_buffer("inverse_filters", inverse, persistent=False)  # (bands, bins)

        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("components", torch.zeros(latent_dim, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("explained_variance", torch.tensor(float("nan")))
        self._sums = (0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    @torch.no_grad()
    def accumulate(self, waveform: Tensor, num_frames: Tensor) -> None:
        """Adds the first num_frames (B) latent frames of each clip of waveform (B, 1, T) to what `fit` reads."""
        spectra = self._log_mel(waveform)
        valid = torch.arange(spectra.shape[1], device=spectra.device) < num_frames.to(spectra.device)[:, None]
        rows = spectra[valid].double().cpu()
        count, total, products = self._sums
        self._sums = (count + len(rows), total + rows.sum(0), products + rows.T @ rows)

    @torch.no_grad()
    def fit(self) -> None:
        """Principal components of everything accumulated. Raises ModelError where that is less than latent_dim frames,
        or all of it is one spectrum.
        """
        count, total, products = self._sums
        if count <= self.latent_dim:
            raise ModelError(
                f"{count} latent frames were accumulated; {self.latent_dim} components need at least "
                f"{self.latent_dim + 1}: give more sound"
            )
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - mean.outer(mean))
        variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1).T
        kept, all_variance = variances[: self.latent_dim].sum(), variances.sum()
        if kept < 1e-12:
            raise ModelError("every accumulated frame has the same spectrum (silence?): there is nothing to fit")
        vectors = vectors[: self.latent_dim]
        # an eigenvector's sign is arbitrary: here its largest entry is positive
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        self.components.copy_(_hadamard(self.latent_dim) @ (vectors * largest.sign()))
        self.mean.copy_(mean)
        self.scale.copy_((kept / self.latent_dim).sqrt())
        self.explained_variance.copy_(kept / all_variance)
        self.fitted.fill_(True)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Posterior:
        """The posterior's std is 0: the projection is deterministic."""
        self._check_fitted()
        check_waveform(waveform, 1)
        clips = max(1, SAMPLES_ON_CPU // waveform.shape[-1]) if waveform.device.type == "cpu" else len(waveform)
        with torch.autocast(waveform.device.type, enabled=False):
            parts = [
                (self._log_mel(part) - self.mean) @ self.components.T / self.scale for part in waveform.split(clips)
            ]
        mean = torch.cat(parts)
        return Posterior(mean, torch.zeros_like(mean))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Griffin and Lim 1984, with the momentum of Perraudin et al. 2013 and phases that start at zero, so that equal
        latents sound equal.
        """
        self._check_fitted()
        with torch.autocast(latents.device.type, enabled=False):
            # torchaudio's frames are centred on k * mel_hop, ours half a hop later: one more frame at either end
            magnitudes = F.pad(self.magnitudes(latents).transpose(1, 2), (1, 1), mode="replicate")
            length = (magnitudes.shape[-1] - 1) * self.mel_hop
            waveform = AF.griffinlim(
                magnitudes, self.window, self.fft_size, self.mel_hop, self.fft_size, power=1.0,
                n_iter=self.griffin_lim_iterations, momentum=0.99, length=length, rand_init=False,
            )  # fmt: skip
            start = self.mel_hop // 2
            return waveform[:, None, start : start + latents.shape[1] * self.hop_length]

    def magnitudes(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> magnitudes of the short-time spectrum (B, F * hop_length / mel_hop, bins)."""
        spectra = (latents.float() * self.scale) @ self.components + self.mean
        bands = spectra.unflatten(-1, (-1, self.mel_bands)).flatten(1, 2).exp()
        return (bands @ self.inverse_filters).clamp(min=0) * self.window.sum() / 2

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """waveform (B, 1, T) -> (B, F, bands * frames): the log-mel frames within a latent frame, each centred in its
        own mel_hop samples.
        """
        check_waveform(waveform, 1)
        with torch.autocast(waveform.device.type, enabled=False):
            margin = (self.fft_size - self.mel_hop) // 2
            padded = F.pad(pad_to_hop(waveform.float(), self.hop_length)[:, 0], (margin, margin))
            spectrum = torch.stft(
                padded, self.fft_size, self.mel_hop, window=self.window, center=False, return_complex=True
            ).abs()
            bands = (spectrum / (self.window.sum() / 2)).transpose(1, 2) @ self.filters
            return bands.clamp(min=self.log_floor).log().unflatten(1, (-1, self.hop_length // self.mel_hop)).flatten(2)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ModelError(
                "the codec is not fitted: accumulate(waveform, num_frames) the training corpus and call fit(), "
                "or load a fitted state"
            )


def check_waveform(waveform: Tensor, channels: int) -> None:
    """Raises ModelError for another shape than (B, channels, T), T >= 1."""
    if waveform.dim() != 3 or waveform.shape[1] != channels or not waveform.shape[2]:
        raise ModelError(f"waveform of shape {tuple(waveform.shape)}; (B, {channels}, T) with T >= 1 is allowed")


def pad_to_hop(waveform: Tensor, hop_length: int) -> Tensor:
    """Zeros on the right, to whole frames."""
    return F.pad(waveform, (0, -waveform.shape[-1] % hop_length))


def _hadamard(size: int) -> Tensor:
    """Orthogonal (size, size), every entry +-1/sqrt(size): each row mixes all components evenly. Sylvester 1867; size a
    power of 2.
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
