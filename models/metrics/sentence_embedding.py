"""Sentences as vectors of length 1: the mean of a BERT's last hidden states over the tokens.

Reimers and Gurevych 2019, arXiv:1908.10084. A score carries the encoder's name: another encoder has another scale.
Unrelated captions do not score 0 (about 0.2 with MiniLM), so a similarity is printed beside that of shuffled captions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

# texts -> input_ids (B, S), attention_mask (B, S), right-padded
Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class SentenceEmbedding:
    """Embeds texts, each once."""

    def __init__(self, model: PreTrainedModel, tokenize: Tokenize, name: str) -> None:
        """model: an encoder, in evaluation mode."""
        self.model, self.tokenize, self.name = model, tokenize, name
        self._vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """M texts -> (M, E), each of length 1. Law: a text's vector does not depend on its batch, up to rounding."""
        new = sorted({text for text in texts if text not in self._vectors}, key=lambda text: (len(text), text))
        for start in range(0, len(new), batch_size):
            part = new[start : start + batch_size]
            ids, mask = self.tokenize(part)
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].to(hidden)
            means = (hidden * weights).sum(1) / weights.sum(1)
            self._vectors |= dict(zip(part, F.normalize(means, dim=1), strict=True))
        return torch.stack([self._vectors[text] for text in texts])

    def cosines(self, text: str, others: Sequence[str], template: str = "{}") -> list[float]:
        """Cosine of a text with each of the others, all formatted by the template ("sound of {}" is LTU's)."""
        vectors = self([template.format(one) for one in (text, *others)])
        return (vectors[1:] @ vectors[0]).tolist()


class Similarity(NamedTuple):
    """Mean cosines of captions with references; NaN without captions."""

    matched: float  # with the references of its clip
    shuffled: float  # with those of another clip, the floor; NaN for a single clip
    items: list[float]  # matched, clip by clip


def similarity(embed: SentenceEmbedding, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Similarity:
    """captions: one a clip; references: one or more a clip. An empty caption scores 0.

    The other clip, of the shuffled captions, is the one a third of the list away.
    """
    vectors = embed(list(captions))
    targets = [embed(list(texts)) for texts in references]
    count = len(captions)

    def mean(index: int, other: int) -> float:
        return float((targets[other] @ vectors[index]).mean()) if captions[index].strip() else 0.0

    items = [mean(index, index) for index in range(count)]
    floor = [mean(index, (index + max(1, count // 3)) % count) for index in range(count)]
    matched = sum(items) / count if count else float("nan")
    shuffled = sum(floor) / count if count > 1 else float("nan")
    return Similarity(matched, shuffled, items)
