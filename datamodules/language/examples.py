"""Few-shot episodes as training data: several recordings in a row in one text, each with its label. UniAudio 2
(arXiv:2602.04683) trains on such texts too, for few-shot prompts did not work without them.

The text is that of the stage `fewshot` (fewshot.py), and the recording itself its last one. Trained is each label of a class
that was named before. In a share of the texts the names are drawn anew from the corpus' labels, and a class has its own by
chance alone: what it is called there stands in the examples.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.atomic_files import whole_file
from datamodules.cuts import Cut
from datamodules.fewshot import BEFORE, BEHIND, output, task
from datamodules.hashing import digest, hash_number, in_share
from datamodules.language.conversations import CONTEXT, TEXT, Conversation, Turn, copies
from datamodules.store.index import CachedCuts

NONE = -1  # the class of a cut with no label, or several


class Making(NamedTuple):
    """What a text is drawn from."""

    ways: int  # classes, 2 to so many
    shots: int  # recordings of a class before the last one, 1 to so many
    renamed: float  # share of the texts


class Classes(NamedTuple):
    """The labels of cuts that have one, 12 bytes a cut. A class is a label of a corpus."""

    names: list[tuple[str, str]]  # (corpus, label)
    of_cut: np.ndarray  # (cuts) int32: number of the class, NONE
    source: np.ndarray  # (cuts) uint64: hash of the cut's source

    def usable(self) -> list[int]:
        """Classes of two sources or more, of corpora that have two such classes or more: a text can end with each of their cuts."""
        pairs = np.unique(np.stack([self.of_cut.astype(np.uint64), self.source])[:, self.of_cut != NONE], axis=1)
        sources = np.bincount(pairs[0].astype(np.int64), minlength=len(self.names))
        several = [number for number, count in enumerate(sources) if count > 1]
        corpora = [self.names[number][0] for number in several]
        return [number for number in several if corpora.count(self.names[number][0]) > 1]


def read_classes(
    cuts: CachedCuts, is_selected: Callable[[Cut], bool] | None = None, file: Path | None = None
) -> Classes:
    """file: where they are kept, named by all that they depend on; what it holds is taken."""
    if file is not None and file.is_file():
        with np.load(file) as stored:
            names = [(corpus, label) for corpus, label in json.loads(str(stored["names"]))]
            return Classes(names, stored["of_cut"], stored["source"])
    numbers: dict[tuple[str, str], int] = {}
    of_cut, source = np.full(len(cuts), NONE, np.int32), np.zeros(len(cuts), np.uint64)
    for row, cut in enumerate(cuts):
        labels = cut.custom.get("labels") or []
        if len(labels) == 1 and (is_selected is None or is_selected(cut)):
            of_cut[row] = numbers.setdefault((cut.custom["corpus"], labels[0]), len(numbers))
            source[row] = hash_number(cut.custom["source"])
    classes = Classes(list(numbers), of_cut, source)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            np.savez(part, names=json.dumps(classes.names), of_cut=of_cut, source=source)
    return classes


class Example(NamedTuple):
    name: str  # of its class, in this text
    codes: list[int]


class ExampleTexts:
    """The texts whose last recording is a cut of the cache; the others are of its corpus and of other sources. What is drawn
    depends on the cut's id alone.

    weight: how often a cut is the last one in an epoch; weights: corpus -> factor of it, 1 for others. left_out: cuts with one
    label that no text can end with, as no other source has their label, or their corpus has no other such label.
    """

    def __init__(
        self, cuts: CachedCuts, classes: Classes, weight: float, making: Making, weights: Mapping[str, float] = {}
    ) -> None:
        self.cuts, self.classes, self.weight, self.making, self.weights = cuts, classes, weight, making, weights
        usable = classes.usable()
        self.left_out = int((classes.of_cut != NONE).sum() - np.isin(classes.of_cut, usable).sum())
        # by class: rows of its cuts; by corpus: its classes
        order = np.argsort(classes.of_cut, kind="stable")
        ends = np.searchsorted(classes.of_cut[order], [[number, number + 1] for number in usable])
        self.rows = {number: order[begin:end] for number, (begin, end) in zip(usable, ends.reshape(-1, 2), strict=True)}
        self.corpora: dict[str, list[int]] = {}
        for number in usable:
            self.corpora.setdefault(classes.names[number][0], []).append(number)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> list[Conversation]:
        number = int(self.classes.of_cut[index])
        if number not in self.rows:
            return []
        cut = self.cuts[index]
        return [
            Conversation(
                f"{cut.id}-examples-{copy}", "examples", cut.custom["source"], [_text(self._examples(cut, index, copy))]
            )
            for copy in range(copies(self.weight * self.weights.get(cut.custom["corpus"], 1.0), f"{cut.id}+"))
        ]

    def digest(self) -> str:
        return digest(f"{self.cuts.digest()} {self.making}")

    def _examples(self, cut: Cut, index: int, copy: int) -> list[Example]:
        """In their order, the cut itself last."""
        name = f"{cut.id}+{copy}"
        draw, own = random.Random(name), int(self.classes.of_cut[index])
        classes = self.corpora[cut.custom["corpus"]]
        others = [number for number in classes if number != own]
        chosen = [own, *draw.sample(others, draw.randint(1, min(self.making.ways - 1, len(others))))]
        shots, named = draw.randint(1, self.making.shots), chosen
        if in_share(self.making.renamed, name):
            named = draw.sample(classes, len(chosen))
        examples: list[Example] = []
        for number, other in zip(chosen, named, strict=True):
            rows = self.rows[number]
            rows = rows[self.classes.source[rows] != self.classes.source[index]]
            for row in draw.sample(range(len(rows)), min(shots, len(rows))):
                codes = list(self.cuts[int(rows[row])].custom["codes"])
                examples.append(Example(self.classes.names[other][1], codes))
        draw.shuffle(examples)
        return [*examples, Example(self.classes.names[named[0]][1], list(cut.custom["codes"]))]


def _text(examples: Sequence[Example]) -> list[Turn]:
    named: set[str] = set()
    turns: list[Turn] = [(CONTEXT, [task(sorted({example.name for example in examples}))])]
    for name, codes in examples:
        turns.append((CONTEXT, [BEFORE, codes, BEHIND]))
        turns.append((TEXT if name in named else CONTEXT, [output(name)]))
        named.add(name)
    return turns
