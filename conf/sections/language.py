"""The stages of the LLM, its evaluation, and the verbs that use it."""

from dataclasses import dataclass
from typing import Any, Literal

from conf.sections.common import Optimizer, StageConf, Training, TrainingStageConf


@dataclass
class Model:
    source: str  # hub id, folder, GGUF file, or a name of stages/hub/weights
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
    files: list[str]  # JSONL: {"text": ...} or {"messages": [...]} a line; empty: those of the stage `rehearsal`
    # what a text item teaches: what the base LLM says of it, so that it stays as it was, or the text itself
    loss: Literal["distillation", "cross_entropy"]


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
class RehearsalConf(StageConf):
    model: Model
    texts: int
    max_tokens: int  # of a text, after its opening
    batch_size: int
    openings: list[str]  # a text begins with one of them, in turn


@dataclass
class LanguageConf(TrainingStageConf):
    trainer: Training
    optimizer: Optimizer
    model: Model
    lora: Lora
    embedding_initialization: Literal["mean", "random", "codebook"]
    embedding_learning_rate: float  # of the new rows, which start from almost nothing
    prompts: Prompts
    timestamps: Timestamps
    kinds: list[str]  # of questions, to train on and to evaluate; empty for all
    mixture: Mixture
    corpus_weights: dict[str, float]  # what `mixture` is multiplied by in training, by corpus; 1 for those not named
    caption_dropout: float  # share of the text-to-sound items without their caption, for classifier-free guidance
    text: Text
    curriculum: list[Lesson]  # instead of kinds and mixture, which are then the validation's; empty: none
    loss: Loss
    batching: Batching


@dataclass
class Examples:
    """What of report.html can be heard."""

    clips: int  # test recordings, as they are, through the VAE and through the tokens; 0: no sound at all
    answers: int  # right ones and wrong ones, of each kind of question
    seconds: float  # heard of each recording
    megabytes: float  # of sound and pictures; the recordings beyond are left out, and said


@dataclass
class EvaluateConf(StageConf):
    # what the LLM has learned; none: the caption stage's, untrained, new rows at the text rows' mean and noise
    after: Literal["none", "caption", "openaqa"]
    tasks: list[str] | None  # of conf/tasks/, or YAML files; null: the questions and captions that the corpora have
    kinds: list[str] | None  # of questions; null: those that it was trained on, empty: all
    batch_size: int
    max_new_tokens: int
    questions_per_kind: int
    captions: int
    bootstrap_samples: int
    examples: Examples


@dataclass
class FewShotConf(StageConf):
    """`datamodules.fewshot`: what an episode is."""

    llm: Literal[
        "frozen", "caption", "openaqa"
    ]  # frozen: codes are words of `model`; else: sound tokens of that stage's LLM
    model: Model
    splits: list[str]  # whose recordings are shots and queries; those with one label
    ways: int
    shots: list[int]  # of each class; each number has its own episodes
    repeats: int  # how often each shot is shown
    induction: bool  # the line that names the classes
    episodes: int  # of each number of shots
    calibrated: (
        bool  # score the classes after an empty query too, and take that away (Zhao et al. 2021, arXiv:2102.09690)
    )
    max_codes: int | None  # of each recording, its first; null: all
    controls: list[str]  # shuffled_codes, shuffled_labels: the same episodes again
    bootstrap_samples: int


@dataclass
class GenerationConf(StageConf):
    """Sound from the captions of the test split, and what it is held against."""

    after: Literal["none", "caption", "openaqa"]  # whose LLM writes, as in EvaluateConf
    captions: int  # of the test split, one of a recording
    seeds: int  # sounds of each caption
    temperature: float  # 0 is greedy
    top_p: float  # of the nucleus; 1 keeps every code
    guidance: float  # 0 forgets the caption, 1 is the plain model, above 1 holds to the caption more
    seconds_max: float  # of a sound, written or real
    batch_size: int  # sounds
    embedder: str | None  # of sounds: a name of stages/assets; null: the codes alone are judged, and no sound is made
    recordings: int  # real ones of each split that are embedded, at most
    probe_recordings: (
        int  # training recordings with one label, that the judge of codes learns from, at most; 0: no judge
    )
    bootstrap_samples: int


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
