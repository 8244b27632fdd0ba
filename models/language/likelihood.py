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

from models.language.vocabulary import Turn, Vocabulary

BATCH = 64  # answers in one pass


class Prefix(NamedTuple):
    """What an LM keeps of the ids that it has read."""

    cache: Any  # transformers' keys and values, of a batch of 1
    logits: Tensor  # (V) of the id that comes next
    length: int


@torch.no_grad()
def read_prefix(lm: Any, ids: Sequence[int], prefix: Prefix | None = None) -> Prefix:
    """prefix, then ids, one or more. lm: a causal LM of transformers with a cache; `prefix` is not changed."""
    assert ids, "there are no ids to read"
    cache = copy.deepcopy(prefix.cache) if prefix else None
    batch = torch.tensor([list(ids)], device=lm.device)
    output = lm(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(output.past_key_values, output.logits[0, -1], (prefix.length if prefix else 0) + len(ids))


@torch.no_grad()
def log_likelihoods(
    lm: Any, prefix: Prefix, candidates: Sequence[Sequence[int]], allowed: Tensor | None = None
) -> list[float]:
    """log p(candidate | prefix) in nats, for each candidate of one id or more. lm: in evaluation mode.

    allowed (V) bool: the ids that the softmax is over; None: all. Law: equal to a pass over prefix and candidate, up to
    rounding.
    """
    batches = (candidates[start : start + BATCH] for start in range(0, len(candidates), BATCH))
    return [value for batch in batches for value in _batch_log_likelihoods(lm, prefix, batch, allowed)]


def answer_scores(lm: Any, vocabulary: Vocabulary, turns: Sequence[Turn], answers: Sequence[str]) -> list[float]:
    """Log-probability in nats of each answer and its end of turn, after the turns.

    The softmax is over the ids that a text answer may have, as in generation: over all texts the probabilities sum to
    at most 1.
    """
    prompt = vocabulary.render(turns, generate=True).input_ids
    rendered = vocabulary.render_all([[*turns, Turn("assistant", [answer])] for answer in answers])
    assert all(one.input_ids[: len(prompt)] == prompt for one in rendered), "a conversation begins with its prompt"
    candidates = [_to_stop(one.input_ids[len(prompt) :], vocabulary.stop_ids) for one in rendered]
    prefix = read_prefix(lm, prompt)
    ids = torch.arange(len(prefix.logits), device=lm.device)
    sounds = (ids >= vocabulary.text_size) & (ids < vocabulary.first_time_id)
    return log_likelihoods(lm, prefix, candidates, ~sounds & (ids < vocabulary.size))


def _batch_log_likelihoods(
    lm: Any, prefix: Prefix, candidates: Sequence[Sequence[int]], allowed: Tensor | None
) -> list[float]:
    first = _log_probabilities(prefix.logits, allowed)
    sums = first[[candidate[0] for candidate in candidates]].double()
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
        rest = _log_probabilities(logits, allowed).gather(2, rows[:, 1:, None])[..., 0]
        sums = sums + torch.where(valid[:, 1:], rest, 0.0).double().sum(1)
    return sums.tolist()


def _log_probabilities(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """(..., V) -> (..., V) float32; -inf for ids that are not allowed."""
    logits = logits.float()
    return (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).log_softmax(-1)


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Up to and with the first end of turn: what a template writes after it belongs to no answer."""
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
