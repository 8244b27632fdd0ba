"""How probable each of many answers is to an LLM: one pass over the prompt, whose keys and values all answers share.

prompt (S) ──► cache ─┬─► answer 1, end of turn ──► sum of log-probabilities
                      ├─► answer 2, end of turn ──► ...
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from models.vocabulary import Turn, Vocabulary


@torch.no_grad()
def answer_scores(
    lm: PreTrainedModel, vocabulary: Vocabulary, turns: Sequence[Turn], answers: Sequence[str], batch_size: int = 64
) -> list[float]:
    """Log-probability in nats of each answer and its end of turn, after the turns. lm: in evaluation mode.

    Over the ids that a text answer may have, as in generation: with all texts together they sum to at most 1. Equal to a pass over the
    whole of each, but for rounding.
    """
    prompt = vocabulary.render(turns, generate=True).input_ids
    told = vocabulary.render_all([[*turns, Turn("assistant", [answer])] for answer in answers])
    ids = [_to_stop(one.input_ids[len(prompt) :], vocabulary.stop_ids) for one in told]
    for one in told:
        assert one.input_ids[: len(prompt)] == prompt, "the prompt begins the talk"
    device = lm.device
    cache = DynamicCache(config=lm.config.get_text_config())
    first = lm(input_ids=torch.tensor([prompt], device=device), past_key_values=cache, use_cache=True).logits[:, -1:]
    found: list[float] = []
    for start in range(0, len(ids), batch_size):
        found += _scored(lm, vocabulary, cache, first, ids[start : start + batch_size], len(prompt))
    return found


def _scored(
    lm: PreTrainedModel, vocabulary: Vocabulary, cache: DynamicCache, first: Tensor, ids: list[list[int]], past: int
) -> list[float]:
    width, device = max(map(len, ids)), first.device
    tokens = torch.tensor([one + [vocabulary.pad_id] * (width - len(one)) for one in ids], device=device)
    valid = torch.arange(width, device=device) < torch.tensor([[len(one)] for one in ids], device=device)  # (B, S)
    logits = first.expand(len(ids), -1, -1)
    if width > 1:
        shared = copy.deepcopy(cache)
        shared.batch_repeat_interleave(len(ids))
        mask = torch.cat([torch.ones(len(ids), past, device=device, dtype=torch.long), valid[:, :-1].long()], 1)
        more = lm(input_ids=tokens[:, :-1], attention_mask=mask, past_key_values=shared, use_cache=True).logits
        logits = torch.cat([logits, more], 1)
    logits = logits.float()
    logits[..., vocabulary.text_size : vocabulary.first_time_id] = -torch.inf
    logits[..., vocabulary.size :] = -torch.inf
    told = logits.log_softmax(-1).gather(2, tokens[..., None]).squeeze(2)
    return torch.where(valid, told, 0.0).double().sum(1).tolist()


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Up to the first end of turn, with it: what a template writes after it is nobody's choice."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
