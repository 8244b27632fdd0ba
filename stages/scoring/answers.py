"""Short answers: right or wrong, how sure that share is, and what the text alone gives away.

The best text-only guess is the baseline that a model without ears can reach (compare CLEVR's Q-type baselines, Johnson et al. 2017, arXiv:1612.06890).
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Z = 1.959964  # of a normal distribution, 95 % lies within so many deviations


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
    """Share of `right`, and its interval when whole sources (clips) are drawn again with replacement, as `resampled` says.

    Where every item is right, or every one wrong, all draws are the same and say nothing of how sure that is: then the interval is Wilson's over the sources.
    """
    if right and len(set(right)) == 1:
        return Interval(float(right[0]), *wilson(bool(right[0]), len(set(sources))), len(right))
    return resampled(right, sources, samples, seed)


def resampled(values: Sequence[float], sources: Sequence[str], samples: int, seed: int) -> Interval:
    """Mean of `values`, and the 2.5th and 97.5th percentile of its means when whole sources (clips) are drawn again with replacement.

    Questions on one clip stand and fall together, so the clip is what is drawn (Efron and Tibshirani 1993, chapter 8).
    """
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    times, numbers = drawn(sources, samples, seed), torch.tensor(values, dtype=torch.float64)
    return interval(float(numbers.mean()), times @ numbers / times.sum(1), len(values))


def wilson(right: bool, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `count` clips, one at least, are all right, or all wrong: the score interval (Wilson 1927)."""
    reach = Z**2 / (count + Z**2)
    return (1 - reach, 1.0) if right else (0.0, reach)


def drawn(sources: Sequence[str], samples: int, seed: int) -> Tensor:
    """How often each item is there (samples, items) float64 when whole sources are drawn again with replacement, as many as there are."""
    index = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(index), (samples, len(index)), generator=generator)
    times = torch.zeros(samples, len(index), dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    return times[:, torch.tensor([index[source] for source in sources])]


def interval(value: float, draws: Tensor, count: int) -> Interval:
    """value, and the 2.5th and 97.5th percentile of what the draws (samples) of the same gave."""
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high, count)


class BestGuess:
    """What the text alone gives away: per kind the best, on training questions, of four ways to answer without listening.

    words   the most frequent answer to the very same words, else `kind`
    kind    the most frequent answer to this kind of question
    first   the first of the kind's answers that the question names ("the bell or the rain"), else `kind`
    last    the last one, else `kind`

    Each training question is judged by the others (leave one out), so that remembered questions count for nothing.
    """

    def __init__(self, train: Iterable[tuple[str, str, str]]) -> None:
        """train: (kind, question, answer) of the training split."""
        asked = [(kind, normalise(question), normalise(answer)) for kind, question, answer in train]
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for kind, question, answer in asked:
            kinds[kind][answer] += 1
            words[kind, question][answer] += 1
        self.answers = {kind: frozenset(answers) for kind, answers in kinds.items()}
        self.by_kind = {kind: _best_two(answers) for kind, answers in kinds.items()}
        self.by_words = {key: _best_two(answers) for key, answers in words.items()}
        self.ways: dict[str, str] = {}
        self.named: dict[str, float] = {}  # mean of 1 / answers named, over questions that name theirs and another
        for kind in self.answers:
            mine = [(question, answer) for other, question, answer in asked if other == kind]
            scores = {
                way: sum(self._answer(way, kind, question, answer) == answer for question, answer in mine)
                for way in WAYS
            }
            self.ways[kind] = max(WAYS, key=lambda way: scores[way])
            choices = [
                len(found)
                for question, answer in mine
                if answer in (found := self._named(kind, question)) and len(found) > 1
            ]
            if len(choices) > 0.9 * len(mine):
                self.named[kind] = sum(1 / count for count in choices) / len(choices)

    def guess(self, kind: str, question: str) -> str:
        """An empty string for a kind that training has not seen."""
        return self._answer(self.ways[kind], kind, normalise(question), None) if kind in self.ways else ""

    def chance(self, kind: str) -> float:
        """Share right when drawing among the answers that the question names, or else among the kind's training answers; NaN for an unseen kind."""
        if kind not in self.answers:
            return float("nan")
        return self.named.get(kind, 1 / len(self.answers[kind]))

    def _answer(self, way: str, kind: str, question: str, left_out: str | None) -> str:
        if way == "words" and (answer := _best(self.by_words.get((kind, question), []), left_out)):
            return answer
        if way in ("first", "last") and (named := self._named(kind, question)):
            return named[0] if way == "first" else named[-1]
        return _best(self.by_kind[kind], left_out)

    def _named(self, kind: str, question: str) -> list[str]:
        """The kind's answers that stand in a question as whole words, in their order; not those inside a longer one."""
        if len(self.answers[kind]) > CHOICES:
            return []  # free text, not a choice
        text = f" {question} "
        places = {answer: text.find(f" {answer} ") for answer in self.answers[kind] if f" {answer} " in text}
        whole = [
            answer
            for answer in places
            if not any(answer != other and f" {answer} " in f" {other} " for other in places)
        ]
        return sorted(whole, key=lambda answer: places[answer])


WAYS = ("words", "kind", "first", "last")
CHOICES = 1000  # answers of a kind that is still a choice


def _best_two(answers: Counter[str]) -> list[tuple[str, int]]:
    """The two most frequent, the first in the alphabet among equals: no order of reading decides."""
    return heapq.nsmallest(2, answers.items(), key=lambda item: (-item[1], item[0]))


def _best(two: list[tuple[str, int]], left_out: str | None) -> str:
    """The most frequent when one `left_out` is taken away; empty where nothing is left."""
    left = [(-(count - (answer == left_out)), answer) for answer, count in two if count > (answer == left_out)]
    return min(left)[1] if left else ""
