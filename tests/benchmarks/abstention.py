"""Does an LLM learn to say that it does not hear what it is asked about? Coverage against accuracy, before and after.

    python -m tests.benchmarks.abstention --tokens runs/demo [--arms before without with] [--steps 150] [--questions 150]

In the current folder (data/, runs/): renders the embedded corpus with the extra `unanswerable` (data/abstention: the scenes
of the demo, and a question of each that it does not answer, in the words of those that it does) and codes it by the tokenizer of
--tokens (runs/abstention/cache). Two arms go on from the `openaqa` of that run (runs/abstention-ARM); all are asked by the stage
`evaluate`. What is done is not done again. Percent, 95 % intervals by scene.

before   the LLM as it is
without  trained on for --steps with all kinds of questions that have an answer: the control
with     and with those that have none

Coverage is the share of the answerable questions that are answered; accuracy that of all answers, those to unanswerable
questions being wrong; `says so` the share of the unanswerable questions to which the LLM says that it is not heard. The curve:
the same where the LLM says so by its own probability too, of the answers whose logarithm of it lies below the level that leaves the
coverage named.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from datamodules.diagnostic.wordings import NOT_HEARD, WORDINGS
from datamodules.evaluation_items import question_items
from datamodules.store import chunks
from models.language.likelihood import text_scores
from models.language.vocabulary import Turn
from stages.hub import language_model
from stages.reports.formatting import ABSENT, markdown_table, percent_interval
from stages.runs import receipts
from stages.scoring.abstention import UNANSWERABLE, abstention
from stages.scoring.exact_match import is_right
from tests.benchmarks.chain import run, stage
from tests.benchmarks.presence import autocast

BEFORE, WITHOUT, WITH = "before", "without", "with"
KINDS = list(dict.fromkeys(wording.split()[0] for wording in WORDINGS))
SHARES = {"answered": "coverage", "accuracy": "accuracy", "abstained": "says so"}
CACHE = Path("runs/abstention/cache")
Rows = Sequence[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FOLDER", help="experiment: tokenizer, openaqa")
    parser.add_argument("--arms", nargs="+", choices=[BEFORE, WITHOUT, WITH], default=[BEFORE, WITHOUT, WITH])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--questions", type=int, default=150, help="of each kind that are asked, at most")
    parser.add_argument("--coverage", type=int, nargs="+", default=[100, 90, 75, 50], help="percent, of the curve")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], help="for what is trained, as trainer.precision=32-true")
    options = parser.parse_args()
    _prepare(options)
    shares, curve, by_kind = [], [], {}
    for arm in options.arms:
        model = _model(options, arm)
        report, rows = _ask(options, arm, model)
        heard, unheard = (_under(rows, condition) for condition in ("sound", "text"))
        for name, part in ((arm, heard), (f"{arm}, without the sound", unheard)):
            shares.append([name, *_shares(part)])
            print(" | ".join(shares[-1]), flush=True)
        curve += [[arm, *row] for row in _curve(heard, _confidences(options, model, heard), options.coverage)]
        by_kind[arm] = {kind: row["with_sound"] for kind, row in report["questions"].items()}
    spent = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{len(heard)} questions of the sound; {spent:.0f} processor seconds of what was not done before")
    print("\n".join(markdown_table(["", *SHARES.values()], shares)), "\n")
    print("\n".join(markdown_table(["by its own probability", "at", *SHARES.values()], curve)), "\n")
    table = [
        [kind, one["count"], *(percent_interval(each[kind]) for each in by_kind.values())]
        for kind, one in by_kind[options.arms[0]].items()
    ]
    print("\n".join(markdown_table(["accuracy by kind", "questions", *options.arms], table)))


def _shared(options: argparse.Namespace) -> tuple[str, ...]:
    tokenizer = f"--parents.tokenizer={options.tokens / 'tokenizer'}"
    return ("--preset", options.preset, "--data.root=data/abstention", "--threads=1", tokenizer)


def _prepare(options: argparse.Namespace) -> None:
    if not (CACHE / receipts.FILE).is_file():
        root = ("--preset", options.preset, "--data.root=data/abstention")
        stage("prepare", "diagnostic", *root, f"--extras=[{UNANSWERABLE}]")
    run("cache", CACHE.parent.name, *_shared(options))


def _model(options: argparse.Namespace, arm: str) -> Path:
    """The run of `openaqa` of an arm, made if there is none."""
    start = options.tokens / "openaqa"
    if arm == BEFORE:
        return start
    name, kinds = f"abstention-{arm}", [*KINDS, *([UNANSWERABLE] if arm == WITH else [])]
    run(
        "openaqa", name, *_shared(options), f"--parents.cache={CACHE.parent.name}", f"--init_from={start}", f"--kinds=[{','.join(kinds)}]",
        "--mixture.text=0", f"--trainer.max_steps={options.steps}", f"--trainer.val_check_interval={options.steps}",
        *(f"--{word}" for word in options.set),
    )  # fmt: skip
    return Path("runs") / name / "openaqa"


def _ask(options: argparse.Namespace, arm: str, model: Path) -> tuple[dict[str, Any], Rows]:
    """What the stage `evaluate` reports, and its answers."""
    name = f"abstention-{arm}"
    run(
        "evaluate", name, *_shared(options), f"--parents.cache={CACHE.parent.name}", f"--parents.openaqa={model}",
        f"--kinds=[{','.join([*KINDS, UNANSWERABLE])}]", f"--questions_per_kind={options.questions}", "--captions=0",
        "--examples.after=null", "--examples.clips=0",
    )  # fmt: skip
    artifact = Path("runs") / name / "evaluate/artifact"
    with (artifact / "predictions.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    return json.loads((artifact / "report.json").read_text()), rows


def _under(rows: Rows, condition: str) -> Rows:
    """As `abstention` reads them, of one condition, in place of the sound's."""
    chosen = [row for row in rows if row["condition"] == condition]
    return [
        row | {"condition": "sound", "answer": row["references"][0], "prediction": row["prediction"] or ""}
        for row in chosen
    ]


