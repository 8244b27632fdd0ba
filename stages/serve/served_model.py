"""A trained model that answers batches of requests: questions about sounds, sounds from words, sounds through the tokens.

Its methods run in the one thread of the queue; what a request holds was checked before (requests.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from conf.errors import UsageError
from conf.sections.evaluation import AskConf, GenerateConf
from models.errors import ModelError
from models.language.likelihood import answer_scores
from models.language.vocabulary import Turn
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_answers import Answering, check_prompt, text_answers
from stages.hub.text_to_sound import text_to_sound
from stages.hub.trained_model import TrainedModel
from stages.serve.batching_queue import Job

CHOICE_TOKENS = 16  # of an answer as short as yes


class SoundTurn(NamedTuple):
    """What one side says: texts, and sounds (C, T) at the tokenizer's rate."""

    role: str
    parts: Sequence[str | Tensor]


class Question(NamedTuple):
    turns: Sequence[SoundTurn]
    settings: AskConf


class Choice(NamedTuple):
    """How probable each of some answers is."""

    turns: Sequence[SoundTurn]
    answers: Sequence[str]
    audio_contrast: float


class Caption(NamedTuple):
    text: str
    settings: GenerateConf


class Clip(NamedTuple):
    sound: Tensor  # (C, T)


class WrittenSound(NamedTuple):
    sound: Tensor  # (C, T), on the CPU
    codes: list[int]


class HeardClip(NamedTuple):
    """A clip through the VAE alone (None where there is none), and through the tokens."""

    codes: list[int]
    vae: Tensor | None
    tokens: Tensor


Request = Question | Choice | Caption | Clip


class ServedModel:
    """A sound tokenizer, the LLM that answers, the one that writes sound, and the one that chooses among its sounds."""

    def __init__(self, name: str, tokenizer: SoundTokenizer, listener: TrainedModel, writer: TrainedModel) -> None:
        """listener, writer: may be one."""
        self.name, self.tokenizer, self.listener, self.writer = name, tokenizer, listener, writer

    def job(self, request: Request, on_part: Callable[[str], None] | None = None) -> Job[Request]:
        """Of a kind that says what can be computed in one batch."""
        kind: tuple[object, ...] = (type(request).__name__,)
        if isinstance(request, Question):
            kind += (repr(replace(request.settings, seed=0, max_new_tokens=1)),)
        elif isinstance(request, Caption):
            kind += (repr(replace(request.settings, seed=0)),)
        return Job(kind, request, on_part)

    def run(self, jobs: Sequence[Job]) -> None:
        """Sets the result of each job. Raises CancelledError where all have left."""
        kinds: dict[type, Callable[[Sequence[Job[Any]]], None]]
        kinds = {Question: self._answer, Choice: self._choose, Caption: self._write, Clip: self._hear}
        kinds[type(jobs[0].request)](jobs)

    def _answer(self, jobs: Sequence[Job[Question]]) -> None:
        codes = self._codes_of_all(jobs)
        fitting: list[Job[Question]] = []
        asked: list[Answering] = []
        for job in jobs:
            turns, settings = _with_codes(job.request.turns, codes), job.request.settings
            if not self._fits(job, turns, settings.max_new_tokens):
                continue
            fitting.append(job)
            asked.append(Answering(turns, settings.seed, settings.max_new_tokens, partial(_goes_on, job, jobs)))
        if not fitting:
            return
        for job, answer in zip(fitting, text_answers(self.listener, asked, fitting[0].request.settings), strict=True):
            job.result.set_result(answer)

    def _choose(self, jobs: Sequence[Job[Choice]]) -> None:
        """Log-probability in nats of each answer and its end."""
        codes = self._codes_of_all(jobs)
        for job in jobs:
            turns, (_, answers, contrast) = _with_codes(job.request.turns, codes), job.request
            if self._fits(job, turns, CHOICE_TOKENS):
                scores = answer_scores(self.listener.lm, self.listener.vocabulary, turns, answers, contrast)
                job.result.set_result(scores)

    def _codes_of_all(self, jobs: Sequence[Job[Any]]) -> Iterator[list[int]]:
        """Of the sounds of all turns, in order."""
        turns = [turn for job in jobs for turn in job.request.turns]
        sounds = [part for turn in turns for part in turn.parts if isinstance(part, Tensor)]
        return iter(self.tokenizer.encode(sounds, self.tokenizer.sample_rate))

    def _fits(self, job: Job[Any], turns: Sequence[Turn], max_new_tokens: int) -> bool:
        """Whether the LLM takes these turns; the job's result is the error where it does not."""
        try:
            check_prompt(self.listener, turns, max_new_tokens, "send less, or ask for fewer tokens")
        except (UsageError, ModelError) as error:
            job.result.set_exception(error)
            return False
        return True

    def _write(self, jobs: Sequence[Job[Caption]]) -> None:
        settings = jobs[0].request.settings
        captions, seeds = [job.request.text for job in jobs], [job.request.settings.seed for job in jobs]
        most, seconds = self.tokenizer.num_codes(settings.seconds_max), settings.seconds_max

        def watch(written: Tensor) -> list[bool]:
            _end_if_all_left(jobs)
            for job in jobs:
                _tell(job, f"{min(1.0, written.shape[1] / (most + 2)):.2f}")
            return [False] * len(written)

        ear = self.listener if settings.best_of > 1 else None
        codes = text_to_sound(self.writer, captions, most, seeds, settings, ear, watch)
        longest = max(1, int(seconds * self.tokenizer.sample_rate))  # the last code may reach beyond it
        sounds = self.tokenizer.decode(codes, [longest] * len(codes), seed=seeds)
        for job, sound, one in zip(jobs, sounds, codes, strict=True):
            job.result.set_result(WrittenSound(sound.cpu(), one))

    def _hear(self, jobs: Sequence[Job[Clip]]) -> None:
        sounds = [job.request.sound for job in jobs]
        encoded = self.tokenizer.encode(sounds, self.tokenizer.sample_rate)
        for job, codes, sound in zip(jobs, encoded, sounds, strict=True):
            _end_if_all_left(jobs)
            vae = self.tokenizer.without_tokens(sound.expand(self.tokenizer.channels, -1))
            tokens = self.tokenizer.decode([codes], [sound.shape[1]])[0].cpu()
            job.result.set_result(HeardClip(codes, None if vae is None else vae.cpu(), tokens))


def _with_codes(turns: Sequence[SoundTurn], codes: Iterator[list[int]]) -> list[Turn]:
    """As `stage ask` writes them: a line for each sound and for each text."""
    written = []
    for turn in turns:
        segments: list[str | list[int]] = []
        for part in turn.parts:
            segments += ["\n"] if segments else []
            segments.append(part if isinstance(part, str) else next(codes))
        written.append(Turn("user" if turn.role == "user" else "assistant", segments))
    return written


def _goes_on(job: Job, jobs: Sequence[Job], text: str) -> bool:
    _end_if_all_left(jobs)
    _tell(job, text)
    return not job.has_left


def _tell(job: Job, part: str) -> None:
    if job.on_part is not None and not job.has_left:
        job.on_part(part)


def _end_if_all_left(jobs: Sequence[Job]) -> None:
    if all(job.has_left for job in jobs):
        raise CancelledError
