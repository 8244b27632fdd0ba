"""Accuracy by kind of question, by exact match, beside what needs no ears."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.scoring.best_guess import BestGuess
from stages.scoring.exact_match import is_right
from stages.scoring.intervals import bootstrap


def question_accuracy(
    predictions: Sequence[Mapping[str, Any]], guess: BestGuess, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """By kind: with the sound, without it, the best text-only guess, chance, and whether the interval lies above the
    two before.

    predictions: {id, source, kind, question, answer, condition, prediction}; condition "sound" or "text".
    """
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({row["kind"] for row in predictions}):
        rows = {
            condition: [row for row in predictions if row["kind"] == kind and row["condition"] == condition]
            for condition in ("sound", "text")
        }
        sources = {condition: [row["source"] for row in part] for condition, part in rows.items()}
        scores = {
            condition: bootstrap(
                [is_right(row["prediction"], row["answer"]) for row in part], sources[condition], samples, seed
            )
            for condition, part in rows.items()
        }
        guessed = [is_right(guess.guess(kind, row["question"]), row["answer"]) for row in rows["sound"]]
        best_guess = bootstrap(guessed, sources["sound"], samples, seed)
        table[kind] = {
            "with_sound": asdict(scores["sound"]),
            "without_sound": asdict(scores["text"]),
            "best_guess": asdict(best_guess),
            "chance": guess.chance(kind),
            "above_both": scores["sound"].low > max(scores["text"].value, best_guess.value),
        }
    return table
