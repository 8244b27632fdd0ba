"""How a trained LLM answers: greedy or sampled, in the grammar of text or of sound, with guidance or without.

    prompts (B, S) ──► transformers' generate, with a cache of keys and values ──► scores (B, V)
           ──► guidance ──► grammar ──► temperature, top-k, nucleus ──► Gumbel noise ──► the best id

Nucleus: Holtzman et al. 2020, arXiv:1904.09751. Guidance: Ho and Salimans 2022, arXiv:2207.12598; of a language model's
log-probabilities: Sanchez et al. 2023, arXiv:2306.17806.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.errors import ModelError
from models.language.vocabulary import Turn, Vocabulary, has_sound, without_sound


class Sampling(NamedTuple):
    """How ids are drawn."""

    temperature: float  # above 0
    top_p: float  # in (0, 1]; 1 keeps every id
    seeds: Sequence[int]  # one a row: what a row draws depends on its seed, not on the rest of the batch
    top_k: int | None = None  # 1 or more; None keeps every id


class Guidance(NamedTuple):
    """Classifier-free guidance towards the prompts, away from prompts that ask for nothing."""

    weight: float  # 1 is the conditional model, 0 the unconditional one
    input_ids: Tensor  # (B, S') prompts of the unconditional model, left-padded
    attention_mask: Tensor  # (B, S')


def audio_contrast(vocabulary: Vocabulary, conversations: Sequence[Sequence[Turn]], strength: float) -> Guidance | None:
    """Guidance of text by its sound: (1 + strength) log p(answer | sound) - strength log p(answer | no sound).

    That is guidance of weight 1 + strength, away from the same conversations (B) without their sounds. Audio-aware
    decoding: Hsu et al. 2025, arXiv:2506.07233. None where it would change nothing.
    """
    if not strength or not any(map(has_sound, conversations)):
        return None
    prompts = vocabulary.render_all([without_sound(turns) for turns in conversations], generate=True)
    return Guidance(1 + strength, *pad_left([prompt.input_ids for prompt in prompts], vocabulary.pad_id))


Watch = Callable[[Tensor], Sequence[bool]]  # ids written so far (B, n) -> rows that are to end there


class PaddedPrompts(NamedTuple):
    """Prompts of several lengths, padded on the left."""

    input_ids: Tensor  # (B, S)
    attention_mask: Tensor  # (B, S)


@torch.no_grad()
def generate(
    lm: PreTrainedModel,
    vocabulary: Vocabulary,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    allow: Literal["text", "words", "audio"],
    sampling: Sampling | None = None,
    guidance: Guidance | None = None,
    watch: Watch | None = None,
) -> list[list[int]]:
    """Answers to left-padded prompts (B, S): text without its end of turn, words that end where a sound would begin, or one
    sound with both markers.

    Greedy without `sampling`. A text answer and words have no sound id. A sound has nothing else, its levels in turn, one block at
    least; it ends within max_new_tokens. Law: batch and padding change nothing beyond rounding, sampled or not. lm: in
    evaluation mode. watch: called after every step; a text that it ends is cut there, and what it raises ends them all.
    Raises ModelError where no sound fits into max_new_tokens, and for values of `sampling` that are not allowed.
    """
    rows, shortest = len(input_ids), len(vocabulary.levels) + 2
    ids, mask = input_ids.to(lm.device), attention_mask.to(lm.device)
    if allow == "audio" and max_new_tokens < shortest:
        raise ModelError(f"max_new_tokens {max_new_tokens}: the shortest sound with its markers has {shortest}")
    processors = LogitsProcessorList()
    if guidance is not None and guidance.weight != 1:
        ids, mask = _with_unconditional(ids, mask, guidance, vocabulary.pad_id)
        processors.append(ClassifierFreeGuidance(guidance.weight))
    width = ids.shape[1]
    grammar: Grammar = SoundOnly(vocabulary, width, max_new_tokens)
    stops = [vocabulary.end_id]
    if allow == "text":
        grammar, stops = TextOnly(vocabulary), vocabulary.stop_ids
    elif allow == "words":
        grammar, stops = WordsBeforeSound(vocabulary), [vocabulary.start_id]
    processors.append(grammar)
    if sampling is not None:
        processors.extend(_sampling_processors(sampling, rows, grammar))
    watched = None if watch is None else Watched(watch, rows, width)
    assert isinstance(lm, GenerationMixin), "a causal LM"
    sequences = lm.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=vocabulary.pad_id,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([] if watched is None else [watched]),
    )
    answers = []
    lengths = watched.lengths if watched else [None] * rows
    for row, length in zip(sequences[:rows, width:].tolist(), lengths, strict=True):
        end = next((n for n, token in enumerate(row[:length]) if token in stops), length or len(row))
        answers.append(row[: end + (allow == "audio")])
    return answers


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> PaddedPrompts:
    """B prompts of several lengths -> (B, S), S the longest."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return PaddedPrompts(torch.tensor(ids), torch.tensor(mask))


