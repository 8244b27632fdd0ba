"""How much an answer attends to each id of its prompt. Where attention lies is no proof of what an answer was made from:
Jain and Wallace 2019, arXiv:1902.10186.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def answer_attention(lm: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> Tensor | None:
    """ids of a prompt (P) and of its answer (A) -> attention (A, P), mean over layers and heads, float32.

    Row a is of the position that writes answer[a], which reads the ids before it: a row's sum is 1 less what lies on the
    answer itself. Layers without weights of attention are left out; None where no layer has any. Memory: layers x heads x
    (P + A)^2 numbers.
    """
    before = lm.config._attn_implementation
    lm.set_attn_implementation("eager")  # the only one that gives its weights
    try:
        ids = torch.tensor([[*prompt, *answer[:-1]]], device=lm.device)
        output = lm(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True, use_cache=False)
    finally:
        lm.set_attn_implementation(before)
    layers = [layer for layer in output.attentions or () if layer is not None]
    if not layers:
        return None
    first = len(prompt) - 1
    rows = [layer[0, :, first:, : len(prompt)].float().mean(0) for layer in layers]
    return torch.stack(rows).mean(0).cpu()
