"""Sentences as vectors: mean of a BERT's last hidden states over the tokens, of length one (Reimers and Gurevych 2019, arXiv:1908.10084).

A number from it carries the encoder's name: another encoder is another scale. Unrelated captions do not score 0 (about 0.2 with MiniLM), so that
a similarity stands beside its shuffled floor.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Encode = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class SentenceEmbedding:
    def __init__(self, model: PreTrainedModel, tokenize: Encode, name: str) -> None:
        """tokenize: texts -> input_ids, attention_mask, both (B, S), right-padded. model: an encoder, in evaluation mode."""
        self.model, self.tokenize, self.name = model, tokenize, name
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """(M, E), each of length one; a text is embedded once. Equal alone and in a batch, but for rounding."""
        new = sorted({text for text in texts if text not in self._known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), batch_size):
            part = new[start : start + batch_size]
            ids, mask = self.tokenize(part)
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].to(hidden)
            means = (hidden * weights).sum(1) / weights.sum(1)
            self._known |= dict(zip(part, F.normalize(means, dim=1), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def cosines(self, text: str, others: Sequence[str], template: str = "{}") -> list[float]:
        """Of a text with each of the others, both set into the template ("sound of {}" is LTU's)."""
        found = self([template.format(one) for one in (text, *others)])
        return (found[1:] @ found[0]).tolist()


class Similarity(NamedTuple):
    matched: float  # mean cosine of a caption with the references of its clip
    shuffled: float  # with those of another clip: the floor; NaN for a single clip
    items: list[float]


def similarity(embed: SentenceEmbedding, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Similarity:
    """captions: one a clip; references: at least one each. The other clip is the one a third of the list away. Empty captions count 0."""
    vectors = embed(list(captions))
    targets = [embed(list(texts)) for texts in references]
    count = len(captions)

    def mean(index: int, other: int) -> float:
        return float((targets[other] @ vectors[index]).mean()) if captions[index].strip() else 0.0

    items = [mean(index, index) for index in range(count)]
    floor = [mean(index, (index + max(1, count // 3)) % count) for index in range(count)]
    return Similarity(
        sum(items) / max(1, count) if count else float("nan"), sum(floor) / count if count > 1 else float("nan"), items
    )
