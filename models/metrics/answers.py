"""Short answers: right or wrong, how sure that share is, and what the text alone gives away.

A question's best text-only guess is the answer that the training questions make most likely: given the question's exact words where they were seen,
else given the kind of question. It is the baseline that a model without ears can reach (compare CLEVR's Q-type baselines, Johnson et al. 2017,
arXiv:1612.06890).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A share with its 95 % interval, and the number of items behind it; NaN where there are none."""

    value: float
    low: float
    high: float
    count: int


def normalise(answer: str) -> str:
    """Lower case, without article, punctuation and doubled spaces: what counts when two answers are compared."""
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return " ".join(words[1:] if words[:1] and words[0] in ("a", "an", "the") else words)


def is_right(prediction: str, answer: str) -> bool:
    """Exact match after `normalise`; an empty prediction is wrong."""
    return bool(normalise(prediction)) and normalise(prediction) == normalise(answer)


def bootstrap(right: Sequence[bool], sources: Sequence[str], samples: int, seed: int) -> Interval:
    """Mean of `right`, and the 2.5th and 97.5th percentile of its means when whole sources (clips) are drawn again with replacement.

    Questions on one clip stand and fall together, so the clip is what is drawn (Efron and Tibshirani 1993, chapter 8).
    """
    if not right:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    index = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    owner = torch.tensor([index[source] for source in sources])
    hits = torch.zeros(len(index), dtype=torch.float64).index_add_(0, owner, torch.tensor(right, dtype=torch.float64))
    sizes = torch.bincount(owner, minlength=len(index)).double()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(index), (samples, len(index)), generator=generator)
    means: Tensor = hits[draws].sum(1) / sizes[draws].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(hits.sum() / sizes.sum()), low, high, len(right))


class BestGuess:
    """The most frequent training answer given a question's words, else given its kind."""

    def __init__(self, train: Iterable[tuple[str, str, str]]) -> None:
        """train: (kind, question, answer) of the training split."""
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        by_words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for kind, question, answer in train:
            by_kind[kind][normalise(answer)] += 1
            by_words[kind, normalise(question)][normalise(answer)] += 1
        self.by_kind = {kind: _mode(answers) for kind, answers in by_kind.items()}
        self.by_words = {key: _mode(answers) for key, answers in by_words.items()}
        self.answers = {kind: len(answers) for kind, answers in by_kind.items()}

    def guess(self, kind: str, question: str) -> str:
        """An empty string for a kind that training has not seen."""
        return self.by_words.get((kind, normalise(question)), self.by_kind.get(kind, ""))

    def chance(self, kind: str) -> float:
        """One over the number of different training answers of a kind; NaN for a kind that training has not seen."""
        return 1 / self.answers[kind] if kind in self.answers else float("nan")


def _mode(answers: Counter[str]) -> str:
    """The most frequent, the first in the alphabet among equals: no order of reading decides."""
    return min(answers, key=lambda answer: (-answers[answer], answer))
