"""Several conversations in one sequence that share their beginning: the attention masks that keep them apart.

shared 0 0 0 | 1 1 1 | 2 2      branch of each position; a query sees earlier keys of branch 0 and of its branch
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from models.errors import ModelError

Mask = Tensor | BlockMask


def attention_masks(
    model: PreTrainedModel, branches: Tensor, positions: Tensor, attention_mask: Tensor
) -> Mask | dict[str, Mask]:
    """All (B, S) -> (B, 1, S, S), query by key: bool for SDPA, 0 or the lowest number to add for eager attention, and
    for flex attention the blocks in which anything is seen.

    positions: within each conversation, which a window of attention counts. A model whose layers differ (some have a
    window) gets one mask of each kind, by the names of its `layer_types`. Raises ModelError for layers that are no
    attention, or attend to chunks.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    full: Mask
    near: Mask
    if config._attn_implementation == "flex_attention":
        full = near = block_mask(branches, attention_mask)
        if window is not None:
            near = block_mask(branches, attention_mask, positions, window)
    else:
        full = near = branch_mask(branches, attention_mask)
        if window is not None:
            near = full & (positions[:, :, None] - positions[:, None, :] < window)[:, None]
    masks: dict[str, Mask] = {"full_attention": full, "sliding_attention": near}
    kinds = set(getattr(config, "layer_types", None) or [])
    if others := kinds - set(masks):
        raise ModelError(f"{type(model).__name__} has layers of {', '.join(sorted(others))}, which take no mask")
    if config._attn_implementation == "eager":
        masks = {kind: _additive(mask, model.dtype) for kind, mask in masks.items() if isinstance(mask, Tensor)}
    return {kind: masks[kind] for kind in kinds} if kinds else masks["sliding_attention"]


def branch_mask(branches: Tensor, attention_mask: Tensor) -> Tensor:
    """branches, attention_mask (B, S) -> (B, 1, S, S) bool, query by key.

    A query sees keys that are not later, not padding, and of the shared branch 0 or of its branch.
    """
    size = branches.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branches.device).tril()
    visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return (causal & visible & attention_mask[:, None, :].bool())[:, None]


def block_mask(
    branches: Tensor, attention_mask: Tensor, positions: Tensor | None = None, window: int | None = None
) -> BlockMask:
    """`branch_mask` for flex attention, and with positions (B, S) and a window of so many of them.

    Blocks without anything to see are left out, and no (S, S) is kept. Horace He et al. 2024, arXiv:2412.05496.
    """

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shared = (branches[batch, key] == 0) | (branches[batch, key] == branches[batch, query])
        visible = (key <= query) & shared & (attention_mask[batch, key] > 0)
        if positions is None or window is None:
            return visible
        return visible & (positions[batch, query] - positions[batch, key] < window)

    rows, size = branches.shape
    return create_block_mask(sees, rows, None, size, size, device=branches.device)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """bool -> 0 where it is True, the lowest number of the dtype elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
