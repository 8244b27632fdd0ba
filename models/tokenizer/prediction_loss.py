"""Sound tokens that a language model can predict: a small causal transformer guesses the next token's codes.

    quantised (B, N, W) ──causal transformer──► (B, N, H) ──one matrix a level──► the codes of token n + 1, cross-entropy

It is trained along with the tokenizer, and its gradient reaches the encoder through the straight-through estimate of
the tokens that it reads: they learn to tell what follows. Next-token losses in a tokenizer: ALMTokenizer (Yang et al.
2025, arXiv:2504.10344) and LLM-Codec (arXiv:2604.17852, which asks a frozen LLM).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.quantizer.interface import masked_mean
from models.tokenizer.transformer import RMSNorm, Transformer, linear


class PredictionLoss(nn.Module):
    """Cross-entropy (nats a code) of the next token's codes, all levels at once."""

    def __init__(
        self, dim: int, codebook_size: int, levels: tuple[int, ...], block: int, width: int, depth: int, heads: int
    ) -> None:
        """dim: W of the tokens; codebook_size, levels, block: see `Quantizer`; width, depth, heads: of the transformer."""
        super().__init__()
        self.codebook_size, self.levels, self.block = codebook_size, levels, block
        self.input = linear(dim, width)
        self.transformer = Transformer(width, depth, heads, causal=True, modulated=False)
        self.norm = RMSNorm(width)
        self.heads = nn.Linear(width, (max(levels) + 1) * codebook_size, bias=False)
        nn.init.zeros_(self.heads.weight)  # every code is as likely at first

    def forward(self, quantized: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
        """quantized (B, N, W), codes (B, S) of the same tokens, mask (B, N) bool -> ()."""
        targets, begins = self.by_token(codes, quantized.shape[1])
        positions = torch.arange(quantized.shape[1], device=quantized.device)
        hidden = self.norm(self.transformer(self.input(quantized), positions, None, None))[:, :-1]
        logits = self.heads(hidden).float().unflatten(-1, (-1, self.codebook_size))
        loss = F.cross_entropy(logits.flatten(0, 2), targets[:, 1:].flatten(), reduction="none")
        return masked_mean(loss.view(len(codes), -1), (mask[:, 1:, None] & begins[1:]).flatten(1))

    def by_token(self, codes: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """codes (B, S), block after block -> (B, N, Q): each level's code of a token; (N, Q) bool: whether it begins
        there, for a code of a coarse level stands for several tokens.
        """
        levels = torch.tensor(self.levels, device=codes.device)
        in_blocks = codes.unflatten(1, (-1, len(self.levels)))
        parts, begins = [], []
        for level in range(max(self.levels) + 1):
            part = in_blocks[..., levels == level]
            stride = self.block // part.shape[2]
            parts.append(part.flatten(1).repeat_interleave(stride, 1)[:, :num_tokens])
            begins.append(torch.arange(num_tokens, device=codes.device) % stride == 0)
        return torch.stack(parts, -1), torch.stack(begins, -1)
