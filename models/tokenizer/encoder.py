"""Causal encoder of LM-MSN's sound tokenizer (Mehta, Jojic, Gamper 2025, arXiv:2503.22275): a transformer, then a pool.

latents (B, F, D) ──causal transformer──► (B, F, W) ──last and mean of each token's frames──► (B, N, W)
"""

import math

import torch
from torch import Tensor, nn

from models.tokenizer.grid import TokenGrid
from models.tokenizer.transformer import RMSNorm, Transformer, linear


class CausalEncoder(nn.Module):
    """Latents to one vector a token, which depends on the frames up to the token's last one and on no others.

    Its residual stream and the vectors are float32, under autocast too: rounding decides which code a vector gets.
    """

    def __init__(self, latent_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.latent_dim, self.width = latent_dim, width
        self.input = linear(latent_dim, width)
        self.transformer = Transformer(width, depth, heads, causal=True, modulated=False)
        self.norm = RMSNorm(width)
        self.pool = linear(2 * width, width)

    def frames(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> (B, F, W). Law: frame f of the output depends on the frames 0 to f of the input."""
        positions = torch.arange(latents.shape[1], device=latents.device)
        return self.norm(self.transformer(self.input(latents).float(), positions, mask=None, modulation=None))

    def forward(self, latents: Tensor, num_frames: Tensor, grid: TokenGrid, first_token: int = 0) -> Tensor:
        """latents (B, F, D), of which num_frames (B) are valid -> (B, N, W).

        first_token: of a longer sound, of which these latents are the part from that token's first frame on.
        A token is a projection of the last of its valid frames and of their mean, which has what lasts all through.
        """
        frames = self.frames(latents)
        begin = grid.first_frame(first_token)
        tokens = torch.arange(first_token, grid.num_tokens(begin + frames.shape[1]), device=frames.device)
        offsets = torch.arange(math.ceil(grid.step), device=frames.device)
        index = grid.first_frame(tokens)[:, None] - begin + offsets  # (N, frames of a token)
        inside = index <= grid.last_frame(tokens)[:, None] - begin
        valid = inside & (index < num_frames[:, None, None])  # (B, N, frames of a token)
        parts = frames[:, index.clamp(max=frames.shape[1] - 1)]
        mean = (parts * valid[..., None]).sum(2) / valid.sum(2).clamp(min=1)[..., None]
        last = torch.minimum(grid.last_frame(tokens) - begin, num_frames[:, None] - 1)[..., None].expand(
            -1, -1, self.width
        )
        return self.pool(torch.cat([frames.gather(1, last), mean], -1))
