"""Perplexity of a causal LM on a fixed text: how much of its text it lost when it learned sound."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ModelError


class Perplexity(NamedTuple):
    """exp of the mean cross-entropy in nats."""

    tokens: int  # predicted ones: all but the first
    whole: float  # softmax over all V ids, as unconstrained generation samples
    text: float  # softmax over the text ids alone, as generation of text samples


@torch.no_grad()
def perplexity(logits: Callable[[Tensor], Tensor], input_ids: Tensor, is_text: Tensor) -> Perplexity:
    """Perplexity of a text, each token given those before it.

    logits: ids (1, S) -> (1, S, V); input_ids (S), of text; is_text (V) bool. Laws: 1 <= text <= whole; whole = V where
    all logits are equal. Raises ModelError for fewer than two ids, or an id that is not text.
    """
    if len(input_ids) < 2 or not is_text[input_ids].all():
        raise ModelError(
            f"perplexity needs two text ids or more and no others; "
            f"came {len(input_ids)} ids, {int((~is_text[input_ids]).sum())} of them not text"
        )
    scores = logits(input_ids[None])[0, :-1].float()
    chosen = scores.gather(1, input_ids[1:, None]).squeeze(1)
    whole, text = ((part.logsumexp(1) - chosen).mean().exp().item() for part in (scores, scores[:, is_text]))
    return Perplexity(len(chosen), whole, text)
