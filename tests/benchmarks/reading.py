"""python -m tests.benchmarks.reading: every reading rule on 100 answers of our own writing, against what a person reads in them.

`wrong`: answers in which the rule reads a label that a person does not. tests/data/answers.jsonl holds them with the reading expected of each rule; on
them the rules were mended. On the 40 of answers_held_out.jsonl, written after the last change to a rule, they were not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stages.hub import weights
from stages.scoring.reading_rules import RULES, Label, Reading, nearest

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


HELD_OUT = ANSWERS.with_name("answers_held_out.jsonl")


def rows(path: Path = ANSWERS) -> list[dict[str, str | None]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    embed = weights.load_sentences("all-MiniLM-L6-v2")

    def similarities(text: str, names: Sequence[str]) -> list[float]:
        return embed.cosines(text, names, "sound of {}")

    rules = {name: (lambda text, rule=rule: rule(text, LABELS)) for name, rule in RULES.items()}
    rules["nearest"] = lambda text: nearest(text, LABELS, similarities)
    for path in (ANSWERS, HELD_OUT):
        print(path.name)
        _table(rules, rows(path))


def _table(rules: Mapping[str, Callable[[str], Reading]], answers: Sequence[Mapping[str, str | None]]) -> None:
    print(f"{'rule':<12} {'as a person':>11} {'read':>5} {'wrong':>6}   not read, by reason")
    for name, rule in rules.items():
        read = [rule(str(row["answer"])) for row in answers]
        right = sum(one.label == row["person"] for one, row in zip(read, answers, strict=True))
        wrong = [row for one, row in zip(read, answers, strict=True) if one.label not in (None, row["person"])]
        reasons = [one.why for one in read if one.label is None]
        counts = ", ".join(f"{why} {reasons.count(why)}" for why in sorted(set(reasons)))
        print(f"{name:<12} {right:>5} / {len(read):<3} {len(read) - len(reasons):>5} {len(wrong):>6}   {counts}")
        for row in wrong:
            print(f"{'':<14}{row['answer']!r}")


if __name__ == "__main__":
    main()