class Watched(StoppingCriteria):
    """Ends the rows that a caller wants ended, and keeps their lengths: transformers pads them from there on."""

    def __init__(self, watch: Watch, rows: int, width: int) -> None:
        """rows: B; with guidance there are as many unconditional ones behind them. width: of the prompts."""
        self.watch, self.rows, self.width = watch, rows, width
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        written = input_ids[: self.rows, self.width :]
        ended = list(self.watch(written))
        for row, is_ended in enumerate(ended):
            if is_ended and self.lengths[row] is None:
                self.lengths[row] = written.shape[1]
        return torch.tensor(ended, device=input_ids.device).repeat(len(input_ids) // self.rows)


class ClassifierFreeGuidance(LogitsProcessor):
    """unconditional + weight x (conditional - unconditional) log-probabilities, in both halves of the batch.

    Rows 0 to B - 1 have the conditional prompts, rows B to 2 B - 1 the unconditional ones. transformers'
    UnbatchedClassifierFreeGuidanceLogitsProcessor computes the same from a second forward pass of the model at every
    step, with a cache of its own. Here both halves go through one pass: decoding is bound by reading the weights, so
    that a step of 2 B rows costs little more than one of B. Its pass also counts left padding as positions, which
    shifts every model whose positions are not relative.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional, unconditional = scores.log_softmax(-1).chunk(2)
        return (unconditional + self.weight * (conditional - unconditional)).repeat(2, 1)


class Grammar(LogitsProcessor):
    """Ids that may come next: the scores of all others are -inf."""

    allowed: list[slice]  # of the last call; ids of what may come, and perhaps a few that may not


class TextOnly(Grammar):
    """Allows text and, where the vocabulary has them, times."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.text_size, self.first_time_id = vocabulary.text_size, vocabulary.first_time_id
        self.allowed = [slice(self.text_size), slice(self.first_time_id, vocabulary.size)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.text_size : self.first_time_id] = -torch.inf
        return scores


class WordsBeforeSound(Grammar):
    """Allows text that does not end, and the start of a sound."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.start_id, self.stop_ids = vocabulary.start_id, vocabulary.stop_ids
        self.allowed = [slice(self.start_id + 1)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.start_id + 1 :] = -torch.inf
        scores[:, self.stop_ids] = -torch.inf
        return scores


class SoundOnly(Grammar):
    """Allows the start of a sound, then blocks of codes of the vocabulary's levels, then its end."""

    def __init__(self, vocabulary: Vocabulary, prompt_length: int, max_new_tokens: int) -> None:
        self.vocabulary, self.prompt_length, self.max_new_tokens = vocabulary, prompt_length, max_new_tokens
        self.allowed = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        vocabulary, levels = self.vocabulary, self.vocabulary.levels
        allowed = torch.full_like(scores, -torch.inf)
        position = input_ids.shape[1] - self.prompt_length  # of the id that comes next
        if position == 0:
            allowed[:, vocabulary.start_id] = 0
            self.allowed = []
            return allowed
        block, index = divmod(position - 1, len(levels))
        left = self.max_new_tokens - position - 1  # ids after this one
        first = vocabulary.first_code_id + levels[index] * vocabulary.codebook_size
        codes = slice(first, first + vocabulary.codebook_size)
        self.allowed = [slice(vocabulary.end_id, vocabulary.end_id + 1), codes]
        if index or left >= len(levels):
            allowed[:, codes] = scores[:, codes]
        if block and not index:
            allowed[:, vocabulary.end_id] = scores[:, vocabulary.end_id]
        return allowed


class GumbelNoise(LogitsProcessor):
    """Gumbel-max (Maddison et al. 2014, arXiv:1411.0030): the best of scores + noise is a draw from their softmax.

    transformers' own sampling draws all rows from one generator: a row's draws would depend on the rest of the batch,
    and the two halves of a guided batch would differ. Drawn are numbers for the ids that may come, on the CPU: a core
    takes 1.3 ms for the 40,000 of a vocabulary.
    """

    def __init__(self, seeds: Sequence[int], grammar: Grammar | None = None) -> None:
        """grammar: whose allowed ids get noise; None: every id does."""
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.grammar = grammar

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = [slice(None)] if self.grammar is None else self.grammar.allowed
        sizes = [len(range(scores.shape[1])[ids]) for ids in allowed]
        rows = [torch.empty(sum(sizes)).exponential_(generator=generator) for generator in self.generators]
        noise = torch.stack(rows)
        noise = noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
        noise = noise.to(scores).repeat(len(scores) // len(self.generators), 1)
        noisy = scores.clone()
        for ids, part in zip(allowed, noise.split(sizes, 1), strict=True):
            noisy[:, ids] -= part
        return noisy


def _sampling_processors(sampling: Sampling, rows: int, grammar: Grammar) -> list[LogitsProcessor]:
    if sampling.temperature <= 0 or not 0 < sampling.top_p <= 1:
        raise ModelError(
            f"temperature {sampling.temperature} and top_p {sampling.top_p}; above 0, and in (0, 1], are allowed"
        )
    if len(sampling.seeds) != rows:
        raise ModelError(f"{len(sampling.seeds)} seeds for {rows} prompts; one for each is needed")
    limits: list[LogitsProcessor] = [] if sampling.top_k is None else [TopKLogitsWarper(sampling.top_k)]
    limits += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return [TemperatureLogitsWarper(float(sampling.temperature)), *limits, GumbelNoise(sampling.seeds, grammar)]


def _with_unconditional(ids: Tensor, mask: Tensor, guidance: Guidance, pad_id: int) -> PaddedPrompts:
    """Prompts (B, S), then the unconditional ones (B, S') -> (2 B, max(S, S'))."""
    if len(guidance.input_ids) != len(ids):
        raise ModelError(
            f"{len(guidance.input_ids)} prompts without a wish for {len(ids)} with one; as many are needed"
        )
    width = max(ids.shape[1], guidance.input_ids.shape[1])

    def padded(part: Tensor, value: int) -> Tensor:
        return F.pad(part.to(ids.device), (width - part.shape[1], 0), value=value)

    both = torch.cat([padded(part, pad_id) for part in (ids, guidance.input_ids)])
    return PaddedPrompts(both, torch.cat([padded(part, 0) for part in (mask, guidance.attention_mask)]))
