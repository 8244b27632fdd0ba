"""The one block that the causal encoder and the diffusion transformer share.

Pre-norm transformer with RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021, arXiv:2104.09864), normalised queries and keys
(Henry et al. 2020), SwiGLU (Shazeer 2020, arXiv:2002.05202), and, for the decoder, adaLN-single (Chen et al. 2023, arXiv:2310.00426): one shared
vector of shifts, scales and gates, plus a table a block, all zero at the start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0


class Transformer(nn.Module):
    """depth blocks and a last norm: (B, F, D) -> (B, F, D)."""

    def __init__(self, width: int, depth: int, heads: int, causal: bool, modulated: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, causal, modulated) for _ in range(depth))
        self.norm = nn.RMSNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None, modulation: Tensor | None = None) -> Tensor:
        """x (B, F, D); mask (B, F), True where valid, or None where all are; modulation (B, 6 D) for a modulated stack."""
        rotary = rotary_tables(x.shape[1], self.blocks[0].head_width, x.device)
        for block in self.blocks:
            x = block(x, rotary, mask, modulation)
        return self.norm(x)


class Block(nn.Module):
    """Attention and SwiGLU, each behind a norm. A causal block takes no mask: padding stands on the right, where no valid frame looks."""

    def __init__(self, width: int, heads: int, causal: bool, modulated: bool) -> None:
        super().__init__()
        self.heads, self.head_width, self.causal = heads, width // heads, causal
        hidden = 64 * -(-8 * width // (3 * 64))  # 8/3 of the width, up to a multiple of 64
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.norm_query, self.norm_key = nn.RMSNorm(self.head_width), nn.RMSNorm(self.head_width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.table = nn.Parameter(torch.zeros(6, width)) if modulated else None

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, modulation: Tensor | None) -> Tensor:
        if self.table is None:
            x = x + self._attend(self.norm_attention(x), rotary, mask)
            return x + self._mlp(self.norm_mlp(x))
        assert modulation is not None
        parts = (modulation.view(x.shape[0], 6, 1, -1) + self.table[:, None]).unbind(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x = x + gate_1 * self._attend(self.norm_attention(x) * (1 + scale_1) + shift_1, rotary, mask)
        return x + gate_2 * self._mlp(self.norm_mlp(x) * (1 + scale_2) + shift_2)

    def _attend(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        batch, frames, width = x.shape
        query, key, value = self.qkv(x).view(batch, frames, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key = rotate(self.norm_query(query), rotary), rotate(self.norm_key(key), rotary)
        allowed = None if self.causal or mask is None else mask[:, None, None, :]
        found = F.scaled_dot_product_attention(query, key, value.to(query.dtype), attn_mask=allowed, is_causal=self.causal)
        return self.out(found.transpose(1, 2).reshape(batch, frames, width))

    def _mlp(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def rotary_tables(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin (F, head_width / 2), float32, of position times frequency."""
    frequency = ROTARY_BASE ** -(torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angle = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (first half, second half) of x (B, heads, F, head_width) by their position's angle, in float32."""
    cos, sin = rotary
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
