"""Sounds as words of a frozen LLM (UniAudio 1.5, LLM-Codec: Yang et al. 2024, arXiv:2406.10056).

    words of the LLM (K) ──its embeddings, frozen (K, E)──one learned matrix──► codebook (K, d), length 1
    latents (B, N, D) ──project, length 1──► (B, N, d) ──nearest──► codes (B, N) ──► "river cold stone ..."

Codes are compared by angle, as LLM-Codec does.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.quantizer.linear_codebook import LinearCodebook
from models.quantizer.nearest_code import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Lexicon(NamedTuple):
    """The words that are codes, code by code."""

    words: list[str]
    embeddings: Tensor  # (K, E): rows of the LLM's input embedding


class LexicalQuantizer(LinearCodebook):
    """Its codes are words."""

    embeddings: Tensor  # (K, E) frozen

    def __init__(self, dim: int, code_dim: int, commitment_weight: float, lexicon: Lexicon) -> None:
        """Raises ModelError where there is not one embedding for each word, or a word comes twice."""
        words, embeddings = lexicon
        if len(words) != len(embeddings) or len(set(words)) != len(words) or not words:
            raise ModelError(
                f"{len(words)} words, {len(set(words))} of them different, and {len(embeddings)} embeddings; "
                "one embedding for each word is allowed"
            )
        super().__init__(dim, len(words), embeddings.shape[1], code_dim, commitment_weight)
        self.words: list[str] = list(words)
        self.index = {word: code for code, word in enumerate(words)}
        nn.init.normal_(self.project_out.weight)  # a code of length 1 gives entries of variance 1
        self.register_buffer("embeddings", embeddings.detach().float().clone())

    @property
    def table(self) -> Tensor:
        return self.embeddings

    def scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)

    def search(self, vectors: Tensor, codebook: Tensor) -> Tensor:
        return nearest(vectors, codebook)

    def text(self, codes: Tensor) -> list[str]:
        """codes (B, S) -> a string a clip, its words joined by spaces. Inverse: `codes`.

        Behind a space, the LLM's tokenizer reads one token a word.
        """
        self._check(codes)
        return [" ".join(self.words[code] for code in row) for row in codes.tolist()]

    def codes(self, text: str) -> list[int]:
        """Words joined by spaces -> codes. Raises ModelError for a word that is no code."""
        unknown = [word for word in text.split() if word not in self.index]
        if unknown:
            raise ModelError(f"{unknown[0]!r} is not one of the {len(self.words)} words of this tokenizer")
        return [self.index[word] for word in text.split()]

    @property
    def vectors(self) -> Tensor:
        """The embeddings: what the words mean to the LLM."""
        return self.embeddings[None]


class WholeWords(NamedTuple):
    """Words of an LLM that are one token each."""

    words: list[str]
    ids: list[int]


def whole_words(tokenizer: "PreTrainedTokenizerBase", limit: int) -> WholeWords:
    """The first `limit` words, in the order of ids: learned merges are ordered by frequency.

    A word is alphabetic and one token, and its text and its id give each other where it follows another word; so a text
    of such words has as many tokens as words.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    texts = [str(tokenizer.decode([token])).strip() for token in ids]
    candidates = [(text, token) for text, token in zip(texts, ids, strict=True) if text.isalpha()]
    words: dict[str, int] = {}
    for start in range(0, len(candidates), 4096):
        part = candidates[start : start + 4096]
        behind_space = _read(tokenizer, [f" {word} {word}" for word, _ in part])
        # sentencepiece adds the first space itself
        plain = _read(tokenizer, [f"{word} {word}" for word, _ in part])
        for (word, token), one, other in zip(part, behind_space, plain, strict=True):
            if [token, token] in (one, other) and word not in words:
                words[word] = token
        if len(words) >= limit:
            break
    return WholeWords(list(words)[:limit], list(words.values())[:limit])


def _read(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Iterable[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False).input_ids
