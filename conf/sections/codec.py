"""Stages `vae` and `latents`: the VAE between waveforms and latents."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from conf.laws import Problem, about
from conf.sections.common import OptimizerConf, StageConf, TrainingStageConf


@dataclass
class MelCodecConf:
    """`models.codec.mel.MelCodec`."""

    sample_rate: int = about("Hz")
    hop_length: int = about("samples of a latent frame; a multiple of mel_hop")
    fft_size: int = about("samples of the window of a mel frame")
    mel_hop: int = about("samples from one mel frame to the next")
    mel_bands: int = about("mel bands of a mel frame")
    latent_dim: int = about("principal components kept of the mel frames of a latent frame")
    min_hz: float = about("lower edge of the lowest mel band, Hz")
    max_hz: float = about("upper edge of the highest mel band, Hz")
    log_floor: float = about("smallest magnitude before the logarithm")
    griffin_lim_iterations: int = about("of the phase reconstruction (Griffin and Lim 1984) in decoding")
    channels: int = about("of the waveform: 1 mono, 2 stereo", 1, 2)

    def laws(self) -> Iterable[Problem]:
        if self.hop_length % self.mel_hop:
            yield Problem(
                "hop_length",
                f"{self.hop_length}; a multiple of mel_hop={self.mel_hop} is allowed: "
                "a latent frame holds whole mel frames",
            )


@dataclass
class OobleckConf:
    """`diffusers.AutoencoderOobleck`."""

    encoder_hidden_size: int = about("channels of the encoder; twice decoder_input_channels: means and deviations")
    downsampling_ratios: list[int] = about("stride of each block; their product is the hop in samples")
    channel_multiples: list[int] = about("channels of each block, as a multiple of decoder_channels")
    decoder_channels: int = about("channels of the decoder's last block")
    decoder_input_channels: int = about("channels of the latents")
    audio_channels: int = about("of the waveform: 1 mono, 2 stereo", 1, 2)
    sampling_rate: int = about("of the waveform, Hz")


@dataclass
class VaeCodecConf:
    source: str | None = about(
        "hub id or folder of an Oobleck to fine-tune; null: from scratch, with the sizes in oobleck", path=True
    )
    subfolder: str | None = about("folder inside source that holds the VAE")
    revision: str | None = about("commit, tag or branch of a hub id; null: its newest")
    oobleck: OobleckConf = about("sizes of a VAE from scratch")

    def laws(self) -> Iterable[Problem]:
        sizes = self.oobleck
        wanted = 2 * sizes.decoder_input_channels
        if self.source is None and sizes.encoder_hidden_size != wanted:
            yield Problem(
                "oobleck.encoder_hidden_size",
                f"{sizes.encoder_hidden_size} is not 2 x decoder_input_channels = {wanted}: "
                "the encoder ends with means and deviations",
            )
        if len(sizes.downsampling_ratios) != len(sizes.channel_multiples):
            yield Problem("oobleck.channel_multiples", "one is given for each of downsampling_ratios")


@dataclass
class SpectralLossConf:
    """`models.codec.spectral_loss.SpectralLoss`."""

    fft_sizes: list[int] = about("window lengths in samples, one spectrogram each")
    perceptual_weighting: bool = about("both sounds pass an A-weighting filter first")


@dataclass
class DiscriminatorConf:
    """`models.codec.discriminator.Discriminator`."""

    fft_sizes: list[int] = about("window lengths in samples, one discriminator each")
    filters: int = about("channels of each discriminator")


@dataclass
class VaeLossConf:
    """Weights of the terms of the generator's loss."""

    spectral: float = about("weight of the spectral distance")
    adversarial: float = about("weight of the discriminator's verdict")
    feature_matching: float = about("weight of the distance between the discriminator's features")
    kl: float = about("weight of the KL divergence of the latents")


@dataclass
class VaeConf(TrainingStageConf):
    codec: VaeCodecConf = about("the VAE that is trained")
    optimizer: OptimizerConf = about("of the VAE")
    discriminator_optimizer: OptimizerConf = about("of the discriminator")
    spectral: SpectralLossConf = about("distance of spectrograms")
    discriminator: DiscriminatorConf = about("judges spectrograms as real or decoded")
    weights: VaeLossConf = about("weights of the loss")
    ema_decay: float = about("of the running average of the VAE's weights, which is what is exported", 0.0, 1.0)
    discriminator_warmup: int = about(
        "optimizer steps in which the discriminator learns and the VAE's loss leaves it out", 0, 1 << 30
    )
    crop_samples: int = about("samples of a training crop; a multiple of the hop", 1, 1 << 30)
    batch_size: int = about("crops of a batch on each device", 1, 1 << 20)
    sample_clips: int = about("validation clips whose sound and spectrogram go to TensorBoard")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if self.init_from and self.codec.source:
            yield Problem(
                "init_from", f"{self.init_from}: codec.source={self.codec.source} names weights too; give one of them"
            )


@dataclass
class CodecConf:
    kind: Literal["oobleck", "mel", "trained"] = about(
        "oobleck: from the hub or a folder; mel: fitted here, needs no download; trained: the artifact of stage vae"
    )
    source: str | None = about("oobleck: hub id or folder; random:oobleck, to rehearse without weights", path=True)
    subfolder: str | None = about("oobleck: folder inside source that holds the VAE")
    revision: str | None = about("oobleck: commit, tag or branch of a hub id; null: its newest")
    mel: MelCodecConf = about("settings of the kind mel")

    def laws(self) -> Iterable[Problem]:
        if self.kind == "oobleck" and not self.source:
            yield Problem(
                "source", "oobleck needs a hub id or a folder, as --codec.source=stabilityai/stable-audio-open-1.0"
            )


@dataclass
class LatentsConf(StageConf):
    codec: CodecConf = about("the frozen VAE")
    fit_recordings: int = about("training recordings that the mel codec is fitted on, at most")
    window_seconds: float = about(
        "length of a window, s, rounded up to whole frames; a recording longer by a quarter has several", 0.1, 3600.0
    )
    batch_size: int = about("windows encoded at a time", 1, 1 << 20)
    recordings_per_chunk: int = about("recordings of a chunk, the unit that is written at once", 1, 1 << 20)
