"""LoRA and the new rows merged into the LLM's matrices for generation, where its logits stay what they were.

Without a merge each layer makes five products and sums in place of one, 224 layers for each token of a 7B. A merged
matrix is rounded to the LLM's dtype: what LoRA adds below half of the last place of a bfloat16 weight is lost in that
weight, so whether a merge may be used is measured, not assumed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.language.lora import LoraLinear, without_lora
from models.language.new_tokens import ExtendedEmbedding, ExtendedHead

# largest change of a logit by the merge, as a share of the largest change by the adapter itself; and of the logits'
# deviation, for an adapter that has learnt little
SHARE, ROUNDING = 0.05, {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class Agreement(NamedTuple):
    """Largest differences of the logits of a few ids."""

    merged: float  # of the merged model from the unmerged one
    adapter: float  # of the LLM without LoRA from the one with it
    deviation: float  # standard deviation of the logits
    agrees: bool


def merge_where_it_agrees(lm: PreTrainedModel, ids: Tensor) -> Agreement:
    """Merges, compares the logits at ids (B, S), and undoes the merge where they differ too much.

    They may by SHARE of what the adapter changes, or by ROUNDING of their deviation. lm: in evaluation mode; LoRA that
    peft attached (transposed or stacked matrices) stays as it is. Takes as much memory again as the matrices.
    """
    expected = _logits(lm, ids)
    with without_lora(lm):
        base = _logits(lm, ids)
    for layer in _mergeable(lm):
        layer.merge()
    actual = _logits(lm, ids)
    merged, adapter = (float((other - expected).abs().max()) for other in (actual, base))
    deviation = float(expected.std())
    rounded = any(layer.weight.dtype == torch.bfloat16 for layer in lm.modules() if isinstance(layer, LoraLinear))
    limit = max(SHARE * adapter, ROUNDING[torch.bfloat16 if rounded else torch.float32] * deviation)
    agreement = Agreement(merged, adapter, deviation, merged <= limit)
    if not agreement.agrees:
        unmerge(lm)
    return agreement


def unmerge(lm: nn.Module) -> None:
    """Every number is that of before `merge`, to the bit: the matrices themselves were never changed."""
    for layer in _mergeable(lm):
        layer.merged = None


@contextmanager
def merged_for_generation(lm: PreTrainedModel, ids: Tensor) -> Iterator[Agreement]:
    """Within it the model is merged, where that agrees; for generation between steps of a training."""
    try:
        yield merge_where_it_agrees(lm, ids)
    finally:
        unmerge(lm)


def _mergeable(lm: nn.Module) -> list[LoraLinear | ExtendedEmbedding | ExtendedHead]:
    return [layer for layer in lm.modules() if isinstance(layer, LoraLinear | ExtendedEmbedding | ExtendedHead)]


@torch.no_grad()
def _logits(lm: PreTrainedModel, ids: Tensor) -> Tensor:
    return lm(input_ids=ids, use_cache=False).logits.float()
