"""Stages `evaluate`, `fewshot`, `generation`, and the verbs `ask`, `generate` and `pairs`: what a trained LLM is asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from conf import evaluation_tasks
from conf.errors import UsageError
from conf.laws import Problem, about, exceptions
from conf.sections.common import StageConf
from conf.sections.language import ModelConf, PromptsConf
from conf.suggest import allowed

CONTROLS = ("shuffled_codes", "shuffled_labels")
After = Literal["none", "caption", "openaqa", "text_to_sound", "preference"]
AFTER = (
    "the stage whose LLM is used; none: that of caption before its training, its new rows noise around the text rows' "
    "mean"
)
TEMPERATURE = "of sampling; 0 takes the most probable code each time (greedy)"
TOP_P = "sample from the most probable codes that make up this probability; 1: from all"
TOP_K = "sample from this many most probable codes; null: from all"
BEST_OF = (
    "sounds that are drawn for each that is kept: the one under which the LLM finds the caption most probable, that of openaqa "
    "where text_to_sound writes; 1: no choice"
)
AUDIO_CONTRAST = (
    "a of audio-aware decoding: (1 + a) log p(answer | sound) - a log p(answer | no sound) decides; 0: the plain LLM"
)
GUIDANCE = (
    "weight of the caption (classifier-free guidance): 0 ignores it, 1 is the plain model, above 1 stresses it; null: "
    "prompts.guidance of the LLM's training"
)


@dataclass
class ExamplesConf:
    """The part of report.html that can be heard."""

    clips: int = about(
        "test recordings to hear, as they are, through the VAE and through the tokens; 0: no sound", 0, 1000
    )
    written: int = about(
        "test captions whose sound the LLM writes, to hear beside the recordings; where `generation` was run, its sounds are "
        "taken",
        0,
        1000,
    )
    after: Literal["caption", "openaqa", "text_to_sound"] | None = about(
        "the stage whose LLM writes them; null: the LLM that answers"
    )
    answers: int = about("right answers and wrong answers of each kind of question, to read", 0, 1000)
    seconds: float = about("length of what is heard of each recording, s", 0.1, 3600.0)
    megabytes: float = about(
        "size of all sound and pictures; recordings beyond it are left out, and counted", 0.0, 1000.0
    )


@dataclass
class EvaluateConf(StageConf):
    after: After = about(AFTER)
    tasks: list[str] | None = about(
        "names of conf/tasks/, or YAML files of your own; null: the questions and captions that the corpora have",
        path=True,
    )
    kinds: list[str] | None = about("kinds of question; null: those of the LLM's training, []: all")
    batch_size: int = about("questions answered at a time on each device", 1, 1 << 20)
    max_new_tokens: int = about("tokens of an answer, at most", 1, 1 << 20)
    audio_contrast: float = about(AUDIO_CONTRAST, 0.0, 100.0)
    questions_per_kind: int = about("test questions of each kind, at most")
    captions: int = about("test recordings that are captioned, at most")
    bootstrap_samples: int = about("resamples of an interval")
    examples: ExamplesConf = about("what report.html makes heard")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if self.tasks is None:
            return
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            known = ", ".join(evaluation_tasks.names())
            yield Problem("tasks", f"{self.tasks}; one or more, each once, or null. Allowed: {known}")
        for name in self.tasks:
            try:
                evaluation_tasks.task(name)
            except UsageError as error:
                yield Problem("tasks", str(error).removeprefix("tasks: "))


@dataclass
class FewShotConf(StageConf):
    """Episodes of `datamodules.fewshot`: classes, a few shots of each, and a recording to name."""

    llm: Literal["frozen", "caption", "openaqa"] = about(
        "frozen: codes are written as words of `model`; else: sound tokens of that stage's LLM"
    )
    model: ModelConf = about("the LLM of llm=frozen")
    splits: list[str] = about("splits of the recordings that are used; those with one label")
    ways: int = about("classes of an episode", 2, 1000)
    shots: list[int] = about("examples of each class, as [1,5]; each number has its own episodes")
    repeats: int = about("how often a shot is written in the prompt", 1, 100)
    induction: bool = about("begin the prompt with a line that names the classes")
    episodes: int = about("of each number of shots", 1, 1 << 20)
    calibrated: bool = about(
        "also score the classes after an empty query and subtract that (Zhao et al. 2021, arXiv:2102.09690)"
    )
    levels: int | None = about(
        "of a tokenizer with several levels, codes of so many are written, the first ones; null: all", 1, 1024
    )
    seconds: float | None = about("of each recording, its first ones are heard, s; null: all", 0.01, 3600.0)
    max_codes: int | None = about("of each recording, its first ones; null: all", 1, 1 << 20)
    controls: list[str] = about(f"the same episodes again, disturbed: {', '.join(CONTROLS)}")
    bootstrap_samples: int = about("resamples of an interval")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            yield Problem(
                "shots",
                f"{self.shots}; one number of at least 1 or several different ones are allowed, as --shots=[1,5]",
            )
        if self.levels and self.llm != "frozen":
            yield Problem(
                "levels", f"{self.levels}: the LLM of {self.llm} was taught all; set it to null, or type --llm=frozen"
            )
        for name in exceptions(self.controls, CONTROLS):
            yield Problem("controls", f"no control is called {name!r}. {allowed(name, CONTROLS)}")
        if len(set(self.controls)) < len(self.controls):
            yield Problem("controls", f"{self.controls}: each comes once")


@dataclass
class GenerationConf(StageConf):
    """Sound from the captions of the test split, measured beside recordings and controls."""

    after: After = about(AFTER)
    captions: int = about("captions of the test split, one of a recording", 1)
    one_label: bool = about("only captions of recordings with one label, whose kind the classifier of codes can judge")
    seeds: int = about("sounds of each caption", 1, 1000)
    temperature: float = about(TEMPERATURE, 0.0, 100.0)
    top_p: float = about(TOP_P, 1e-6, 1.0)
    top_k: int | None = about(TOP_K, 1)
    guidance: float | None = about(GUIDANCE, 0.0, 100.0)
    best_of: int = about(BEST_OF, 1, 10000)
    seconds_max: float = about("length of a sound, generated or recorded, s, at most", 0.01, 3600.0)
    batch_size: int = about("sounds made at a time on each device", 1, 1 << 20)
    embedder: str | None = about(
        "of the distances between sounds: a name of stages/hub/weights; null: only codes are judged, no sound is made"
    )
    recordings: int = about("recordings of each split that are embedded, at most", 1, 1 << 20)
    probe_recordings: int = about(
        "training recordings with one label that the classifier of codes is trained on, at most; 0: none", 0, 1 << 24
    )
    bootstrap_samples: int = about("resamples of an interval")

    @property
    def chooses_by_openaqa(self) -> bool:
        """text_to_sound only writes: what it wrote is heard by the LLM that it was made of."""
        return self.best_of > 1 and self.after == "text_to_sound"

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if self.seeds > 1 and self.temperature == 0:
            yield Problem(
                "temperature",
                f"at 0 all {self.seeds} sounds of a caption would be the same; more than 0, or --seeds=1",
            )
        if problem := _choice_of_one(self):
            yield problem
        if self.recordings < self.captions:
            yield Problem(
                "recordings",
                f"{self.recordings} are fewer than captions={self.captions}; a caption's own recording is among them",
            )
        if not self.probe_recordings and self.embedder is None:
            yield Problem("embedder", "without an embedder and with probe_recordings=0 nothing would be measured")


@dataclass
class AskConf:
    """`stage ask`."""

    max_new_tokens: int = about("tokens of an answer, at most", 1, 1 << 20)
    audio_contrast: float = about(AUDIO_CONTRAST, 0.0, 100.0)
    temperature: float = about("of sampling; 0 takes the most probable token each time (greedy)", 0.0, 100.0)
    seed: int = about("of sampling at a temperature above 0")


@dataclass
class DrawConf:
    """How sounds are drawn for a caption."""

    seconds_max: float = about("length of a sound, s, at most; an LLM taught with {seconds} is told it", 0.01, 3600.0)
    temperature: float = about(TEMPERATURE, 0.0, 100.0)
    top_p: float = about(TOP_P, 1e-6, 1.0)
    top_k: int | None = about(TOP_K, 1)
    guidance: float | None = about(GUIDANCE, 0.0, 100.0)
    best_of: int = about(BEST_OF, 1, 10000)
    seed: int = about("of the first sound; the next ones have the next seeds")

    def laws(self) -> Iterable[Problem]:
        if problem := _choice_of_one(self):
            yield problem


@dataclass
class GenerateConf(DrawConf):
    """`stage generate`."""

    n: int = about("sounds, written as FILE-1.wav, FILE-2.wav and so on", 1, 1000)

    def laws(self) -> Iterable[Problem]:
        if self.n > 1 and self.temperature == 0:
            yield Problem("temperature", f"at 0 all {self.n} sounds would be the same; more than 0, or --n=1")
        yield from super().laws()


@dataclass
class SoundPairsConf(DrawConf):
    """`stage pairs`."""

    best_of: int = about(
        "sounds that are drawn for a caption; those under which the LLM, that of openaqa where text_to_sound writes, finds the "
        "caption most and least probable are a pair",
        1,
        10000,
    )
    seed: int = about("of all sounds, beside the recording's name")
    captions: int = about("captions of the training and validation splits, one of a recording, at most", 1)
    labels: int | None = about("only of recordings with at most so many labels; null: of all", 0)

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if self.best_of == 1:
            yield Problem("best_of", "1; 2 or more are allowed: a pair is the best and the worst of them")


def language_stage(after: After) -> str:
    """The stage whose artifact holds that LLM."""
    return "caption" if after == "none" else after


def guidance_of(settings: GenerationConf | DrawConf, prompts: PromptsConf) -> float:
    """What was typed, or else what the LLM was trained to be asked with."""
    return prompts.guidance if settings.guidance is None else settings.guidance


def _choice_of_one(settings: GenerationConf | DrawConf) -> Problem | None:
    if settings.best_of > 1 and settings.temperature == 0:
        return Problem(
            "temperature",
            f"at 0 all {settings.best_of} sounds to choose from would be the same; more than 0, or --best_of=1",
        )
    return None
