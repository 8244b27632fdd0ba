"""Several conversations in one sequence that share their beginning: the attention masks that keep them apart.

shared 0 0 0 | 1 1 1 | 2 2      branch of each position; a query sees earlier keys of branch 0 and of its branch
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.errors import ModelError


def attention_masks(
    model: PreTrainedModel, branches: Tensor, positions: Tensor, attention_mask: Tensor
) -> Tensor | dict[str, Tensor]:
    """All (B, S) -> (B, 1, S, S), query by key: bool for SDPA, 0 or the lowest number to add for eager attention.

    positions: within each conversation, which a window of attention counts. A model whose layers differ (some have a
    window) gets one mask of each kind, by the names of its `layer_types`. Raises ModelError for layers that are no
    attention, or attend to chunks.
    """
    config = model.config.get_text_config()
    full = branch_mask(branches, attention_mask)
    window = getattr(config, "sliding_window", None)
    near = full if window is None else full & (positions[:, :, None] - positions[:, None, :] < window)[:, None]
    masks = {"full_attention": full, "sliding_attention": near}
    kinds = set(getattr(config, "layer_types", None) or [])
    if others := kinds - set(masks):
        raise ModelError(f"{type(model).__name__} has layers of {', '.join(sorted(others))}, which take no mask")
    if config._attn_implementation == "eager":
        masks = {kind: _additive(mask, model.dtype) for kind, mask in masks.items()}
    return {kind: masks[kind] for kind in kinds} if kinds else masks["sliding_attention"]


def branch_mask(branches: Tensor, attention_mask: Tensor) -> Tensor:
    """branches, attention_mask (B, S) -> (B, 1, S, S) bool, query by key.

    A query sees keys that are not later, not padding, and of the shared branch 0 or of its branch.
    """
    size = branches.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branches.device).tril()
    visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return (causal & visible & attention_mask[:, None, :].bool())[:, None]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """bool -> 0 where it is True, the lowest number of the dtype elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
