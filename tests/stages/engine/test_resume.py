"""An evaluation that was killed within its questions, within a batch, within a line. test_interruptions.py asks the same of each stage."""

import json
import re
import signal
from pathlib import Path

from tests.interrupt import interrupt


def test_killed_evaluation_asks_each_question_once(stage, tones: Path, whole: Path, capsys):
    words = [
        "--experiment=killed-evaluate",
        *(f"--parents.{parent}=whole" for parent in ("latents", "tokenizer", "cache", "openaqa")),
    ]
    interrupt(tones, "evaluate", 2, *words)
    answered = tones / "runs/killed-evaluate/evaluate/predictions-0.jsonl"
    early = len(answered.read_text().splitlines())
    assert stage("status", "--experiment=killed-evaluate") == 0
    assert re.search(rf"evaluate +partial +{early} rows", capsys.readouterr().out)
    assert (
        interrupt(tones, "evaluate", 1, *words, sent=signal.SIGTERM).status == 75
    )  # ends before the next batch, all written
    assert early < len(answered.read_text().splitlines())
    assert stage("run", "evaluate", *words) == 0
    rows = [
        json.loads(line)
        for line in (tones / "runs/killed-evaluate/evaluate/artifact/predictions.jsonl").read_text().splitlines()
    ]
    asked = [json.loads(line) for line in (whole / "evaluate/artifact/predictions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prediction"]) for row in rows] == [(row["id"], row["prediction"]) for row in asked]
    written = (tones / "runs/killed-evaluate/evaluate/predictions-0.jsonl").read_text().splitlines()
    assert len(written) == len(asked)


def test_killed_tasks_end_with_the_same_report_to_the_byte(stage, tones: Path, whole: Path):
    """Wherever it was killed, a batch is made of the same prompts: what is answered already is asked along."""
    words = [
        *(f"--parents.{parent}=whole" for parent in ("tokenizer", "cache", "openaqa")),
        "--tasks=[labels,labels-likelihood,questions,captions-plain]",
    ]
    assert stage("run", "evaluate", *words, "--experiment=tasks") == 0
    names = [*words, "--experiment=again"]
    interrupt(tones, "evaluate", 2, *names)
    written = tones / "runs/again/evaluate/predictions-0.jsonl"
    lines = written.read_text().splitlines(keepends=True)
    written.write_text("".join(lines[:-2]) + lines[-2][:20])  # within a batch, and within a line
    assert stage("run", "evaluate", *names) == 0
    for name in ("report.json", "report.md", "predictions.jsonl"):
        first, second = (tones / f"runs/{run}/evaluate/artifact/{name}" for run in ("tasks", "again"))
        assert first.read_text().replace("tasks:", "again:").replace(': "tasks"', ': "again"') == second.read_text()
    report = json.loads((tones / "runs/again/evaluate/artifact/report.json").read_text())
    assert report["failed"] == 0 and report["scored"] == report["expected"]
    assert report["tasks"].keys() == {"labels", "labels-likelihood", "questions", "captions-plain"}
