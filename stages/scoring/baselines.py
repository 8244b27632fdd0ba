"""What needs no ears: chance, the majority label, the best text-only guess, and blind ways to choose."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

from conf.sections.tasks import EvaluationTask
from stages.scoring.answer_reader import matches
from stages.scoring.answer_rows import Row
from stages.scoring.best_guess import BestGuess
from stages.scoring.english import key_among
from stages.scoring.intervals import bootstrap

BLIND: dict[str, Callable[[Sequence[str]], str]] = {
    "always_first": lambda choices: choices[0],
    "always_longest": lambda choices: max(choices, key=len),
}


def label_baselines(
    task: EvaluationTask,
    rows: Sequence[Row],
    labels: Sequence[str],
    train: Sequence[tuple[str, str, str]],
    samples: int,
    seed: int,
) -> Row:
    """Chance, and the most frequent label of the training split, or of a corpus that is all test.

    train: (kind, question, answer). Chance of the average precision: the mean share of positives, above which few clips
    lie even without any skill: what the LLM scores with another clip's sound is the fairer floor.
    """
    key = key_among(labels)
    if "mean_average_precision" in task.metrics:
        given = [[key(name) for name in row["references"]] for row in rows]
        names = {name for keys in given for name in keys}
        shares = [sum(name in keys for keys in given) / len(given) for name in names]
        return {"chance": sum(shares) / len(shares) if shares else math.nan}
    counts = Counter(key(answer) for kind, _, answer in train if kind == "label")
    split = "train" if counts else "test"
    counts = counts or Counter(key(row["references"][0]) for row in rows)
    majority = min(counts, key=lambda name: (-counts[name], name)) if counts else ""
    right = [key(row["references"][0]) == majority for row in rows]
    return {
        "chance": 1 / len(labels) if labels else math.nan,
        "majority": _share(right, rows, samples, seed) | {"label": majority, "of": split},
    }


def question_baselines(rows: Sequence[Row], guess: BestGuess, samples: int, seed: int) -> Row:
    """Chance among the choices or the kind's answers, the best text-only guess of the training split, and blind ways to
    choose.
    """
    chances = [
        1 / len(set(map(key_among(row["choices"]), row["choices"])))
        if row.get("choices")
        else guess.chance(row["kind"])
        for row in rows
    ]
    baselines: Row = {"chance": sum(chances) / len(chances) if chances else math.nan}
    if guess.strategies:  # a file of predictions comes without training questions
        guessed = [matches(guess.guess(row["kind"], row["question"]), row) for row in rows]
        baselines["best_guess"] = _share(guessed, rows, samples, seed)
    if rows and all(row.get("choices") for row in rows):
        for name, choose in BLIND.items():
            baselines[name] = _share([matches(choose(row["choices"]), row) for row in rows], rows, samples, seed)
    return baselines


def _share(right: Sequence[bool], rows: Sequence[Row], samples: int, seed: int) -> Row:
    return asdict(bootstrap(right, [row["source"] for row in rows], samples, seed))
