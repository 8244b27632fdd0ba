"""The transformer that the causal encoder and the diffusion transformer share.

RMSNorm before each half (Zhang and Sennrich 2019), rotary positions (Su et al. 2021, arXiv:2104.09864), normalised
queries and keys (Henry et al. 2020), SwiGLU (Shazeer 2020, arXiv:2002.05202), no biases; conditioned on time by
adaLN-single (Chen et al. 2023, arXiv:2310.00426).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.compiling import compile_each
from models.errors import ModelError


class Rotation(NamedTuple):
    """Angles of rotary positions, by position and pair of channels."""

    cos: Tensor  # (F, head_dim / 2) float32
    sin: Tensor  # (F, head_dim / 2) float32


class Transformer(nn.Module):
    """A stack of blocks on (B, F, D). A causal stack takes no mask: padding is on the right of every valid frame."""

    def __init__(self, width: int, depth: int, heads: int, causal: bool, modulated: bool) -> None:
        """modulated: every block takes six vectors, shift, scale and gate of attention and of the feed-forward layer.

        Raises ModelError for an odd width of a head.
        """
        super().__init__()
        if width % (2 * heads):
            raise ModelError(
                f"width {width} is no multiple of 2 x heads = {2 * heads}: rotary positions need an even head width"
            )
        self.width, self.heads, self.causal = width, heads, causal
        blocks = [Block(width, heads, causal, modulated) for _ in range(depth)]
        for block in blocks:
            for layer in (block.out, block.down):
                # the sum over the stack keeps its size
                nn.init.normal_(layer.weight, std=(2 * depth * layer.in_features) ** -0.5)
        self.blocks = nn.ModuleList(blocks)

    def compile_blocks(self) -> None:
        """torch.compile of each block: they are equal, so that one graph serves all, and the rest stays as it is."""
        compile_each(self.blocks)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, modulation: Tensor | None) -> Tensor:
        """x (B, F, D), positions (F) in latent frames -> (B, F, D).

        mask (B, F) bool: True for the frames that others may attend to; None: all. modulation (B, 6 D), or None.
        """
        assert mask is None or not self.causal
        rotation = rotary(positions, self.width // self.heads)
        key_mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, rotation, key_mask, modulation)
        return x


class Block(nn.Module):
    """Attention and a SwiGLU layer, each with its residual connection."""

    def __init__(self, width: int, heads: int, causal: bool, modulated: bool) -> None:
        super().__init__()
        head_dim = width // heads
        # two thirds of 4 x width, so that three matrices cost what two did; rounded up for tensor cores
        hidden = -(-8 * width // (3 * 32)) * 32
        self.heads, self.causal = heads, causal
        self.attention_norm, self.feedforward_norm = RMSNorm(width), RMSNorm(width)
        self.query_norm, self.key_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.gate_and_up = linear(width, 2 * hidden)
        self.down = linear(hidden, width)
        # added to the modulation that all blocks share; gates of 0 make the block the identity at first
        self.modulation = nn.Parameter(torch.zeros(6 * width)) if modulated else None

    def forward(self, x: Tensor, rotation: Rotation, key_mask: Tensor | None, modulation: Tensor | None) -> Tensor:
        if self.modulation is None:
            x = x + self._attend(self.attention_norm(x), rotation, key_mask)
            return x + self._feed_forward(self.feedforward_norm(x))
        assert modulation is not None, "a modulated block needs a modulation"
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (modulation + self.modulation)[:, None].chunk(6, -1)
        x = x + gate_1 * self._attend(modulate(self.attention_norm(x), shift_1, scale_1), rotation, key_mask)
        return x + gate_2 * self._feed_forward(modulate(self.feedforward_norm(x), shift_2, scale_2))

    def _attend(self, x: Tensor, rotation: Rotation, key_mask: Tensor | None) -> Tensor:
        # (B, F, 3 D) -> three of (B, heads, F, head_dim)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation)
        query, key = query.to(value.dtype), key.to(value.dtype)
        attended = attention(query, key, value, key_mask, self.causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last axis, in float32 whatever the dtype of the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-6).to(x.dtype)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without bias; inputs of variance 1 give outputs of variance 1."""
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(layer.weight, std=in_features**-0.5)
    return layer


def attention(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """query, key, value (B, heads, F, head_dim), key_mask (B, 1, 1, F) bool or None -> (B, heads, F, head_dim).

    PyTorch's fused attention, but for training in bfloat16 on a CPU, where its backward pass is slower than that of
    products and softmax apart.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, is_causal=causal)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        key_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, F, D), shift and scale (B, 1, D) -> x (1 + scale) + shift."""
    return x * (1 + scale) + shift


def rotary(positions: Tensor, head_dim: int) -> Rotation:
    """positions (F) -> rotations of a head's pairs of channels, wavelengths from 2 pi to 2 pi x 10^4 positions.

    float32, under autocast too.
    """
    frequencies = 1e4 ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float()[:, None] * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (..., F, head_dim) -> x with its pairs of channels rotated, float32.

    Law: the product of a query and a key depends on the difference of their positions alone.
    """
    left, right = x.float().chunk(2, -1)
    return torch.cat([left * rotation.cos - right * rotation.sin, left * rotation.sin + right * rotation.cos], -1)
