"""python -m tests.benchmarks.reading: every reading rule on 100 answers of our own writing, against what a person reads in them.

`wrong`: answers in which the rule reads a label that a person does not. tests/data/answers.jsonl holds them with the reading expected of each rule.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from models.metrics.reading import RULES, Label, Reading, nearest
from stages import assets

ANSWERS = Path(__file__).parents[1] / "data" / "answers.jsonl"
LABELS = [
    Label("dog", ("puppy",)),
    Label("cat", ("kitten",)),
    Label("rain"),
    Label("acoustic guitar"),
    Label("guitar"),
    Label("church bells", ("church bell",)),
    Label("hip hop", ("hiphop",)),
    Label("mouse"),
]


def rows() -> list[dict[str, str | None]]:
    return [json.loads(line) for line in ANSWERS.read_text().splitlines()]


def main() -> None:
    embed = assets.load_sentences("all-MiniLM-L6-v2")

    def similarities(text: str, names: Sequence[str]) -> list[float]:
        return embed.cosines(text, names, "sound of {}")

    rules = {name: (lambda text, rule=rule: rule(text, LABELS)) for name, rule in RULES.items()}
    rules["nearest"] = lambda text: nearest(text, LABELS, similarities)
    print(f"{'rule':<12} {'as a person':>11} {'coverage':>9} {'wrong':>6}   not read, by reason")
    for name, rule in rules.items():
        read: list[Reading] = [rule(str(row["answer"])) for row in rows()]
        right = [one.label == row["person"] for one, row in zip(read, rows(), strict=True)]
        wrong = [
            row["answer"]
            for one, row in zip(read, rows(), strict=True)
            if one.label is not None and one.label != row["person"]
        ]
        reasons = [one.why for one in read if one.label is None]
        counts = ", ".join(f"{why} {reasons.count(why)}" for why in sorted(set(reasons)))
        print(f"{name:<12} {sum(right):>7} / {len(read)} {len(read) - len(reasons):>9} {len(wrong):>6}   {counts}")
        for answer in wrong:
            print(f"{'':<14}{answer!r}")


if __name__ == "__main__":
    main()
