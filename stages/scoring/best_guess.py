"""The best text-only guess: what a model without ears can reach (compare CLEVR's Q-type baselines, Johnson et al. 2017,
arXiv:1612.06890).

No torch here.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

from stages.scoring.english import label_key

STRATEGIES = ("words", "kind", "first", "last")
MAX_CHOICES = 1000  # answers of a kind of question that is still a choice, and not free text


class BestGuess:
    """Per kind of question the best, on training questions, of four ways to answer without listening.

    words   the most frequent answer to the very same words, else `kind`
    kind    the most frequent answer to this kind of question
    first   the first of the kind's answers that the question names ("the bell or the rain"), else `kind`
    last    the last one, else `kind`

    Each training question is judged by the others (leave one out), so that remembered questions count for nothing.
    """

    def __init__(self, train: Iterable[tuple[str, str, str]]) -> None:
        """train: (kind, question, answer) of the training split."""
        asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
        words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for kind, *texts in train:
            question, answer = map(label_key, texts)
            asked[kind].append((question, answer))
            words[kind, question][answer] += 1
        kinds = {kind: Counter(answer for _, answer in pairs) for kind, pairs in asked.items()}
        self.answers = {kind: frozenset(answers) for kind, answers in kinds.items()}
        self.by_kind = {kind: _best_two(answers) for kind, answers in kinds.items()}
        self.by_words = {key: _best_two(answers) for key, answers in words.items()}
        self.strategies: dict[str, str] = {}
        self.named: dict[str, float] = {}  # mean of 1 / answers named, over questions that name theirs and another
        for kind, pairs in asked.items():
            named = {question: self._named(kind, question) for question, _ in pairs}  # up to 1,000 searches: once
            scores = {
                strategy: sum(
                    self._answer(strategy, kind, question, named[question], answer) == answer
                    for question, answer in pairs
                )
                for strategy in STRATEGIES
            }
            self.strategies[kind] = max(STRATEGIES, key=lambda strategy: scores[strategy])
            choices = [
                len(named[question]) for question, answer in pairs
                if answer in named[question] and len(named[question]) > 1
            ]  # fmt: skip
            if len(choices) > 0.9 * len(pairs):
                self.named[kind] = sum(1 / count for count in choices) / len(choices)

    def guess(self, kind: str, question: str) -> str:
        """An empty string for a kind that training has not seen."""
        if kind not in self.strategies:
            return ""
        question = label_key(question)
        return self._answer(self.strategies[kind], kind, question, self._named(kind, question), None)

    def chance(self, kind: str) -> float:
        """Share right when drawing among the answers that the question names, or else among the kind's training
        answers; NaN for an unseen kind.
        """
        if kind not in self.answers:
            return float("nan")
        return self.named.get(kind, 1 / len(self.answers[kind]))

    def _answer(self, strategy: str, kind: str, question: str, named: list[str], left_out: str | None) -> str:
        if strategy == "words" and (answer := _best(self.by_words.get((kind, question), []), left_out)):
            return answer
        if strategy in ("first", "last") and named:
            return named[0] if strategy == "first" else named[-1]
        return _best(self.by_kind[kind], left_out)

    def _named(self, kind: str, question: str) -> list[str]:
        """The kind's answers that stand in a question as whole words, in their order; not those inside a longer one."""
        if len(self.answers[kind]) > MAX_CHOICES:
            return []
        text = f" {question} "
        positions = {answer: text.find(f" {answer} ") for answer in self.answers[kind] if f" {answer} " in text}
        whole = [
            answer
            for answer in positions
            if not any(answer != other and f" {answer} " in f" {other} " for other in positions)
        ]
        return sorted(whole, key=lambda answer: positions[answer])


def _best_two(answers: Counter[str]) -> list[tuple[str, int]]:
    """The two most frequent, the first in the alphabet among equals: no order of reading decides."""
    return heapq.nsmallest(2, answers.items(), key=lambda item: (-item[1], item[0]))


def _best(two: list[tuple[str, int]], left_out: str | None) -> str:
    """The most frequent when one `left_out` is taken away; empty where nothing is left."""
    left = [(-(count - (answer == left_out)), answer) for answer, count in two if count > (answer == left_out)]
    return min(left)[1] if left else ""
