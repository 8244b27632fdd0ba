"""How likely a causal LM finds each of several answers, their common beginning read once.

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

TOGETHER = 64  # answers in one pass


class Beginning(NamedTuple):
    """What an LM keeps of the ids that it has read."""

    cache: Any  # transformers' keys and values, of a batch of 1
    logits: Tensor  # (V) of the id that comes next
    length: int


@torch.no_grad()
def read(lm: Any, ids: Sequence[int], after: Beginning | None = None) -> Beginning:
    """ids: one or more, of any causal LM of transformers with a cache of keys and values. `after` stays as it is."""
    assert ids, "nothing to read"
    cache = copy.deepcopy(after.cache) if after else None
    batch = torch.tensor([list(ids)], device=lm.device)
    found = lm(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Beginning(found.past_key_values, found.logits[0, -1], (after.length if after else 0) + len(ids))


@torch.no_grad()
def log_likelihoods(
    lm: Any, after: Beginning, candidates: Sequence[Sequence[int]], allowed: Tensor | None = None
) -> list[float]:
    """Of each candidate (one id or more) the sum over its ids of log p(id | what came before), in nats. lm: in evaluation mode.

    allowed (V) bool: the ids that have a part in the softmax; None: all. Equal to a pass over the whole of each, but for rounding.
    """
    found: list[float] = []
    for start in range(0, len(candidates), TOGETHER):
        found += _summed(lm, after, candidates[start : start + TOGETHER], allowed)
    return found


def answer_scores(lm: Any, vocabulary: Vocabulary, turns: Sequence[Turn], answers: Sequence[str]) -> list[float]:
    """Log-probability in nats of each answer and its end of turn, after the turns.

    Over the ids that a text answer may have, as in generation: with all texts together they sum to at most 1.
    """
    prompt = vocabulary.render(turns, generate=True).input_ids
    told = vocabulary.render_all([[*turns, Turn("assistant", [answer])] for answer in answers])
    for one in told:
        assert one.input_ids[: len(prompt)] == prompt, "the prompt begins the talk"
    ids = [_to_stop(one.input_ids[len(prompt) :], vocabulary.stop_ids) for one in told]
    beginning = read(lm, prompt)
    places = torch.arange(len(beginning.logits), device=lm.device)
    sounds = (places >= vocabulary.text_size) & (places < vocabulary.first_time_id)
    return log_likelihoods(lm, beginning, ids, ~sounds & (places < vocabulary.size))


def _summed(lm: Any, after: Beginning, candidates: Sequence[Sequence[int]], allowed: Tensor | None) -> list[float]:
    first = _told(after.logits, allowed)
    sums = first[[candidate[0] for candidate in candidates]].double()
    longest = max(len(candidate) for candidate in candidates)
    if longest > 1:
        rows = pad_sequence([torch.tensor(list(candidate)) for candidate in candidates], batch_first=True).to(lm.device)
        lengths = torch.tensor([[len(candidate)] for candidate in candidates], device=lm.device)
        kept = torch.arange(longest, device=lm.device) < lengths  # (B, S)
        cache = copy.deepcopy(after.cache)
        cache.batch_repeat_interleave(len(candidates))
        past = torch.ones(len(candidates), after.length, dtype=torch.bool, device=lm.device)
        mask = torch.cat([past, kept[:, :-1]], 1).long()
        logits = lm(input_ids=rows[:, :-1], past_key_values=cache, attention_mask=mask, use_cache=True).logits
        told = _told(logits, allowed).gather(2, rows[:, 1:, None])[..., 0]
        sums = sums + torch.where(kept[:, 1:], told, 0.0).double().sum(1)
    return sums.tolist()


def _told(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Log-probabilities (..., V) in float32."""
    logits = logits.float()
    return (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).log_softmax(-1)


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Up to the first end of turn, with it: what a template writes after it is nobody's choice."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
