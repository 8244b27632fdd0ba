"""VAE, latents, tokenizer, its table, and the cache of codes."""

from dataclasses import dataclass
from typing import Literal

from conf.sections.common import Optimizer, StageConf, Training, TrainingStageConf


@dataclass
class MelCodec:
    """`models.codec.mel.MelCodec`."""

    sample_rate: int
    hop_length: int
    fft_size: int
    mel_hop: int
    mel_bands: int
    latent_dim: int
    min_hz: float
    max_hz: float
    log_floor: float
    griffin_lim_iterations: int


@dataclass
class Oobleck:
    """`diffusers.AutoencoderOobleck`."""

    encoder_hidden_size: int  # twice decoder_input_channels: means and deviations
    downsampling_ratios: list[int]  # their product is the hop
    channel_multiples: list[int]
    decoder_channels: int
    decoder_input_channels: int  # of the latents
    audio_channels: int
    sampling_rate: int  # Hz


@dataclass
class Start:
    source: str | None  # hub id or folder of an Oobleck to go on from; null: from scratch, of the sizes in oobleck
    subfolder: str | None
    revision: str | None
    oobleck: Oobleck


@dataclass
class Spectral:
    """`models.codec.spectral_loss.SpectralLoss`."""

    fft_sizes: list[int]
    perceptual_weighting: bool


@dataclass
class Discriminator:
    """`models.codec.discriminator.Discriminator`."""

    fft_sizes: list[int]
    filters: int


@dataclass
class VaeWeights:
    """Of the parts of the generator's loss."""

    spectral: float
    adversarial: float
    feature_matching: float
    kl: float


@dataclass
class VaeConf(TrainingStageConf):
    codec: Start
    optimizer: Optimizer
    discriminator_optimizer: Optimizer
    spectral: Spectral
    discriminator: Discriminator
    weights: VaeWeights
    discriminator_warmup: int  # steps in which the discriminator learns and the VAE does not heed it
    crop_samples: int  # a multiple of the model's hop
    batch_size: int  # crops
    sample_clips: int  # validation clips whose sound and spectrogram go to TensorBoard


@dataclass
class Codec:
    kind: Literal["oobleck", "mel", "trained"]  # trained: the artifact of stage vae, or of --parents.vae=OTHER
    source: str | None  # oobleck: hub id or folder
    subfolder: str | None
    revision: str | None
    mel: MelCodec


@dataclass
class LatentsConf(StageConf):
    codec: Codec
    fit_recordings: int  # of the training split, that the mel codec is fitted on
    window_seconds: float
    batch_size: int  # windows
    recordings_per_chunk: int


@dataclass
class Rate:
    """Exactly one is given; the others are computed."""

    token_rate: float | None  # Hz
    stride: int | None  # latent frames a token
    bitrate: float | None  # bits a second


@dataclass
class Encoder:
    """`models.tokenizer.tokenizer.CausalEncoder`."""

    width: int
    depth: int
    heads: int


@dataclass
class Quantizer:
    """`models.quantizer.build`."""

    kind: Literal["vq", "simvq", "fsq", "residual", "lexical"]
    codebook_size: int  # of vq, simvq and each level of residual
    code_dim: int
    decay: float
    commitment_weight: float
    kmeans_iterations: int
    reservoir_size: int
    revive_threshold: float
    revive_every: int
    revive_until: int
    seed: int
    strides: list[int]  # residual: tokens a code, a level each, the coarsest first
    levels: list[int]  # fsq: values of each dimension; their product is the number of codes
    words: int  # lexical: how many whole words of the LLM are codes
    words_from: str | None  # lexical: the LLM, as model.source
    variational: Literal["none", "gumbel", "gaussian"]  # vq and residual
    kl_weight: float
    temperature: float  # of gumbel's posterior over cosines


@dataclass
class Decoder:
    """`models.tokenizer.dit.DiffusionTransformer`."""

    width: int
    depth: int
    heads: int


@dataclass
class Flow:
    """Training objective of the decoder."""

    objective: Literal["flow", "mse"]
    logit_normal_share: float  # share of the times drawn from a logit-normal; the rest uniform, stratified
    token_dropout: float  # share of the clips whose tokens are hidden, for classifier-free guidance
    prior_weight: float


@dataclass
class Sampling:
    """How the decoder is sampled."""

    num_steps: int
    solver: Literal["euler", "midpoint", "heun"]
    guidance: float


@dataclass
class TokenizerConf(TrainingStageConf):
    trainer: Training
    optimizer: Optimizer
    rate: Rate
    encoder: Encoder
    quantizer: Quantizer
    decoder: Decoder
    flow: Flow
    sampling: Sampling
    sample_posterior: bool  # train on draws from the VAE's posterior, where it has a spread, instead of on its mean
    ema_decay: float
    compile: bool  # the two transformers, by torch.compile: needs a C++ compiler, and minutes at the start
    batch_size: int  # windows
    corpus_weights: dict[
        str, float
    ]  # how often a training window comes in an epoch, by corpus, as in `mixture`; 1 for those not named
    sample_clips: int  # validation clips whose sound and spectrogram go to TensorBoard


@dataclass
class ReconstructConf(StageConf):
    batch_size: int  # windows
    clips_per_group: int  # windows of the test split, of each corpus, or of each family of sounds where it names them
    steps: list[int]  # numbers of function evaluations of the flow
    mean_of: int  # samples that the mean is of; 1 for none
    sound: bool  # decode to sound and measure that too
    sound_steps: list[int]  # those of `steps` whose sound is measured
    signal: list[str]  # of si_sdr, pesq and stoi: sound against sound; the last two are of speech
    embedder: str | None  # of the kernel audio distance: a name of stages/hub/weights
    probe: bool  # linear classifier on the codes
    speed_repeats: int  # of each measurement of the real-time factors; 0 for none


@dataclass
class CacheConf(StageConf):
    batch_size: int  # windows
    recordings_per_chunk: int
