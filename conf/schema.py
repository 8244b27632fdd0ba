"""What may be chosen: one dataclass a unit, with types and units, and no default values (a value and its reason stand in YAML).

A section that feeds a constructor has that constructor's argument names (a test holds them equal).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


@dataclass
class Data:
    root: str  # folder of the prepared corpora
    corpora: list[str]
    on_bad: Literal["error", "skip"]  # a recording that cannot be read: end at once, or go on without it and say so
    num_workers: int  # processes that read and prepare


@dataclass
class Hardware:
    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: (
        str  # of lightning.Trainer; or auto: bf16-mixed where the processor multiplies bfloat16 itself, else 32-true
    )


@dataclass
class Steps(Hardware):
    """Arguments of `lightning.Trainer`; steps are optimizer steps."""

    max_steps: int
    log_every_n_steps: int
    val_check_interval: int
    limit_val_batches: int


@dataclass
class Training(Steps):
    """What the Trainer does by itself where a stage has one optimizer."""

    accumulate_grad_batches: int
    gradient_clip_val: float | None


@dataclass
class Optimizer:
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    weight_decay: float
    betas: list[float]


@dataclass
class Checkpoints:
    every_n_steps: int
    keep: int


@dataclass
class StageConf:
    """What every stage has."""

    experiment: str
    runs: str
    seed: int
    threads: int  # of torch on the CPU; 0 leaves torch's own choice
    parents: dict[str, str]  # stage -> another experiment's name, or a run folder, to take that parent from
    data: Data


@dataclass
class MelCodec:
    """`models.vae.MelCodec`."""

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
    """`models.spectral.SpectralLoss`."""

    fft_sizes: list[int]
    perceptual_weighting: bool


@dataclass
class Discriminator:
    """`models.discriminator.Discriminator`."""

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
class VaeConf(StageConf):
    trainer: Steps
    checkpoints: Checkpoints
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
    trainer: Hardware
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
    """`models.tokenizer.CausalEncoder`."""

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
    """`models.dit.DiffusionTransformer`."""

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
class TokenizerConf(StageConf):
    trainer: Training
    checkpoints: Checkpoints
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
    sample_clips: int  # validation clips whose sound and spectrogram go to TensorBoard


@dataclass
class ReconstructConf(StageConf):
    trainer: Hardware
    batch_size: int  # windows
    clips_per_group: int  # windows of the test split, of each corpus, or of each family of sounds where it names them
    steps: list[int]  # numbers of function evaluations of the flow
    mean_of: int  # samples that the mean is of; 1 for none
    sound: bool  # decode to sound and measure that too
    sound_steps: list[int]  # those of `steps` whose sound is measured
    embedder: str | None  # of the kernel audio distance: a name of stages/assets.py
    probe: bool  # linear classifier on the codes


@dataclass
class CacheConf(StageConf):
    trainer: Hardware
    batch_size: int  # windows
    recordings_per_chunk: int


@dataclass
class Model:
    source: str  # hub id, folder, GGUF file, or a name of stages/assets.py
    revision: str | None
    dtype: Literal["float32", "bfloat16"]  # of the frozen weights
    attention: Literal["sdpa", "eager"] | None  # null: what transformers takes for this LLM
    activation_checkpointing: bool
    compile: bool


@dataclass
class Lora:
    rank: int
    alpha: float
    dropout: float


@dataclass
class Prompts:
    format: Literal["chat", "ltu"]
    system: str | None
    template_options: dict[str, Any]  # what the chat template may be told, as enable_thinking
    sound_to_text: list[str]
    text_to_sound: list[str]  # each with {caption}


@dataclass
class Mixture:
    """How often an item of each kind comes in one epoch: 1 once, 0 never, 2 twice, 0.25 for a quarter of the items."""

    sound_to_text: float
    text_to_sound: float
    question: float
    conversation: float
    text: float  # of text.files


@dataclass
class Text:
    files: list[str]  # JSONL: {"text": ...} or {"messages": [...]} a line


@dataclass
class Timestamps:
    """Times in texts, a token each: `<|1.20|>`."""

    max_seconds: float | None  # null: no times, and a text that holds one is refused
    step: float  # seconds; a time in a text is rounded to it


@dataclass
class Lesson:
    """An entry of a curriculum. Empty lists: all."""

    name: str
    steps: int
    learning_rate: float  # its peak, of LoRA: warm-up and decay are each entry's own, as `optimizer` says
    embedding_learning_rate: float
    train: Literal["all", "new_rows"]  # what moves: LoRA and the new rows, or the new rows alone
    mixture: Mixture
    kinds: list[str]  # of questions
    corpora: list[str]  # of data.corpora
    datasets: list[str]  # values of a corpus' column `dataset`
    max_tokens: int | None  # null: batching.max_tokens


@dataclass
class Loss:
    audio_weight: float
    text_weight: float
    prompt_weight: float
    z_loss_weight: float


@dataclass
class Batching:
    tokens_per_batch: int
    num_buckets: int
    max_tokens: int  # an item above it is left out, counted and reported
    questions_together: int  # on one sound: they share its tokens in one training sequence and are blind to each other


@dataclass
class LanguageConf(StageConf):
    trainer: Training
    checkpoints: Checkpoints
    optimizer: Optimizer
    model: Model
    lora: Lora
    embedding_initialization: Literal["mean", "random", "codebook"]
    embedding_learning_rate: float  # of the new rows, which start from almost nothing
    prompts: Prompts
    timestamps: Timestamps
    kinds: list[str]  # of questions, to train on and to evaluate; empty for all
    mixture: Mixture
    caption_dropout: float  # share of the text-to-sound items without their caption, for classifier-free guidance
    text: Text
    curriculum: list[Lesson]  # instead of kinds and mixture, which are then the validation's; empty: none
    loss: Loss
    batching: Batching


@dataclass
class EvaluateConf(StageConf):
    trainer: Hardware
    after: Literal[
        "none", "caption", "openaqa"
    ]  # what the LLM has learned; none: the caption stage's, untrained, with its new rows as they start
    kinds: list[str] | None  # of questions; null: those that it was trained on, empty: all
    batch_size: int
    max_new_tokens: int
    questions_per_kind: int
    captions: int
    bootstrap_samples: int


@dataclass
class FolderConf:
    """`stage prepare folder`: anybody's own recordings."""

    data: Data
    root: str
    metadata: str
    name: str | None  # of the corpus; null takes the folder's
    split_by: str | None  # a column whose values decide the split
    test: list[str]
    validation: list[str]
    validation_fraction: float
    label_question: str


