"""FENSE (Zhou et al. 2022, arXiv:2110.04684): sentence similarity, a tenth of it where a classifier finds an error of
fluency.

FENSE_i = mean cosine with the references x (1 - 0.9 [P(error) > 0.9]). The encoder is paraphrase-TinyBERT-L6-v2 and the
classifier the authors' echecker_clotho_audiocaps_base; with any other it is not FENSE.
"""

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from models.metrics.fluency import FluencyChecker
from stages.scoring.captions.coco import CaptionScore

PENALTY, THRESHOLD = 0.9, 0.9


def fense(
    similarities: Sequence[float],
    captions: Sequence[str],
    checker: FluencyChecker,
    tokenize: Callable[[list[str]], dict[str, Tensor]],
    batch_size: int = 32,
) -> CaptionScore:
    """similarities: each caption's mean cosine with its references; tokenize: texts -> padded batch of at most LONGEST
    tokens.
    """
    plain = [re.sub(r"[^\w\s]", "", text).lower() for text in captions]
    wrong: list[float] = []
    for start in range(0, len(plain), batch_size):
        wrong += checker(**tokenize(plain[start : start + batch_size])).tolist()
    items = [value * (1 - PENALTY * (error > THRESHOLD)) for value, error in zip(similarities, wrong, strict=True)]
    return CaptionScore(sum(items) / len(items) if items else float("nan"), items)
