"""Several talks in one sequence, blind to each other: the attention masks that say so, in the form that each LLM takes.

shared 0 0 0 | 1 1 1 | 2 2      branch of each position; a query sees keys before it, of branch 0 or of its own
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.errors import ModelError


def attention_masks(
    model: PreTrainedModel, branches: Tensor, positions: Tensor, attention_mask: Tensor
) -> Tensor | dict[str, Tensor]:
    """All (B, S) -> (B, 1, S, S), query by key: bool for SDPA, 0 or the lowest number to add for eager attention.

    A model whose layers differ (some see a window only) gets one of each kind, by the names of its `layer_types`. positions: in each talk, from
    which a window is measured. Raises ModelError for layers that are no attention, or that see chunks.
    """
    config = model.config.get_text_config()
    whole = branch_mask(branches, attention_mask)
    window = getattr(config, "sliding_window", None)
    near = whole if window is None else whole & (positions[:, :, None] - positions[:, None, :] < window)[:, None]
    found = {"full_attention": whole, "sliding_attention": near}
    kinds = set(getattr(config, "layer_types", None) or [])
    if strange := kinds - set(found):
        raise ModelError(f"{type(model).__name__} has layers of {', '.join(sorted(strange))}, which see no mask")
    if config._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        found = {
            kind: torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
            for kind, mask in found.items()
        }
    return {kind: found[kind] for kind in kinds} if kinds else found["sliding_attention"]


def branch_mask(branches: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, S), (B, S) -> (B, 1, S, S) bool, query by key: not later, not padding, and of the shared branch 0 or of its own."""
    size = branches.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branches.device).tril()
    visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return (causal & visible & attention_mask[:, None, :].bool())[:, None]
