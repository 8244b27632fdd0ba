"""What `stage plan` says of a stage, and the facts that all stages are planned with. No torch."""

from collections.abc import Mapping
from functools import cache
from math import ceil, log2
from typing import Any, NamedTuple

from conf import compose
from conf.sections.common import StageConf, TrainerConf
from conf.sections.evaluation import After, language_stage
from conf.sections.language import LanguageConf, ModelConf
from conf.sections.tokenizer import TokenizerConf
from stages.launch import gpus
from stages.launch.codec_sizes import OobleckSizes
from stages.launch.gpus import Gpu
from stages.launch.model_sizes import LlmSizes, TokenizerSizes, llm_sizes

FRAME_RATE, LATENT_DIM = 44100 / 2048, 64  # Stable Audio's; the stage's receipt is not asked
CLIP_SECONDS = 10.0
FRAMES = ceil(CLIP_SECONDS * FRAME_RATE)
TEXT_TOKENS = 64  # of a prompt beside its sound, about: LTU's template and a question


class Corpus(NamedTuple):
    """The sound that is prepared, or else the paper's."""

    clips: float
    seconds: float
    prepared: bool


class StagePlan(NamedTuple):
    """What a stage needs. Bytes; memory and all of a step are of one rank."""

    stage: str
    parameters: float
    trained: float
    memory: dict[str, float]
    steps: float  # or batches, of a rank
    flops: float  # of a step
    traffic: float  # of a step
    float32: bool
    disk: float
    files: float
    kernels: float = 0.0  # of a step that are started one by one: of small ones the start is what takes time

    @property
    def total(self) -> float:
        return sum(self.memory.values())

    def seconds(self, gpu: Gpu) -> float:
        """Of a step."""
        return max(gpus.seconds(gpu, self.flops, self.traffic, self.float32), gpus.LAUNCH * self.kernels)

    def peak_share(self, gpu: Gpu) -> float:
        seconds = self.seconds(gpu)
        return self.flops / (seconds * (gpu.float32 if self.float32 else gpu.bfloat16)) if seconds else 0.0


class Planned(NamedTuple):
    """A stage to be planned: its configuration, and those of the stages that it reads, as far as they are known."""

    stage: str
    conf: Any  # of the stage's dataclass
    parents: Mapping[str, StageConf]
    corpus: Corpus

    @property
    def ranks(self) -> int:
        return ranks(self.conf.trainer)

    @property
    def narrow(self) -> int:
        """Bytes of an element of the products."""
        return 4 if self.conf.trainer.precision == "32-true" else 2

    def parent(self, stage: str) -> Any:
        """The configuration of a parent; the base preset's where it is not known."""
        return self.parents.get(stage) or base(stage)

    @property
    def tokenizer(self) -> TokenizerSizes:
        return TokenizerSizes.of(self.parent("tokenizer"), LATENT_DIM)

    @property
    def sound_tokens(self) -> float:
        """Of a clip."""
        return CLIP_SECONDS * token_rate(self.parent("tokenizer"))

    def llm(self, after: After) -> "Llm | None":
        """The LLM of a language stage, adapter and new rows with it; None where its sizes are not known."""
        language: LanguageConf = self.parent(language_stage(after))
        sizes = llm_sizes(language.model.source)
        added = sizes.lora(language.lora.rank) + sizes.new_rows(self.tokenizer.codes + 2) if sizes else 0
        return Llm(sizes, weight_bytes(language.model, self.narrow), added) if sizes else None


class Llm(NamedTuple):
    sizes: LlmSizes
    width: int  # bytes of a frozen weight
    added: int  # parameters in float32: adapter and new rows

    @property
    def weights(self) -> float:
        return float(self.width) * self.sizes.parameters + 4.0 * self.added


def ranks(trainer: TrainerConf) -> int:
    """Processes; `auto` and `-1` count as one device, for none is looked at."""
    devices = trainer.devices if isinstance(trainer.devices, int) else int("0" + trainer.devices.strip("auto-"))
    return max(1, devices) * trainer.num_nodes


def weight_bytes(model: ModelConf, narrow: int) -> int:
    """Of an element of a frozen LLM: under autocast its products are made in bfloat16."""
    return 2 if model.dtype == "bfloat16" or narrow == 2 else 4


def token_rate(conf: TokenizerConf) -> float:
    """Tokens a second."""
    rate = conf.rate
    if rate.token_rate is not None:
        return rate.token_rate
    if rate.stride is not None:
        return FRAME_RATE / rate.stride
    codes = TokenizerSizes.of(conf, LATENT_DIM).codes
    return (rate.bitrate or 0.0) / log2(codes)


@cache
def base(stage: str) -> Any:
    """The configuration without a preset; not to be changed."""
    return compose(stage).conf


def stable_audio() -> OobleckSizes:
    """The sizes of the VAE that the base preset of `latents` loads."""
    return OobleckSizes.of(base("vae").codec.oobleck)
