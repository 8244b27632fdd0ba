"""When something is heard, guessed from the question's text alone: the answer in training that overlaps most with the others."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from datamodules.hashing import choose_by_hash
from stages.scoring.english import label_key
from stages.scoring.localisation import spans

MOST = 500  # training answers to the same words that are compared with each other
STEP = 10  # hundredths of a second, in which overlaps are counted


class SpanGuess:
    """Question -> a training answer to the very same words, or to the same kind of question where those were never asked."""

    def __init__(self, train: Iterable[tuple[str, str, str]]) -> None:
        """train: (kind, question, answer) of the training split; those of kinds of which an answer has a span count."""
        answers: dict[tuple[str, str], list[str]] = defaultdict(list)
        for kind, question, answer in train:
            for words in (label_key(question), ""):
                answers[kind, words].append(answer)
        timed = {kind for (kind, words), texts in answers.items() if not words and any(map(spans, texts))}
        self.guesses = {key: _central(texts) for key, texts in answers.items() if key[0] in timed}

    def __call__(self, kind: str, question: str) -> str:
        """An empty string for a kind without spans."""
        return self.guesses.get((kind, label_key(question)), self.guesses.get((kind, ""), ""))


def _central(answers: Sequence[str]) -> str:
    """The one with the highest mean intersection over union with all; one without a span where most have none."""
    without = [answer for answer in answers if not spans(answer)]
    if len(without) > len(answers) / 2:
        return without[0]
    candidates = choose_by_hash(sorted(set(answers) - set(without)), MOST, str)
    each = [spans(answer) for answer in candidates]
    covered = torch.zeros(len(candidates), 1 + max(span.end for pairs in each for span in pairs) // STEP)
    for row, pairs in zip(covered, each, strict=True):
        for span in pairs:
            row[span.start // STEP : -(-span.end // STEP)] = 1
    both, sizes = covered @ covered.T, covered.sum(1)
    return candidates[int((both / (sizes[:, None] + sizes - both)).double().mean(1).argmax())]
