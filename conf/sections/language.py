"""Stages `caption`, `openaqa` and `rehearsal`: the LLM that learns to hear and to make sound."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal

from conf.laws import Problem, about, exceptions, problems
from conf.sections.common import AutomaticTrainerConf, OptimizerConf, StageConf, TrainingStageConf, compile_problems
from conf.sections.tokenizer import weights_of_corpora
from conf.suggest import allowed

TEXT_TO_SOUND_LABELS = (
    "text-to-sound items are of the recordings with at most this many labels, as 1 for those of one event; null: of all"
)


@dataclass
class ModelConf:
    source: str = about("the LLM: a hub id, a folder, a GGUF file, or a name of stages/hub/weights", path=True)
    revision: str | None = about("commit, tag or branch of a hub id; null: its newest")
    dtype: Literal["float32", "bfloat16"] = about("number format of the frozen weights")
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] | None = about(
        "how attention is computed; flash_attention_2 needs the package flash-attn, a GPU and bfloat16, flex_attention a C "
        "compiler; null: transformers chooses"
    )
    activation_checkpointing: bool = about(
        "keep only what enters a layer and compute the layer again in the backward pass: less memory, more time"
    )
    compile: bool | str = about(
        "torch.compile of the layers in training, one by one; auto: true on CUDA, where there is a C compiler"
    )

    def laws(self) -> Iterable[Problem]:
        yield from compile_problems(self.compile)
        if self.attention == "flash_attention_2" and self.dtype != "bfloat16":
            yield Problem("dtype", f"{self.dtype}; flash_attention_2 computes in bfloat16. Type --model.attention=sdpa")


@dataclass
class LoraAdapterConf:
    """LoRA (Hu et al. 2021, arXiv:2106.09685) on all linear layers."""

    rank: int = about("of the two added matrices", 1, 4096)
    alpha: float = about("the added matrices' product is multiplied by alpha / rank")
    dropout: float = about("share of the inputs that are dropped in training", 0.0, 1.0)


@dataclass
class PromptsConf:
    format: Literal["chat", "ltu"] = about('chat: the chat template of the LLM; ltu: "### Instruction:" as LTU')
    system: str | None = about("the system prompt of chat; null: the template's")
    template_options: dict[str, Any] = about("arguments of the chat template, as enable_thinking=false")
    sound_to_text: list[str] = about("requests for a caption, one of them for each item")
    text_to_sound: list[str] = about(
        "requests for a sound, one of them for each item; each with {caption}, {seconds} too tells its length"
    )
    # exports of earlier versions say neither of these two
    guidance: float = field(
        default=5.0,
        metadata=about("weight of the caption of a sound that is asked for, where none is typed", 0.0, 100.0).metadata,
    )

    labels_before_sound: bool = field(
        default=False,
        metadata=about(
            "write the labels of the recording in words, then its sound; an LLM that was taught so names what it writes first"
        ).metadata,
    )

    def laws(self) -> Iterable[Problem]:
        for text in self.text_to_sound:
            try:
                named = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
            except ValueError as error:
                yield Problem("text_to_sound", f"{text!r}: {error}; a brace that is meant is typed twice")
                continue
            if "caption" not in named:
                yield Problem("text_to_sound", f"{text!r} has no {{caption}} in it")
            if unknown := set(named) - {"caption", "seconds"}:
                yield Problem(
                    "text_to_sound", f"{text!r} has {{{min(unknown)}}}; {{caption}} and {{seconds}} are allowed"
                )


@dataclass
class MixtureConf:
    """How often an item of each kind comes in one epoch: 1 once, 0 never, 2 twice, 0.25 for a quarter of the items."""

    sound_to_text: float = about("captions, from sound to text: how often each comes in an epoch", 0, 1000)
    text_to_sound: float = about("captions, from text to sound: how often each comes in an epoch", 0, 1000)
    question: float = about("questions and answers: how often each comes in an epoch", 0, 1000)
    conversation: float = about("conversations of several turns: how often each comes in an epoch", 0, 1000)
    text: float = about("texts of text.files, or of the stage rehearsal: how often each comes in an epoch", 0, 1000)
    # curricula of earlier runs do not have it
    examples: float = field(
        default=0.0,
        metadata=about(
            "recordings with one label, each the last one of a text of examples: how often each comes in an epoch",
            0, 1000,
        ).metadata,
    )  # fmt: skip

    def laws(self) -> Iterable[Problem]:
        if not any(vars(self).values()):
            yield Problem("", "no weight is above 0: nothing would be trained")


@dataclass
class ExamplesConf:
    """Texts of several recordings in a row, each with its label, as the stage fewshot asks."""

    ways: int = about("classes of a text, 2 to so many", 2, 1000)
    shots: int = about("recordings of each class before the last one, 1 to so many", 1, 1000)
    renamed: float = about(
        "share of the texts whose classes have names drawn anew from the corpus' labels: only the examples tell them",
        0.0,
        1.0,
    )


@dataclass
class TextConf:
    files: list[str] = about(
        'JSONL files, {"text": ...} or {"messages": [...]} a line; []: the texts of the stage rehearsal', path=True
    )
    loss: Literal["distillation", "cross_entropy"] = about(
        "distillation keeps the base LLM's own prediction on a text; cross_entropy teaches the text"
    )


@dataclass
class TimestampsConf:
    """Times in texts, a token each: `<|1.20|>`."""

    max_seconds: float | None = about("the largest time, s; null: no times, and a text with one is refused")
    step: float = about("seconds from one time token to the next; a time in a text is rounded to it")
    every: float | None = about(
        "seconds from one time to the next among the codes of a sound that is asked about; null: none stands there"
    )

    def laws(self) -> Iterable[Problem]:
        step, most, every = self.step, self.max_seconds, self.every
        if step < 0.01 or abs(100 * step - round(100 * step)) > 1e-6:
            yield Problem("step", f"{step} s; a whole number of hundredths is allowed, for times are written <|0.00|>")
        elif most is not None and (not 0 < most <= 3600 or abs(most / step - round(most / step)) > 1e-6):
            yield Problem("max_seconds", f"{most} s; a multiple of timestamps.step={step} up to 3600 is allowed")
        elif every is not None and (
            most is None or not 0 < every <= most or abs(every / step - round(every / step)) > 1e-6
        ):
            span = (
                "null where max_seconds is null"
                if most is None
                else f"a multiple of timestamps.step={step} up to {most}"
            )
            yield Problem("every", f"{every} s; {span} is allowed")


@dataclass
class CurriculumEntryConf:
    """A part of the training with items and learning rates of its own. Empty lists: all."""

    name: str = about("of the entry, in the log")
    steps: int = about("optimizer steps", 1)
    learning_rate: float = about("of LoRA after the entry's warm-up, which `optimizer` describes", 0)
    embedding_learning_rate: float = about("of the new rows after the entry's warm-up", 0)
    train: Literal["all", "new_rows"] = about("what is trained: LoRA and the new rows, or the new rows alone")
    mixture: MixtureConf = about("how often each kind of item comes")
    kinds: list[str] = about("kinds of question; []: all")
    corpora: list[str] = about("of data.corpora; []: all")
    datasets: list[str] = about("values of a corpus' column `dataset`; []: all")
    max_tokens: int | None = about("of an item; null: batching.max_tokens", 1)
    # null where it is not written: curricula of earlier runs do not have it
    text_to_sound_labels: int | None = field(default=None, metadata=about(TEXT_TO_SOUND_LABELS, 1).metadata)


@dataclass
class ContrastConf:
    """Condition contrastive alignment (Chen et al. 2024, arXiv:2410.09347) of the items from text to sound."""

    weight: float = about("of an item's contrast beside the cross-entropy of its tokens, both in nats; 0: off", 0)
    beta: float = about(
        "of the log-ratio to the reference, the weights at the start; guidance by 1 + 1 / beta is what is aimed at",
        1e-6,
    )
    negative_weight: float = about("of the same sound under another caption of the batch", 0)


@dataclass
class LossWeightsConf:
    """Weights of the cross-entropy by kind of token, of the z-loss, and of the contrast."""

    audio_weight: float = about("weight of a sound token")
    text_weight: float = about("weight of a text token of an answer")
    time_weight: float = about("weight of a time in an answer", 0)
    time_width: float = about(
        "s, standard deviation of the normal distribution over neighbouring times that a time is taught with; 0: it alone",
        0,
        60,
    )
    prompt_weight: float = about("weight of a token of the request")
    z_loss_weight: float = about("weight of (log Z)^2, the squared logarithm of the softmax's denominator")
    contrast: ContrastConf = about("the same sound under another caption is made less probable")


@dataclass
class BatchingConf:
    tokens_per_batch: int = about("of a batch on each device, padding included, at most")
    num_buckets: int = about("groups of items of similar length; a batch is of one of them", 1, 10_000)
    max_tokens: int = about(
        "of an item; longer ones give a window of their sound, or are left out, counted and reported", 1, 1 << 30
    )
    questions_together: int = about(
        "questions about one sound that share its tokens in one sequence, without seeing each other", 1, 10_000
    )

    def laws(self) -> Iterable[Problem]:
        if self.max_tokens > self.tokens_per_batch:
            yield Problem(
                "max_tokens",
                f"{self.max_tokens} is more than a batch holds: tokens_per_batch is {self.tokens_per_batch}",
            )


@dataclass
class RehearsalConf(StageConf):
    model: ModelConf = about("the LLM")
    texts: int = about("texts that are written", 1)
    max_tokens: int = about("of a text, without its opening", 1)
    batch_size: int = about("texts written at a time on each device", 1, 1 << 20)
    openings: list[str] = about("beginnings of the texts, in turn")


@dataclass
class LanguageConf(TrainingStageConf):
    trainer: AutomaticTrainerConf = about("arguments of lightning.Trainer")
    optimizer: OptimizerConf = about("AdamW, and the learning rate of LoRA by step")
    model: ModelConf = about("the LLM")
    lora: LoraAdapterConf = about("what is trained beside the frozen LLM")
    embedding_initialization: Literal["mean", "random", "codebook"] = about(
        "new rows before training: noise around the text rows' mean, random rows, or rows arranged as the codebook"
    )
    embedding_learning_rate: float = about("of the new rows of embedding and head, after the warm-up")
    prompts: PromptsConf = about("how a conversation becomes a prompt")
    timestamps: TimestampsConf = about("times in texts")
    kinds: list[str] = about("kinds of question to train and to validate on; []: all")
    mixture: MixtureConf = about("how often each kind of item comes")
    corpus_weights: dict[str, float] = about(
        "corpus -> what `mixture` is multiplied by for its items in training; 1 for those not named"
    )
    caption_dropout: float = about(
        "share of the text-to-sound items without their caption, for classifier-free guidance", 0.0, 1.0
    )
    text_to_sound_labels: int | None = about(TEXT_TO_SOUND_LABELS, 1)
    caption_gap_clips: int = about(
        "validation clips whose codes are also scored under another clip's caption; 0: none", 0, 1 << 20
    )
    text: TextConf = about("texts without sound, so that the LLM keeps its text")
    examples: ExamplesConf = about("texts of several recordings in a row, each with its label")
    curriculum: list[CurriculumEntryConf] = about(
        "parts of the training, one after the other; kinds and mixture are then for validation alone. []: one part"
    )
    loss: LossWeightsConf = about("weights of the loss")
    batching: BatchingConf = about("how items become batches")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        yield from weights_of_corpora(self.corpus_weights, self.data.corpora)
        yield from self._laws_of_curriculum()
        if self.model.attention == "flash_attention_2" and self.batching.questions_together > 1:
            yield Problem(
                "batching.questions_together",
                f"{self.batching.questions_together}; 1 is allowed with model.attention=flash_attention_2, which takes no "
                "mask between the questions of a sound. flex_attention does",
            )
        mixtures = [self.mixture, *(entry.mixture for entry in self.curriculum)]
        if self.loss.time_width and self.timestamps.max_seconds is None:
            yield Problem(
                "loss.time_width",
                f"{self.loss.time_width}; 0 is allowed where timestamps.max_seconds is null: no times",
            )
        if self.text.files and not any(mixture.text for mixture in mixtures):
            yield Problem("text.files", "no mixture takes them: give mixture.text a weight, as --mixture.text=0.1")
        if self.loss.contrast.weight and not any(mixture.text_to_sound for mixture in mixtures):
            yield Problem(
                "loss.contrast.weight",
                f"{self.loss.contrast.weight}; 0 is allowed where no mixture has a weight for text_to_sound",
            )

    def _laws_of_curriculum(self) -> Iterable[Problem]:
        names = [entry.name for entry in self.curriculum]
        for number, entry in enumerate(self.curriculum):
            here = f"entry {entry.name!r}"
            if entry.name in names[:number]:
                yield Problem("curriculum", f"two entries are called {entry.name!r}; each needs another name")
            for key, text in problems(entry):
                yield Problem("curriculum", f"{here}: {key}: {text}")
            most = self.batching.tokens_per_batch
            if entry.max_tokens is not None and entry.max_tokens > most:
                yield Problem(
                    "curriculum",
                    f"{here}: max_tokens: {entry.max_tokens}; 1 to batching.tokens_per_batch={most} is allowed",
                )
            for name in exceptions(entry.corpora, self.data.corpora):
                yield Problem("curriculum", f"{here}: data.corpora has no {name!r}. {allowed(name, self.data.corpora)}")
        total, most = sum(entry.steps for entry in self.curriculum), self.trainer.max_steps
        if self.curriculum and total != most:
            yield Problem(
                "curriculum",
                f"its steps add up to {total} and trainer.max_steps is {most}. Type --trainer.max_steps={total}",
            )
