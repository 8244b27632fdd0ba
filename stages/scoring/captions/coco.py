"""COCO's caption scores (Chen et al. 2015, arXiv:1504.00325) on tokens: BLEU, CIDEr-D and ROUGE-L by pycocoevalcap's
own scorers.

Scales are shares of 1, but CIDEr-D, which is ten times a cosine. What pycocoevalcap calls CIDEr is CIDEr-D (Vedantam et
al. 2015, arXiv:1411.5726: clipped counts, Gaussian penalty on length with sigma 6); it weighs words by their rarity
among the references at hand, so that it depends on the clips and n.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conf.errors import UsageError
from stages.scoring.captions.java_programs import METEOR, PTB, Meteor, tokenize

# columns of METEOR's counts of a caption
LENGTHS, CHUNKS, MATCHED = slice(0, 2), 20, slice(21, 23)  # of caption and reference; words matched, of both


class CaptionScore(NamedTuple):
    corpus: float
    items: list[float]  # one a caption, in their order
    # (samples) of the corpus when clips are resampled, where it is no mean over clips and `times` were given
    resamples: Tensor | None = None


class Tokens(NamedTuple):
    captions: list[str]  # one a clip
    references: list[list[str]]  # at least one each


def tokens(package: Path, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Tokens:
    """package: the folder of pycocoevalcap. Raises UsageError for a clip without a reference."""
    for index, texts in enumerate(references):
        if not texts or not any(text.strip() for text in texts):
            raise UsageError(f"caption {index}: no reference. Every clip needs at least one that is not empty")
    flat = [*captions, *(text for texts in references for text in texts)]
    lines = tokenize(package / "tokenizer" / PTB, flat)
    rest = iter(lines[len(captions) :])
    return Tokens(lines[: len(captions)], [[next(rest) for _ in texts] for texts in references])


def bleu(words: Tokens, times: Tensor | None = None) -> dict[str, CaptionScore]:
    """bleu_1 to bleu_4 (Papineni et al. 2002): the closest reference length, the shorter one where two are as close; 0
    for empty captions.

    times (samples, captions): how often each caption comes in a resample.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for caption, texts in zip(words.captions, words.references, strict=True):
        scorer += (caption, texts)
    corpus, items = scorer.compute_score(option="closest")
    resamples = _bleu(times @ _counted(scorer.ctest)) if times is not None else [None] * 4
    return {
        f"bleu_{n + 1}": CaptionScore(float(corpus[n]), [float(value) for value in items[n]], resamples[n])
        for n in range(4)
    }


def _counted(captions: Sequence[Any]) -> Tensor:
    """(captions, 10): n-grams right and written, of 1 to 4 words, words written, words of the closest reference."""
    rows = []
    for one in captions:
        length = one["testlen"]
        closest = min(one["reflen"], key=lambda words: (abs(words - length), words))
        rows.append([*one["correct"], *one["guess"], length, closest])
    return torch.tensor(rows, dtype=torch.float64)


def _bleu(sums: Tensor) -> list[Tensor]:
    """(samples, 10) -> bleu_1 to bleu_4 (samples), as pycocoevalcap computes them of a corpus' sums."""
    small, tiny = 1e-9, 1e-15
    right, written = sums[:, :4], sums[:, 4:8]
    ratio = (sums[:, 8] + tiny) / (sums[:, 9] + small)
    penalty = torch.where(ratio < 1, (1 - 1 / ratio).exp(), torch.ones_like(ratio))
    products = ((right + tiny) / (written + small)).cumprod(1)
    return [products[:, n] ** (1 / (n + 1)) * penalty for n in range(4)]


def cider_d(words: Tokens) -> CaptionScore:
    """Raises UsageError for fewer than two clips: among one clip's references no word is rarer than another, and all is
    0.
    """
    from pycocoevalcap.cider.cider import Cider

    if len(words.captions) < 2:
        raise UsageError(
            f"CIDEr-D of {len(words.captions)} clips is always 0; two are the least, and hundreds are usual"
        )
    corpus, items = Cider().compute_score(*_as_coco(words))
    return CaptionScore(float(corpus), [float(value) for value in items])


def rouge_l(words: Tokens) -> CaptionScore:
    """The longest common subsequence's F with beta 1.2, of the best precision and the best recall among the references
    (Lin 2004).
    """
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, items = Rouge().compute_score(*_as_coco(words))
    return CaptionScore(float(corpus), [float(value) for value in items])


def meteor(package: Path, words: Tokens, times: Tensor | None = None) -> CaptionScore:
    """times (samples, captions): how often each caption comes in a resample. METEOR sums the chunks of captions that are
    not a reference, word for word: those of a perfect match count as none.
    """
    with Meteor(package / "meteor" / METEOR) as scorer:
        counted = scorer.counted(words.captions, words.references)
        corpus, items = scorer.evaluate(counted)
        if times is None or not counted:
            return CaptionScore(corpus, items)
        numbers = torch.tensor([[float(word) for word in line.split()] for line in counted], dtype=torch.float64)
        perfect = (numbers[:, CHUNKS] == 1) & (numbers[:, MATCHED] == numbers[:, LENGTHS]).all(1)
        numbers[perfect, CHUNKS] = 0
        sums = [" ".join(map(str, row)) for row in (times @ numbers).tolist()]
        return CaptionScore(corpus, items, torch.tensor(scorer.evaluate(sums)[1], dtype=torch.float64))


def _as_coco(words: Tokens) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(words.references)), {index: [caption] for index, caption in enumerate(words.captions)}
