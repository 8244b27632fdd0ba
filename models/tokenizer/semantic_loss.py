"""Sound tokens near the words for them: their mean over time against an LLM's hidden states of the caption.

    quantised (B, N, W) ──mean of the valid tokens──► (B, W) ──one matrix──► (B, E) ──cosine / temperature──► which text?

UniAudio 1.5's semantic loss (Yang et al. 2024, arXiv:2406.10056: a squared error against T5), as a contrast (van den
Oord et al. 2018, arXiv:1807.03748) against a memory of other texts, as its namesake has it (arXiv:2604.17852). The LLM
is frozen, so that the memory is drawn from the features of all texts, and is no state.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.quantizer.interface import masked_mean
from models.tokenizer.transformer import linear


class SemanticLoss(nn.Module):
    """Cross-entropy (nats) of a sound's own text among the texts of a memory."""

    def __init__(self, width: int, text_dim: int, temperature: float) -> None:
        """width: W of the tokens; text_dim: E of the texts' features; temperature: of the cosines."""
        super().__init__()
        self.project, self.temperature = linear(width, text_dim), temperature

    def forward(
        self, quantized: Tensor, mask: Tensor, texts: Tensor, text: Tensor, memory: Tensor, memory_text: Tensor
    ) -> Tensor:
        """quantized (B, N, W); mask (B, N) bool: valid tokens; texts (B, E): features of each sound's own text, and text
        (B) long: its number, -1 for none; memory (M, E) with the numbers memory_text (M) -> ().

        A text of the memory that is a sound's own counts once. Sounds without a text take no part; 0 without any.
        """
        weights = mask[..., None].to(quantized.dtype)
        mean = (quantized * weights).sum(1) / weights.sum(1).clamp(min=1)
        sound = F.normalize(self.project(mean).float(), dim=-1)
        own = (sound * F.normalize(texts.float(), dim=-1)).sum(-1, keepdim=True)
        others = sound @ F.normalize(memory.float(), dim=-1).T
        others = others.masked_fill(memory_text == text[:, None], float("-inf"))
        logits = torch.cat([own, others], 1) / self.temperature
        return masked_mean(logits.logsumexp(1) - logits[:, 0], text >= 0)