def _shares(rows: Rows) -> list[str]:
    shares = abstention(rows, 1000, 0)
    if shares is None:
        raise SystemExit("no unanswerable question was asked")
    return [percent_interval(shares[name]) for name in SHARES]


def _confidences(options: argparse.Namespace, run: Path, rows: Rows) -> list[float]:
    """The logarithm of the probability of each answer, in nats, as the LLM that wrote it finds it."""
    model, vocabulary = language_model.load(run / "artifact")
    cuts = chunks.read(CACHE / "chunks").of_split("test")
    asked = {item.id: item for item in question_items(cuts, options.questions, [*KINDS, UNANSWERABLE])}
    found: dict[str, float] = {}
    with autocast(model, run):
        for _, group in groupby(sorted(rows, key=lambda row: row["source"]), key=lambda row: row["source"]):
            of_scene = list(group)  # its sound is read once
            conversations = [
                [Turn("user", asked[row["id"]].turns[0][1]), Turn("assistant", [row["prediction"]])] for row in of_scene
            ]
            scores = text_scores(model.lm, vocabulary, conversations)
            found |= {row["id"]: score for row, score in zip(of_scene, scores, strict=True)}
    return [found[row["id"]] for row in rows]


def _curve(rows: Rows, confidences: Sequence[float], coverage: Sequence[int]) -> list[list[str]]:
    """A row for each of `coverage`, in percent; without numbers where less is answered anyway."""
    answerable = [row["kind"] != UNANSWERABLE for row in rows]
    answered = sorted(
        (
            confidence
            for row, confidence, one in zip(rows, confidences, answerable, strict=True)
            if one and not is_right(row["prediction"], NOT_HEARD)
        ),
        reverse=True,
    )
    table = []
    for percent in coverage:
        count = max(1, percent * sum(answerable) // 100)
        if count > len(answered):
            table.append([f"{percent}", *[ABSENT] * len(SHARES)])
            continue
        level = answered[count - 1]
        sure = [
            row if confidence >= level else row | {"prediction": NOT_HEARD}
            for row, confidence in zip(rows, confidences, strict=True)
        ]
        table.append([f"{percent}", *_shares(sure)])
    return table


if __name__ == "__main__":
    main()
