"""Sounds as words that a frozen LLM knows already (UniAudio 1.5, LLM-Codec: Yang et al. 2024, arXiv:2406.10056).

    words of the LLM (K) ──its own embeddings, frozen (K, E)──one learned matrix──► codebook (K, d), length 1
    latents (B, N, D) ──project, length 1──► (B, N, d) ──nearest──► codes (B, N) ──► "river cold stone ..."

The codebook is SimVQ's with the LLM's table for the random one; found by angle, as LLM-Codec does.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.quantizer.interface import Quantized, Quantizer, straight_through, without_padding
from models.quantizer.search import nearest
from models.quantizer.simvq import two_sided

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Lexicon(NamedTuple):
    words: list[str]
    embeddings: Tensor  # (K, E): rows of the LLM's input embedding


class LexicalQuantizer(Quantizer):
    embeddings: Tensor  # (K, E) frozen

    def __init__(self, dim: int, code_dim: int, commitment_weight: float, lexicon: Lexicon) -> None:
        """Raises ModelError where words and embeddings are not one each, or a word comes twice."""
        words, embeddings = lexicon
        if len(words) != len(embeddings) or len(set(words)) != len(words) or not words:
            raise ModelError(
                f"{len(words)} words, {len(set(words))} of them different, and {len(embeddings)} embeddings; "
                "one embedding for each word is allowed"
            )
        super().__init__(dim, len(words))
        self.words, self.commitment_weight = list(words), commitment_weight
        self.index = {word: code for code, word in enumerate(words)}
        self.project_in = nn.Linear(dim, code_dim, bias=False)
        self.matrix = nn.Linear(embeddings.shape[1], code_dim, bias=False)
        self.project_out = nn.Linear(code_dim, dim, bias=False)
        nn.init.normal_(self.project_out.weight)  # a code of length 1 gives entries of variance 1
        self.register_buffer("embeddings", embeddings.detach().float().clone())

    def forward(self, latents: Tensor, mask: Tensor | None, update: bool) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            latents, mask = without_padding(latents, mask)
            vectors, codebook = F.normalize(self.project_in(latents), dim=-1), self._codebook()
            codes = nearest(vectors.flatten(0, 1), codebook).view(mask.shape)
            chosen = codebook[codes]
            loss = two_sided(vectors, chosen, mask, self.commitment_weight)
            return Quantized(self.project_out(straight_through(vectors, chosen)), codes, loss)

    def decode(self, codes: Tensor) -> Tensor:
        self._check(codes)
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self._codebook()[codes])

    def text(self, codes: Tensor) -> list[str]:
        """codes (B, S) -> a string a clip, its words after one another. Behind a space, the LLM's tokenizer reads one
        token a word. Inverse: `codes`.
        """
        self._check(codes)
        return [" ".join(self.words[code] for code in row) for row in codes.tolist()]

    def codes(self, text: str) -> list[int]:
        """Raises ModelError for a word that is no code."""
        unknown = [word for word in text.split() if word not in self.index]
        if unknown:
            raise ModelError(f"{unknown[0]!r} is none of the {len(self.words)} words of this tokenizer")
        return [self.index[word] for word in text.split()]

    @property
    def vectors(self) -> Tensor:
        """The embeddings themselves: what the words mean to the LLM."""
        return self.embeddings[None]

    def _codebook(self) -> Tensor:
        return F.normalize(self.matrix(self.embeddings), dim=-1)


def whole_words(tokenizer: "PreTrainedTokenizerBase", limit: int) -> tuple[list[str], list[int]]:
    """The first `limit` words in the order of ids (learned merges come by frequency), and their ids.

    A word is alphabetic and one token that text and id turn into each other, where it follows another word; so a text of
    such words has as many tokens as words.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    texts = [str(tokenizer.decode([token])).strip() for token in ids]
    found = [(text, token) for text, token in zip(texts, ids, strict=True) if text.isalpha()]
    words: dict[str, int] = {}
    for start in range(0, len(found), 4096):
        part = found[start : start + 4096]
        behind_space = _read(tokenizer, [f" {word} {word}" for word, _ in part])
        plain = _read(tokenizer, [f"{word} {word}" for word, _ in part])  # sentencepiece adds the first space itself
        for (word, token), one, other in zip(part, behind_space, plain, strict=True):
            if [token, token] in (one, other) and word not in words:
                words[word] = token
        if len(words) >= limit:
            break
    return list(words)[:limit], list(words.values())[:limit]


def _read(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Iterable[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False).input_ids
