"""A codec that needs no download and no training: log-mel frames, projected on principal components in closed form.

waveform ──magnitudes, mel bands, log──► frames of one latent, joined ──components──► latents
waveform ◄──Griffin-Lim── magnitudes ◄──ridge regression── log-mel ◄──components──────┘
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.codec import phases as vocoder
from models.codec.interface import Context, Posterior, check_waveform, pad_to_hop
from models.codec.linear_spectrum import LinearSpectrum
from models.codec.lost_detail import LostDetail
from models.errors import ModelError
from models.exact_float32 import exact_float32
from models.mel_spectrum import magnitudes, mel_filterbank

ANCHOR = 2  # latent frame whose phases a later piece starts from: the spectrum of those before it lacks a neighbour
# Up to so many times `log_floor` is silence in decoding: the regression gives what lay at the floor back a little above it, which
# embedders hear (python -m tests.benchmarks.vocoder). Over-subtraction: Berouti et al. 1979
SILENCE = 1.5
# analysed at once: the spectra of more samples leave the processor's cache, and take 2.7 times as long
SAMPLES_ON_CPU = 1 << 19


class _Moments(NamedTuple):
    """Sums over the accumulated latent frames; float64."""

    frames: int
    total: Tensor  # (W), W = channels * mel frames of one latent * bands
    products: Tensor  # (W, W)


class MelCodec(nn.Module):
    """Log-mel frames, `hop_length / mel_hop` of them in a latent frame, projected on `latent_dim` principal components.

    Mono or stereo. The latents are the components' scores, rotated by a Hadamard matrix and divided by one number: every channel
    has standard deviation 1 on the training corpus, and distances between latents are distances between log-mel
    spectra, up to that factor. Whitening would let the last component, with a thousandth of the first one's variance,
    weigh as much as the first.

    Of stereo the log-mel frames of left and right are joined before they are projected. The corpus counts as it is and
    mirrored, so that a component is either alike in both channels or opposite: what they have in common, and how their
    levels differ. (The magnitudes of mid and side would not do: mirrored sound has the same.) A sound that is mirrored is
    decoded mirrored, but for what is lost. Decoded channels share the phases of their mean.

    `accumulate` the training corpus, then `fit`; both are exact, whatever the batches were. Magnitudes below
    `log_floor` are silence, in decoding those up to `SILENCE` times it: 1e-5 is -100 dB of a sine of full scale. `fit`
    also learns to decode, which no latent depends on; a codec that was fitted before it did decodes by the
    pseudo-inverse of the mel filters. A second pass, `accumulate_detail` and `fit_detail`, learns what the components lose.
    """

    fitted: Tensor  # () bool
    components: Tensor  # (D, W), W = channels * mel frames of one latent * bands
    mean: Tensor  # (W)
    scale: Tensor  # ()
    explained_variance: Tensor  # () share of the log-mel variance that the components keep; NaN before fit
    window: Tensor  # (fft_size)
    filters: Tensor  # (bins, bands)
    inverse_filters: Tensor  # (bands, bins)

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
        channels: int = 1,
    ) -> None:
        super().__init__()
        if channels not in (1, 2):
            raise ModelError(f"channels {channels}: 1, mono, and 2, stereo, are allowed")
        if hop_length % mel_hop or mel_hop % 2 or fft_size < 2 * mel_hop or (fft_size - mel_hop) % 2:
            raise ModelError(
                f"hop_length {hop_length}, mel_hop {mel_hop}, fft_size {fft_size}: hop_length must be a multiple of "
                "mel_hop, both others even, and fft_size at least twice mel_hop, as in 2048, 512, 2048"
            )
        width = channels * mel_bands * (hop_length // mel_hop)
        if latent_dim > width or latent_dim & (latent_dim - 1):
            raise ModelError(
                f"latent_dim {latent_dim}: a power of 2 up to channels * mel_bands * hop_length / mel_hop = {width} is allowed"
            )
        if not 0 <= min_hz < max_hz <= sample_rate / 2:
            raise ModelError(
                f"min_hz {min_hz}, max_hz {max_hz}: they must rise, within 0 to sample_rate / 2 = {sample_rate / 2}"
            )
        self.sample_rate, self.hop_length, self.channels, self.latent_dim = (
            sample_rate,
            hop_length,
            channels,
            latent_dim,
        )
        self.fft_size, self.mel_hop, self.mel_bands = fft_size, mel_hop, mel_bands
        self.log_floor, self.griffin_lim_iterations = log_floor, griffin_lim_iterations
        reach = -(-((fft_size - mel_hop) // 2) // hop_length)
        self.encoder_context = Context(reach, reach)
        # each iteration mixes all frames that share a sample; ANCHOR: what comes before the phases are known
        mixed = (griffin_lim_iterations + 1) * -(-fft_size // mel_hop) + 2
        reach = -(-mixed // (hop_length // mel_hop)) + ANCHOR
        self.decoder_context = Context(reach, reach)

        filters = mel_filterbank(fft_size, mel_bands, sample_rate, min_hz, max_hz)
        if not filters.any(0).all():
            raise ModelError(
                f"{mel_bands} mel_bands are too many for fft_size {fft_size}: some hold no bin. "
                "Fewer mel_bands or a longer fft_size are allowed"
            )
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        inverse = torch.linalg.pinv(filters.double()).float()
        self.register_buffer("inverse_filters", inverse, persistent=False)
        self.linear_spectrum = LinearSpectrum(filters)
        self.lost_detail = LostDetail(latent_dim, width)

        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("components", torch.zeros(latent_dim, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("explained_variance", torch.tensor(float("nan")))
        zeros = torch.zeros(width, width, dtype=torch.float64)
        self._moments = _Moments(0, zeros[0].clone(), zeros)

    @torch.no_grad()
    def accumulate(self, waveform: Tensor, num_frames: Tensor) -> None:
        """Adds the first num_frames (B) latent frames of each clip of waveform (B, C, T) to what `fit` reads."""
        spectrum = self._spectrum(waveform)
        log_mel = self._log_bands(spectrum)
        spectra = self._join(log_mel)
        valid = torch.arange(spectra.shape[1], device=spectra.device) < num_frames.to(spectra.device)[:, None]
        rows = spectra[valid].double().cpu()
        frames, total, products = self._moments
        self._moments = _Moments(frames + len(rows), total + rows.sum(0), products + rows.T @ rows)
        # about one mel frame of each latent frame, another each time: neighbours hardly differ
        joined = self.hop_length // self.mel_hop
        chosen = valid.repeat_interleave(joined, 1)
        chosen &= torch.arange(chosen.shape[1], device=chosen.device) % (joined + 1) == 0
        log_mel, spectrum = (x.transpose(1, 2)[chosen].flatten(0, 1) for x in (log_mel, spectrum))
        self.linear_spectrum.accumulate(log_mel, spectrum.clamp(min=self.log_floor).log())

    @torch.no_grad()
    def fit(self) -> None:
        """Principal components of everything accumulated, and the regression from mel bands to the spectrum.

        Raises ModelError for no more than latent_dim frames, or where all of them have one spectrum.
        """
        frames, total, products = self._moments
        if frames <= self.latent_dim:
            raise ModelError(
                f"{frames} latent frames were accumulated; {self.latent_dim} components need at least "
                f"{self.latent_dim + 1}: give more sound"
            )
        mirrored = torch.arange(len(total)).unflatten(0, (self.channels, -1)).flip(0).flatten()
        total, products = (total + total[mirrored]) / 2, (products + products[mirrored][:, mirrored]) / 2
        mean = total / frames
        variances, vectors = torch.linalg.eigh(products / frames - mean.outer(mean))
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
        self.linear_spectrum.fit()
        self.fitted.fill_(True)

    @torch.no_grad()
    def accumulate_detail(self, waveform: Tensor, num_frames: Tensor) -> None:
        """Adds the first num_frames (B) latent frames of each clip of waveform (B, C, T) to what `fit_detail` reads.

        Raises ModelError before `fit`.
        """
        for sound in (waveform, waveform.flip(1))[: self.channels]:
            latents, spectra = self.encode(sound).mean, self._log_mel(sound)
            valid = torch.arange(spectra.shape[1], device=spectra.device) < num_frames.to(spectra.device)[:, None]
            self.lost_detail.accumulate(latents, spectra - self._components_to_spectra(latents), valid)

    @torch.no_grad()
    def fit_detail(self) -> None:
        """What the components lose, from the latents around. It changes how latents are decoded, and no latent."""
        self.lost_detail.fit()

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Posterior:
        """waveform (B, C, T) -> (B, F, D). std is 0: nothing is random. Raises ModelError before `fit`."""
        self._check_fitted()
        check_waveform(waveform, self.channels)
        clips = max(1, SAMPLES_ON_CPU // waveform[0].numel()) if waveform.device.type == "cpu" else len(waveform)
        with exact_float32(waveform.device.type):
            log_mel = (self._log_mel(part) for part in waveform.split(clips))
            mean = torch.cat([(part - self.mean) @ self.components.T / self.scale for part in log_mel])
        return Posterior(mean, torch.zeros_like(mean))

    @torch.no_grad()
    def decode(self, latents: Tensor, phases: Tensor | None = None) -> Tensor:
        """latents (B, F, D) -> waveform (B, C, F * hop_length). phases (B, bins): of frame ANCHOR.

        Equal latents sound equal: nothing is random. Raises ModelError before `fit`.
        """
        self._check_fitted()
        with exact_float32(latents.device.type):
            return self.griffin_lim(self.magnitudes(latents), phases)

    @torch.no_grad()
    def phases_at(self, latents: Tensor, frame: int, phases: Tensor | None) -> Tensor:
        """(B, bins): those of frame ANCHOR of latents[:, frame:]."""
        with exact_float32(latents.device.type):
            magnitudes = _widened(self.magnitudes(latents)).mean(1).mT
        angles = vocoder.starting_angles(magnitudes, self.mel_hop, self._anchor(phases))
        return angles[..., self._anchor_frame(frame)]

    def _anchor_frame(self, frame: int) -> int:
        """Of the widened magnitudes, for latents that begin with this frame."""
        return 1 + (frame + ANCHOR) * (self.hop_length // self.mel_hop)

    def _anchor(self, phases: Tensor | None) -> vocoder.Anchor | None:
        return None if phases is None else vocoder.Anchor(self._anchor_frame(0), phases)

    def griffin_lim(self, magnitudes: Tensor, phases: Tensor | None = None) -> Tensor:
        """magnitudes (B, C, M, bins) of the short-time spectrum -> waveform (B, C, M * mel_hop). phases: as `decode` has them."""
        widened, anchor = _widened(magnitudes), self._anchor(phases)
        waveform = vocoder.griffin_lim(widened, self.window, self.mel_hop, self.griffin_lim_iterations, anchor)
        start = self.mel_hop // 2
        return waveform[..., start : start + magnitudes.shape[2] * self.mel_hop]

    def magnitudes(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> magnitudes of the short-time spectrum (B, C, F * hop_length / mel_hop, bins)."""
        latents = latents.to(self.mean.dtype)
        spectra = self._components_to_spectra(latents)
        if self.lost_detail.fitted:
            spectra = (spectra + self.lost_detail(latents)).clamp(min=math.log(self.log_floor))
        log_mel = spectra.unflatten(-1, (self.channels, -1, self.mel_bands)).transpose(1, 2).flatten(2, 3)
        if self.linear_spectrum.fitted:
            spectrum = self.linear_spectrum(log_mel)
        else:
            spectrum = log_mel.exp() @ self.inverse_filters
        power = spectrum.clamp(min=0).square() - (SILENCE * self.log_floor) ** 2
        return power.clamp(min=0).sqrt() * self.window.sum() / 2

    def _components_to_spectra(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> log-mel frames of a latent frame (B, F, W)."""
        return (latents * self.scale) @ self.components + self.mean

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """waveform (B, C, T) -> (B, F, W): log-mel frames of a latent frame, each centred in its mel_hop samples."""
        return self._join(self._log_bands(self._spectrum(waveform)))

    def _spectrum(self, waveform: Tensor) -> Tensor:
        """waveform (B, C, T) -> magnitudes (B, C, M, bins), M = F * hop_length / mel_hop; a sine of full scale has 1."""
        check_waveform(waveform, self.channels)
        with exact_float32(waveform.device.type):
            sound = pad_to_hop(waveform.float(), self.hop_length).flatten(0, 1)
            margin = (self.fft_size - self.mel_hop) // 2
            spectrum = magnitudes(sound, self.window, self.mel_hop, margin) / (self.window.sum() / 2)
            return spectrum.unflatten(0, (-1, self.channels))

    def _log_bands(self, spectrum: Tensor) -> Tensor:
        """spectrum (B, C, M, bins) -> (B, C, M, bands)."""
        with exact_float32(spectrum.device.type):
            return (spectrum @ self.filters).clamp(min=self.log_floor).log()

    def _join(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, C, M, bands) -> the mel frames of a latent frame as one (B, F, W)."""
        return log_mel.unflatten(2, (-1, self.hop_length // self.mel_hop)).transpose(1, 2).flatten(2)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ModelError(
                "the codec is not fitted: accumulate(waveform, num_frames) the training corpus and call fit(), "
                "or load the state of a fitted one"
            )


def _widened(magnitudes: Tensor) -> Tensor:
    """(B, C, M, bins) -> (B, C, M + 2, bins). Frame m is centred in its mel_hop samples, half a hop later than `phases` has
    it: one more frame at either end.
    """
    return torch.cat([magnitudes[:, :, :1], magnitudes, magnitudes[:, :, -1:]], 2)


def _hadamard(size: int) -> Tensor:
    """Orthogonal (size, size), every entry +-1/sqrt(size): each row mixes all components evenly. Sylvester 1867.

    size: a power of 2.
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
