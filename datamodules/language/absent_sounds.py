"""Sounds that a recording does not have, to ask about: any, those that are heard often, those often heard with its own.

The three ways of POPE (Li et al. 2023, arXiv:2305.10355), for the labels of a corpus. A model that names what is usual,
not what it hears, says yes to the second and to the third.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import Literal, get_args

from datamodules.cuts import Cut, questions
from datamodules.hashing import hash_number

Absent = Literal["random", "frequent", "cooccurring"]
ABSENT: tuple[Absent, ...] = get_args(Absent)
NEAREST = 5  # labels that one is drawn from, where they are ranked


class AbsentSounds:
    """What the labels of recordings say of what is usual."""

    def __init__(self, cuts: Iterable[Cut]) -> None:
        """cuts: of the training split."""
        self.counts: Counter[str] = Counter()
        self.together: dict[str, Counter[str]] = defaultdict(Counter)
        for cut in cuts:
            labels = sorted(set(labels_of(cut)))
            self.counts.update(labels)
            for label in labels:
                self.together[label].update(other for other in labels if other != label)

    def choose(self, labels: Sequence[str], way: Absent, name: str) -> str | None:
        """A label that is none of `labels`, drawn by the hash of the name; None where there is none in this way."""
        ranked = sorted(set(self.counts) - set(labels))
        if way == "frequent":
            ranked = nsmallest(NEAREST, ranked, key=lambda label: -self.counts[label])
        elif way == "cooccurring":
            near = {label: sum(self.together[own][label] for own in set(labels)) for label in ranked}
            ranked = nsmallest(NEAREST, (label for label in ranked if near[label]), key=lambda label: -near[label])
        return ranked[hash_number(f"{name}~{way}") % len(ranked)] if ranked else None


def labels_of(cut: Cut) -> list[str]:
    return list(cut.custom.get("labels") or [])


def presence_questions(cuts: Iterable[Cut], kind: str = "presence") -> dict[str, list[str]]:
    """label -> the questions of this kind that the corpus asks about recordings with that label alone, and answers with
    yes: about another recording they ask whether it has that label.
    """
    asked: dict[str, set[str]] = defaultdict(set)
    for cut in cuts:
        if len(labels := set(labels_of(cut))) == 1:
            texts = {one.custom["question"] for one in questions(cut, [kind]) if one.custom["answer"] == "yes"}
            asked[labels.pop()] |= texts
    return {label: sorted(texts) for label, texts in sorted(asked.items()) if texts}
