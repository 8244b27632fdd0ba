"""Several codebooks, each for the residual of the ones before it, the first ones for several tokens at once.

Multi-scale as in LLM-Codec (Yang et al. 2024, arXiv:2406.10056: strides 4, 2, 1); all strides 1 is plain residual
quantisation (Zeghidour et al. 2021, arXiv:2107.03312) of factorised codes (Kumar et al. 2023, arXiv:2306.06546). A book
is a `vq`, or, as LLM-Codec's, words of an LLM.

    residual (B, N, D) ──mean of `stride` tokens──► a level's book ──► codes ──► repeated, subtracted ──► next level
    codes of a block, strides 4, 2, 1:   level 0 │ level 1, level 1 │ level 2, level 2, level 2, level 2
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.quantizer.interface import Quantized, Quantizer, masked_mean, without_padding


class ResidualQuantizer(Quantizer):
    """Padding takes no part in means, statistics or loss: positions without a valid token repeat the last code.

    Loss: that of the books, and for each started one the mean square of (sg residual - its decoded code), which moves
    its projection back to D alone: without it nothing would make a residual smaller than what it is the residual of.
    """

    def __init__(self, books: Sequence[Quantizer], strides: Sequence[int]) -> None:
        """books: of one level, one dim and one codebook_size; strides: tokens a code, the coarsest first.

        Raises ModelError where a stride does not divide the one before it.
        """
        if not strides or len(books) != len(strides) or min(strides) < 1:
            raise ModelError(f"strides {list(strides)} for {len(books)} books; one of at least 1 for each is allowed")
        for coarse, fine in pairwise(strides):
            if coarse % fine:
                raise ModelError(f"strides {list(strides)}: {fine} does not divide {coarse}, the one before it")
        block = strides[0]
        levels = tuple(level for level, stride in enumerate(strides) for _ in range(block // stride))
        super().__init__(books[0].dim, books[0].codebook_size, levels, block)
        self.books, self.strides = nn.ModuleList(books), tuple(strides)
        words = list(chain.from_iterable(book.words or [] for book in books))
        self.words = words or None

    @property
    def started(self) -> bool:
        return all(book.started for book in self._books)

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        count = latents.shape[1]
        with torch.autocast(latents.device.type, enabled=False):
            latents, mask = without_padding(latents, mask)
            more = -count % self.block
            mask = F.pad(mask, (0, more), value=False)
            residual = F.pad(latents, (0, 0, 0, more))
            quantized, loss, codes = torch.zeros_like(residual), residual.new_zeros(()), []
            for book, stride in zip(self._books, self.strides, strict=True):
                started = book.started
                pooled, valid = pool(residual, mask, stride)
                level = book(pooled, valid, update)
                loss = loss + level.loss
                if started:
                    error = pooled.detach() - book.decode_valid(level.codes)
                    loss = loss + masked_mean(error.square().mean(-1), valid)
                codes.append(repeat_last(level.codes, valid))
                part = level.quantized.repeat_interleave(stride, 1)
                quantized, residual = quantized + part, residual - part
            return Quantized(quantized[:, :count], self._join(codes), loss)

    def decode_valid(self, codes: Tensor) -> Tensor:
        parts = self._split(codes)
        decoded = [
            book.decode_valid(part).repeat_interleave(stride, 1)
            for book, part, stride in zip(self._books, parts, self.strides, strict=True)
        ]
        return torch.stack(decoded).sum(0)

    @property
    def vectors(self) -> Tensor:
        return torch.cat([book.vectors for book in self._books])

    @property
    def _books(self) -> list[Quantizer]:
        """The books by level, typed."""
        return [book for book in self.books if isinstance(book, Quantizer)]

    def _join(self, codes: list[Tensor]) -> Tensor:
        """(B, N / stride) of each level -> (B, S), block after block."""
        batch = len(codes[0])
        parts = [part.view(batch, -1, self.block // stride) for part, stride in zip(codes, self.strides, strict=True)]
        return torch.cat(parts, 2).flatten(1)

    def _split(self, codes: Tensor) -> list[Tensor]:
        """Inverse of `_join`."""
        sizes = [self.block // stride for stride in self.strides]
        parts = codes.view(len(codes), -1, sum(sizes)).split(sizes, 2)
        return [part.flatten(1) for part in parts]


def repeat_last(codes: Tensor, mask: Tensor) -> Tensor:
    """codes (B, N), mask (B, N) -> codes, with each that is not valid replaced by the last valid one before it."""
    index = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
    return codes.gather(1, index.masked_fill(~mask, 0).cummax(1).values)


class Pooled(NamedTuple):
    """Means over groups of tokens."""

    means: Tensor  # (B, N / stride, D) over the valid tokens of a group; 0 where none is valid
    valid: Tensor  # (B, N / stride) bool: groups with a valid token


def pool(latents: Tensor, mask: Tensor, stride: int) -> Pooled:
    """latents (B, N, D), mask (B, N): stride tokens are a group."""
    parts, inside = latents.unflatten(1, (-1, stride)), mask.unflatten(1, (-1, stride))
    means = (parts * inside[..., None]).sum(2) / inside.sum(2, keepdim=True).clamp(min=1)
    return Pooled(means, inside.any(-1))
