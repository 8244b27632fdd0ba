"""The interface of all quantisers, and what its numbers imply."""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from models.errors import ModelError

Count = TypeVar("Count", int, Tensor)


class Quantized(NamedTuple):
    """Latents after quantisation."""

    quantized: Tensor  # (B, N, D), with the gradient of the latents
    codes: Tensor  # (B, S) long
    loss: Tensor  # (), weighted


class Quantizer(nn.Module):
    """Latents to codes and back. Laws of all kinds:

    - Values where the mask is False change nothing elsewhere, in the loss, or in the state.
    - `eval()`, or update=False, changes nothing, and draws no random number.
    - A prefix made of whole blocks has the same codes whatever follows.
    - All that the future depends on is in `state_dict`; random numbers come from (seed, step).
    - float32, under autocast too.
    - Code 0 is a sound, not padding.

    codebook_size: entries of a level. block: tokens that are coded together. levels: the level of each code of one
    block, as (0,) for one code a token, (0, 1, 2) for three residual levels, (0, 1, 1, 2, 2, 2, 2) for three levels of
    strides 4, 2 and 1. words: of an LLM that the codes are, K of each level; None where they are none.
    """

    def __init__(self, dim: int, codebook_size: int, levels: tuple[int, ...] = (0,), block: int = 1) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.levels, self.block = dim, codebook_size, levels, block
        self.words: list[str] | None = None

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        """latents (B, N, D); mask (B, N) bool, False for padding -> codes (B, S) with S = num_codes(N).

        In training mode with update, the codebook learns.
        """
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, S) -> (B, S / codes a block x block, D): what `forward` gave with them in evaluation mode.

        Raises ModelError for a code that is not in the codebook, or part of a block.
        """
        self._check(codes)
        return self.decode_valid(codes)

    def decode_valid(self, codes: Tensor) -> Tensor:
        """As `decode`, for codes that are known to be in the codebook: the device is not asked."""
        raise NotImplementedError

    @property
    def vectors(self) -> Tensor:
        """(Q, K, d) float, one for each code of each level: near for codes that sound alike."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """False until the codebook has started; training quantises nothing before."""
        return True

    @property
    def num_codebooks(self) -> int:
        return max(self.levels) + 1

    @property
    def bits_per_token(self) -> float:
        """Bits of a token if all codes were equally frequent: over the levels, the sum of log2 K / stride."""
        return len(self.levels) / self.block * math.log2(self.codebook_size)

    def num_codes(self, num_tokens: Count) -> Count:
        """Codes of a clip of so many tokens; its last block is filled."""
        return -(-num_tokens // self.block) * len(self.levels)

    def _check(self, codes: Tensor) -> None:
        """Raises ModelError for codes (B, S) that `decode` does not take."""
        low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
        if low < 0 or high >= self.codebook_size:
            raise ModelError(
                f"codes from {low} to {high}; 0 to {self.codebook_size - 1} are allowed. "
                "Were they made by another tokenizer?"
            )
        if codes.shape[1] % len(self.levels):
            raise ModelError(
                f"{codes.shape[1]} codes; a multiple of {len(self.levels)} is allowed: a block of {self.block} tokens "
                f"has the levels {list(self.levels)}"
            )


class Unpadded(NamedTuple):
    """Latents whose padding is 0."""

    latents: Tensor  # (B, N, D) float32
    mask: Tensor  # (B, N) bool


def without_padding(latents: Tensor, mask: Tensor | None) -> Unpadded:
    """latents (B, N, D), mask (B, N) or None for no padding."""
    if mask is None:
        return Unpadded(latents.float(), torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device))
    return Unpadded(torch.where(mask[..., None], latents.float(), 0.0), mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """values, mask (B, N) -> (): the mean over the True positions; 0 without any."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def straight_through(vectors: Tensor, chosen: Tensor) -> Tensor:
    """The value of chosen, the gradient of vectors (Bengio et al. 2013, arXiv:1308.3432)."""
    return vectors + (chosen - vectors).detach()
