"""Several recordings in a row in one text, each with its label: few-shot episodes to learn from, which UniAudio 2 (Yang et al.
2026, arXiv:2602.04683), who call them auditory sentences, found an LLM to need before it learns from examples.

The text is that of the stage `fewshot` (fewshot.py), and the recording itself its last one. Trained is each label of a class
that was named before. In a share of the texts the classes have names of other classes: what they are called there stands in
the examples alone.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from datamodules.cuts import Cut
from datamodules.fewshot import BEFORE, BEHIND, output, task
from datamodules.hashing import digest, in_share
from datamodules.language.conversations import CONTEXT, TEXT, Conversation, Turn, copies
from datamodules.store.index import CachedCuts

MOST_READ = 10_000  # cuts that examples are drawn from, evenly spread
TRIES = 16  # recordings of a class that are looked at beside those needed, for some of other sources than the last one


class Making(NamedTuple):
    """What a text is drawn from."""

    ways: int  # classes, 2 to so many
    shots: int  # recordings of a class before the last one, 1 to so many
    renamed: float  # share of the texts


class Example(NamedTuple):
    name: str  # of its class, in this text
    codes: list[int]


class ExampleTexts:
    """The texts whose last recording is a cut of the cache with one label; the others are of its corpus. What is drawn
    depends on the cut's id alone.

    weight: how often a cut is the last one in an epoch; weights: corpus -> factor of it, 1 for others. is_selected: says of
    which cuts there are texts; None: of all.
    """

    def __init__(
        self,
        cuts: CachedCuts,
        weight: float,
        making: Making,
        weights: Mapping[str, float] = {},
        is_selected: Callable[[Cut], bool] | None = None,
    ) -> None:
        self.cuts, self.weight, self.making, self.weights = cuts, weight, making, weights
        self.is_selected = is_selected
        self.classes: dict[str, dict[str, list[int]]] = {}  # corpus -> label -> numbers of cuts
        for number in range(0, len(cuts), max(1, -(-len(cuts) // MOST_READ))):
            cut = cuts[number]
            if (label := self._label(cut)) is not None:
                self.classes.setdefault(cut.custom["corpus"], {}).setdefault(label, []).append(number)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> list[Conversation]:
        cut = self.cuts[index]
        label = self._label(cut)
        count = copies(self.weight * self.weights.get(cut.custom["corpus"], 1.0), f"{cut.id}+")
        if label is None or not count:
            return []
        drawn = ((copy, self._examples(cut, label, f"{cut.id}+{copy}")) for copy in range(count))
        return [
            Conversation(f"{cut.id}-examples-{copy}", "examples", cut.custom["source"], [_text(examples)])
            for copy, examples in drawn
            if examples
        ]

    def digest(self) -> str:
        return digest(f"{self.cuts.digest()} {self.making}")

    def most_classes(self) -> int:
        """Of a corpus."""
        return max(map(len, self.classes.values()), default=0)

    def _label(self, cut: Cut) -> str | None:
        labels = cut.custom.get("labels") or []
        return labels[0] if len(labels) == 1 and (self.is_selected is None or self.is_selected(cut)) else None

    def _examples(self, cut: Cut, label: str, name: str) -> list[Example]:
        """In their order, the cut itself last; none where its corpus has no other class, or no recording of another source."""
        draw, classes = random.Random(name), self.classes.get(cut.custom["corpus"], {})
        others = sorted(set(classes) - {label})
        if not others:
            return []
        chosen = [label, *draw.sample(others, draw.randint(1, min(self.making.ways - 1, len(others))))]
        shots = draw.randint(1, self.making.shots)
        names = dict(zip(chosen, chosen, strict=True))
        if in_share(self.making.renamed, name):
            names = dict(zip(chosen, draw.sample(sorted(classes), len(chosen)), strict=True))
        examples: list[Example] = []
        for each in chosen:
            found = list(self._of_other_sources(cut, classes.get(each, []), shots, draw))
            if not found:
                return []
            examples += [Example(names[each], codes) for codes in found]
        draw.shuffle(examples)
        return [*examples, Example(names[label], list(cut.custom["codes"]))]

    def _of_other_sources(
        self, cut: Cut, numbers: Sequence[int], count: int, draw: random.Random
    ) -> Iterator[list[int]]:
        """Codes of so many recordings at most, each of another source than the cut."""
        for number in draw.sample(numbers, min(len(numbers), count + TRIES)):
            if count and (other := self.cuts[number]).custom["source"] != cut.custom["source"]:
                count -= 1
                yield list(other.custom["codes"])


def _text(examples: Sequence[Example]) -> list[Turn]:
    named: set[str] = set()
    turns: list[Turn] = [(CONTEXT, [task(sorted({example.name for example in examples}))])]
    for name, codes in examples:
        turns.append((CONTEXT, [BEFORE, codes, BEHIND]))
        turns.append((TEXT if name in named else CONTEXT, [output(name)]))
        named.add(name)
    return turns
