"""How a trained LLM answers: greedy or sampled, in the grammar of text or of sound, with guidance or without.

    prompts (B, S) ──► transformers' generate, KV-cached ──► scores (B, V) ──► guidance ──► grammar ──► temperature, nucleus ──► noise ──► the best id

Nucleus: Holtzman et al. 2020, arXiv:1904.09751. Guidance: Ho and Salimans 2022, arXiv:2207.12598; of a language model's log-probabilities:
Sanchez et al. 2023, arXiv:2306.17806.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from models.errors import ModelError
from models.language.vocabulary import Vocabulary


class Sampling(NamedTuple):
    temperature: float  # above 0
    top_p: float  # in (0, 1]; 1 keeps every id
    seeds: Sequence[int]  # one a row: what a row draws hangs on its own seed, not on its company


class Guidance(NamedTuple):
    weight: float  # 1 is the plain model, 0 the one that is told nothing
    input_ids: Tensor  # (B, S') the same prompts with nothing asked for, left-padded
    attention_mask: Tensor  # (B, S')


@torch.no_grad()
def generate(
    lm: PreTrainedModel,
    vocabulary: Vocabulary,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    allow: Literal["text", "audio"],
    sampling: Sampling | None = None,
    guidance: Guidance | None = None,
) -> list[list[int]]:
    """Answers to left-padded prompts (B, S): text without its end of turn, or one sound with both markers. Greedy without `sampling`.

    A text answer holds no sound id. A sound holds nothing else, its levels in turn, one block at least; it is ended
    before max_new_tokens. Batch and padding change nothing beyond rounding, sampled or not. lm: in evaluation mode.
    Raises ModelError where max_new_tokens holds no sound, and for a sampling that is none.
    """
    words, rows = vocabulary, len(input_ids)
    input_ids, attention_mask = input_ids.to(lm.device), attention_mask.to(lm.device)
    if allow == "audio" and max_new_tokens < len(words.levels) + 2:
        raise ModelError(
            f"max_new_tokens {max_new_tokens}: the shortest sound with its markers has {len(words.levels) + 2}"
        )
    processors = LogitsProcessorList()
    if guidance is not None and guidance.weight != 1:
        input_ids, attention_mask = _beside(input_ids, attention_mask, guidance, words.pad_id)
        processors.append(Guided(guidance.weight))
    width = input_ids.shape[1]
    processors.append(TextOnly(words) if allow == "text" else SoundOnly(words, width, max_new_tokens))
    if sampling is not None:
        processors.extend(_sampled(sampling, rows))
    stops = words.stop_ids if allow == "text" else [words.end_id]
    found = lm.generate(
        input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False,
        eos_token_id=stops, pad_token_id=words.pad_id, logits_processor=processors,
    )  # fmt: skip
    answers = []
    for row in found[:rows, width:].tolist():
        end = next((n for n, token in enumerate(row) if token in stops), len(row))
        answers.append(row[: end + (allow == "audio")])
    return answers


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts to input_ids (B, S) and attention_mask (B, S)."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


class Guided(LogitsProcessor):
    """Rows 0 to B - 1 are told what to make, rows B to 2 B - 1 are not: plain + weight x (told - plain), in both halves.

    transformers' UnbatchedClassifierFreeGuidanceLogitsProcessor computes the same from a second forward pass of the model at every step, with a
    cache of its own. Here both halves go through one pass: decoding is bound by reading the weights, so that a step of 2 B rows costs little more
    than one of B. Its pass also counts left padding as positions, which shifts every model whose positions are not relative.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        told, plain = scores.log_softmax(-1).chunk(2)
        return (plain + self.weight * (told - plain)).repeat(2, 1)


class TextOnly(LogitsProcessor):
    """Text and, where they are on, times."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.text_size, self.first_time_id = vocabulary.text_size, vocabulary.first_time_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.text_size : self.first_time_id] = -torch.inf
        return scores


class SoundOnly(LogitsProcessor):
    """start, then blocks of codes of the vocabulary's levels, then end."""

    def __init__(self, vocabulary: Vocabulary, prompt_length: int, max_new_tokens: int) -> None:
        self.vocabulary, self.prompt_length, self.max_new_tokens = vocabulary, prompt_length, max_new_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        words = self.vocabulary
        allowed = torch.full_like(scores, -torch.inf)
        position = input_ids.shape[1] - self.prompt_length  # of the token to come
        if position == 0:
            allowed[:, words.start_id] = 0
            return allowed
        block, place = divmod(position - 1, len(words.levels))
        room = self.max_new_tokens - position - 1  # tokens after this one
        if place or room >= len(words.levels):
            first = words.first_code_id + words.levels[place] * words.codebook_size
            allowed[:, first : first + words.codebook_size] = scores[:, first : first + words.codebook_size]
        if block and not place:
            allowed[:, words.end_id] = scores[:, words.end_id]
        return allowed


class Drawn(LogitsProcessor):
    """Gumbel-max (Maddison et al. 2014, arXiv:1411.0030): the best of scores + noise is a draw from their softmax.

    transformers' own sampling draws all rows from one generator, so that a row's draws would hang on its company, and the two halves of a
    guided batch would say different things.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=one) for one in self.generators])
        noise = noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
        return scores - noise.to(scores).repeat(len(scores) // len(self.generators), 1)


def _sampled(sampling: Sampling, rows: int) -> list[LogitsProcessor]:
    if sampling.temperature <= 0 or not 0 < sampling.top_p <= 1:
        raise ModelError(
            f"temperature {sampling.temperature} and top_p {sampling.top_p}; above 0, and in (0, 1], are allowed"
        )
    if len(sampling.seeds) != rows:
        raise ModelError(f"{len(sampling.seeds)} seeds for {rows} prompts; one for each is needed")
    nucleus = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return [TemperatureLogitsWarper(float(sampling.temperature)), *nucleus, Drawn(sampling.seeds)]


def _beside(ids: Tensor, mask: Tensor, guidance: Guidance, pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts (B, S) and those that ask for nothing (B, S') -> both, left-padded, (2 B, max(S, S')), and their mask."""
    if len(guidance.input_ids) != len(ids):
        raise ModelError(
            f"{len(guidance.input_ids)} prompts without a wish for {len(ids)} with one; as many are needed"
        )
    width = max(ids.shape[1], guidance.input_ids.shape[1])

    def padded(part: Tensor, value: int) -> Tensor:
        return F.pad(part.to(ids.device), (width - part.shape[1], 0), value=value)

    both = [padded(part, pad_id) for part in (ids, guidance.input_ids)]
    masks = [padded(part, 0) for part in (mask, guidance.attention_mask)]
    return torch.cat(both), torch.cat(masks)
