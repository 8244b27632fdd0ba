"""How likely a causal LM finds each of several answers; their common prefix is read once.

prefix ──read once──► keys and values ─┬─► answer 0     log p(answer | prefix)
                                       └─► answer 1     ...
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.errors import ModelError, RewrittenTurns
from models.language.vocabulary import Turn, Vocabulary, has_sound, without_sound

BATCH = 64  # answers in one pass


class Prefix(NamedTuple):
    """What an LM keeps of the ids that it has read."""

    cache: Any  # transformers' keys and values, of a batch of 1
    logits: Tensor  # (V) of the id that comes next
    length: int


@torch.no_grad()
def read_prefix(lm: Any, ids: Sequence[int], prefix: Prefix | None = None) -> Prefix:
    """prefix, then ids, one or more. lm: a causal LM of transformers with a cache; `prefix` is not changed."""
    if not ids:
        raise ModelError("there are no ids to read: the prompt is empty")
    cache = copy.deepcopy(prefix.cache) if prefix else None
    batch = torch.tensor([list(ids)], device=lm.device)
    output = lm(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(output.past_key_values, output.logits[0, -1], (prefix.length if prefix else 0) + len(ids))


@torch.no_grad()
def log_likelihoods(
    lm: Any,
    prefix: Prefix,
    candidates: Sequence[Sequence[int]],
    allowed: Tensor | None = None,
    given: Sequence[int] | None = None,
) -> list[float]:
    """log p(candidate | prefix) in nats, for each candidate of one id or more. lm: in evaluation mode.

    allowed (V) bool: the ids that the softmax is over; None: all. given: ids at the beginning of each candidate that
    are read and not scored; None: none. Law: equal to a pass over prefix and candidate, up to rounding.
    """
    return [sum(values) for values in token_log_likelihoods(lm, prefix, candidates, allowed, given)]


@torch.no_grad()
def token_log_likelihoods(
    lm: Any,
    prefix: Prefix,
    candidates: Sequence[Sequence[int]],
    allowed: Tensor | None = None,
    given: Sequence[int] | None = None,
) -> list[list[float]]:
    """What `log_likelihoods` sums: log p(id | prefix and the ids before it) of each id of a candidate that is scored."""
    given = [0] * len(candidates) if given is None else given
    values: list[list[float]] = []
    for start in range(0, len(candidates), BATCH):
        part = slice(start, start + BATCH)
        values += _batch_log_likelihoods(lm, prefix, candidates[part], allowed, given[part])
    return values


def greedy_choice(candidates: Sequence[Sequence[int]], values: Sequence[Sequence[float]]) -> int:
    """The number of the candidate that greedy decoding writes where nothing but a candidate may be written.

    values: of `token_log_likelihoods`. No candidate may be the beginning of another longer one. The first of equals.
    """
    left = list(range(len(candidates)))
    step = 0
    while len({tuple(candidates[n]) for n in left}) > 1:
        best = max(left, key=lambda n: values[n][step])
        left = [n for n in left if candidates[n][step] == candidates[best][step]]
        step += 1
    return left[0]


def text_scores(lm: Any, vocabulary: Vocabulary, conversations: Sequence[Sequence[Turn]]) -> list[float]:
    """Log-probability in nats of the last turn of each conversation, a text of the assistant, and its end of turn.

    What all conversations begin with is read once. The softmax is over the ids that a text answer may have.
    """
    rendered = vocabulary.render_all(conversations)
    prompts = vocabulary.render_all([turns[:-1] for turns in conversations], generate=True)
    rows = [one.input_ids for one in rendered]
    lengths = [len(prompt.input_ids) for prompt in prompts]
    assert all(row[:n] == prompt.input_ids for row, n, prompt in zip(rows, lengths, prompts, strict=True))
    columns = zip(*(row[: n - 1] for row, n in zip(rows, lengths, strict=True)), strict=False)
    shared = next((n for n, column in enumerate(columns) if len(set(column)) > 1), min(lengths) - 1)
    candidates = [row[shared:n] + _to_stop(row[n:], vocabulary.stop_ids) for row, n in zip(rows, lengths, strict=True)]
    prefix = read_prefix(lm, rows[0][:shared])
    return log_likelihoods(lm, prefix, candidates, _text_ids(lm, vocabulary, prefix), [n - shared for n in lengths])


def answer_scores(
    lm: Any, vocabulary: Vocabulary, turns: Sequence[Turn], answers: Sequence[str], audio_contrast: float = 0.0
) -> list[float]:
    """Log-probability in nats of each answer and its end of turn, after the turns.

    The softmax is over the ids that a text answer may have, as in generation: over all texts the probabilities sum to
    at most 1. audio_contrast: a of `models.language.generation.audio_contrast`; above 0 the scores are
    (1 + a) log p(answer | turns) - a log p(answer | turns without their sounds).
    """
    if audio_contrast and has_sound(turns):
        scores, without = (answer_scores(lm, vocabulary, asked, answers) for asked in (turns, without_sound(turns)))
        return [score + audio_contrast * (score - other) for score, other in zip(scores, without, strict=True)]
    prompt = vocabulary.render(turns, generate=True).input_ids
    rendered = vocabulary.render_all([[*turns, Turn("assistant", [answer])] for answer in answers])
    if not all(one.input_ids[: len(prompt)] == prompt for one in rendered):
        raise RewrittenTurns(
            "the chat template writes a conversation otherwise than its prompt (one for thoughts does so)"
        )
    candidates = [_to_stop(one.input_ids[len(prompt) :], vocabulary.stop_ids) for one in rendered]
    prefix = read_prefix(lm, prompt)
    return log_likelihoods(lm, prefix, candidates, _text_ids(lm, vocabulary, prefix))


def _text_ids(lm: Any, vocabulary: Vocabulary, prefix: Prefix) -> Tensor:
    """(V) bool: text and times."""
    ids = torch.arange(len(prefix.logits), device=lm.device)
    sounds = (ids >= vocabulary.text_size) & (ids < vocabulary.first_time_id)
    return ~sounds & (ids < vocabulary.size)


def _batch_log_likelihoods(
    lm: Any, prefix: Prefix, candidates: Sequence[Sequence[int]], allowed: Tensor | None, given: Sequence[int]
) -> list[list[float]]:
    values = _log_probabilities(prefix.logits, allowed)[[candidate[0] for candidate in candidates]][:, None]
    longest = max(len(candidate) for candidate in candidates)
    if longest > 1:
        rows = pad_sequence([torch.tensor(list(candidate)) for candidate in candidates], batch_first=True).to(lm.device)
        lengths = torch.tensor([[len(candidate)] for candidate in candidates], device=lm.device)
        valid = torch.arange(longest, device=lm.device) < lengths  # (B, S)
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(candidates))
        past = torch.ones(len(candidates), prefix.length, dtype=torch.bool, device=lm.device)
        mask = torch.cat([past, valid[:, :-1]], 1).long()
        logits = lm(input_ids=rows[:, :-1], past_key_values=cache, attention_mask=mask, use_cache=True).logits
        values = torch.cat([values, _log_probabilities(logits, allowed).gather(2, rows[:, 1:, None])[..., 0]], 1)
    return [
        row[first : len(candidate)] for row, candidate, first in zip(values.tolist(), candidates, given, strict=True)
    ]


def _log_probabilities(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """(..., V) -> (..., V) float32; -inf for ids that are not allowed."""
    logits = logits.float()
    return (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).log_softmax(-1)


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Up to and with the first end of turn: what a template writes after it belongs to no answer."""
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
