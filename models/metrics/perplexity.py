"""Perplexity of a causal LM on a fixed text: what it costs a language model to have learned sound."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ModelError


class Perplexity(NamedTuple):
    tokens: int  # told: all but the first
    whole: float  # the softmax over all V ids: what generation without a grammar samples from
    text: float  # the softmax over the text ids alone: what a text answer is made of


@torch.no_grad()
def perplexity(logits: Callable[[Tensor], Tensor], input_ids: Tensor, is_text: Tensor) -> Perplexity:
    """exp of the mean cross-entropy in nats of each token, given those before it.

    logits: ids (1, S) -> (1, S, V); input_ids (S), of text; is_text (V) bool. Laws: 1 <= text <= whole; V where all logits
    are equal. Raises ModelError for fewer than two ids, or an id that is no text.
    """
    if len(input_ids) < 2 or not is_text[input_ids].all():
        raise ModelError(
            f"perplexity is of two text ids or more and of nothing else; here {len(input_ids)} ids, {int((~is_text[input_ids]).sum())} no text"
        )
    scores = logits(input_ids[None])[0, :-1].float()
    told = scores.gather(1, input_ids[1:, None]).squeeze(1)
    means = [(part.logsumexp(1) - told).mean().exp().item() for part in (scores, scores[:, is_text])]
    return Perplexity(len(told), *means)
