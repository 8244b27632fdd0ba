"""FENSE (Zhou et al. 2022, arXiv:2110.04684): sentence similarity, a tenth of it where a classifier finds an error of fluency.

FENSE_i = mean cosine with the references x (1 - 0.9 [P(error) > 0.9]). The encoder is paraphrase-TinyBERT-L6-v2 and the classifier the authors'
echecker_clotho_audiocaps_base; with any other it is not FENSE.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.scoring.captions.coco import Scored

LONGEST = 64  # tokens
PENALTY, THRESHOLD = 0.9, 0.9


class FluencyChecker(nn.Module):
    """A BERT's first hidden state to six classes; the last is any error."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.clf = encoder, nn.Linear(width, classes)

    @classmethod
    def from_checkpoint(cls, path: Path, backbone: Callable[[str], nn.Module]) -> "tuple[FluencyChecker, str]":
        """path: echecker_clotho_audiocaps_base.ckpt; backbone: hub name -> encoder. Returns the name too, for the tokenizer."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        encoder = backbone(saved["model_type"])
        model = cls(encoder, int(encoder.config.hidden_size), saved["num_classes"])  # type: ignore[union-attr,arg-type]
        state = {
            key: value for key, value in saved["state_dict"].items() if not key.endswith("embeddings.position_ids")
        }
        model.load_state_dict(state)  # a buffer that transformers saved until 4.31 is no weight
        return model.eval(), saved["model_type"]

    @torch.no_grad()
    def forward(self, **batch: Tensor) -> Tensor:
        """(B, S) each -> the probability of an error (B)."""
        return self.clf(self.encoder(**batch).last_hidden_state[:, 0]).sigmoid()[:, -1]


def fense(
    similarities: Sequence[float],
    captions: Sequence[str],
    checker: FluencyChecker,
    tokenize: Callable[[list[str]], dict[str, Tensor]],
    batch_size: int = 32,
) -> Scored:
    """similarities: each caption's mean cosine with its references; tokenize: texts -> padded batch of at most LONGEST tokens."""
    plain = [re.sub(r"[^\w\s]", "", text).lower() for text in captions]
    wrong: list[float] = []
    for start in range(0, len(plain), batch_size):
        wrong += checker(**tokenize(plain[start : start + batch_size])).tolist()
    items = [value * (1 - PENALTY * (error > THRESHOLD)) for value, error in zip(similarities, wrong, strict=True)]
    return Scored(sum(items) / len(items) if items else float("nan"), items)