@dataclass
class DiagnosticConf:
    """`stage prepare diagnostic`: scenes rendered from a seed."""

    data: Data
    train_scenes: int
    validation_scenes: int
    test_scenes: int
    scene_seconds: float
    sample_rate: int
    seed: int
    kinds: list[str]  # of sound, of those in datamodules/diagnostic; empty for all


@dataclass
class AskConf:
    """`stage ask`."""

    max_new_tokens: int
    temperature: float  # 0 is greedy
    seed: int


@dataclass
class GenerateConf:
    """`stage generate`."""

    n: int
    seconds_max: float
    temperature: float  # 0 is greedy
    top_p: float  # of the nucleus; 1 keeps every code
    guidance: float  # 0 forgets the caption, 1 is the plain model, above 1 holds to the caption more
    seed: int


class Unit(NamedTuple):
    schema: type
    folders: tuple[str, ...]  # of conf/, weakest first


UNITS = {
    "vae": Unit(VaeConf, ("", "vae")),
    "latents": Unit(LatentsConf, ("", "latents")),
    "tokenizer": Unit(TokenizerConf, ("", "tokenizer")),
    "tokenizer_mse": Unit(TokenizerConf, ("", "tokenizer", "tokenizer_mse")),
    "reconstruct": Unit(ReconstructConf, ("", "reconstruct")),
    "cache": Unit(CacheConf, ("", "cache")),
    "caption": Unit(LanguageConf, ("", "language", "caption")),
    "openaqa": Unit(LanguageConf, ("", "language", "openaqa")),
    "evaluate": Unit(EvaluateConf, ("", "evaluate")),
    "folder": Unit(FolderConf, ("corpora", "corpora/folder")),
    "diagnostic": Unit(DiagnosticConf, ("corpora", "corpora/diagnostic")),
    "ask": Unit(AskConf, ("ask",)),
    "generate": Unit(GenerateConf, ("generate",)),
}

# Keys that change how long a run takes or where it lies, not what comes out of it: a receipt stays fresh when they change.
OPERATIONAL = (
    "experiment",
    "runs",
    "threads",
    "parents",
    "data.root",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "checkpoints",
    "sample_clips",
    "compile",
)
