"""Killed anywhere and started again, a stage ends with the same bytes as one that was not."""

import json
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from datamodules.store import chunks
from tests.interrupt import interrupt


@pytest.mark.parametrize(("name", "batches"), [("tokenizer", 7), ("tokenizer_mse", 10), ("caption", 6), ("openaqa", 9)])
def test_killed_and_resumed_training_equals_the_undisturbed_run(
    stage, tones: Path, whole: Path, name: str, batches: int
):
    words = [
        f"--experiment=killed-{name}",
        *(f"--parents.{parent}=whole" for parent in ("latents", "tokenizer", "cache", "caption") if parent != name),
    ]
    interrupt(tones, name, batches, *words)
    run = tones / "runs" / f"killed-{name}" / name
    assert not (run / "receipt.json").exists()
    assert list((run / "checkpoints").glob("step-*.ckpt")), "it was killed before its first checkpoint"
    assert stage("run", name, *words) == 0

    before, after = (
        load_file(whole / name / "artifact/model.safetensors"),
        load_file(run / "artifact/model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)
    receipts = [json.loads((folder / "receipt.json").read_text()) for folder in (whole / name, run)]
    assert receipts[0]["artifact_hash"] == receipts[1]["artifact_hash"] or receipts[0]["conf"] != receipts[1]["conf"]


def test_killed_cache_holds_every_recording_exactly_once(stage, tones: Path, whole: Path):
    words = ["--experiment=killed-cache", "--parents.latents=whole", "--parents.tokenizer=whole"]
    interrupt(tones, "cache", 2, *words)
    folder = tones / "runs/killed-cache/cache/chunks"
    finished = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert 0 < len(finished) < 3
    assert stage("run", "cache", *words) == 0
    cuts, expected = chunks.read(folder), chunks.read(whole / "cache/chunks")
    assert set(Counter(cut.id for cut in cuts).values()) == {1}
    assert [(cut.id, cut.custom["codes"]) for cut in cuts] == [(cut.id, cut.custom["codes"]) for cut in expected]


def test_killed_latents_equal_the_undisturbed_ones(stage, tones: Path, whole: Path):
    interrupt(tones, "latents", 2, "--experiment=killed-latents")
    assert stage("run", "latents", "--experiment=killed-latents") == 0
    cuts, expected = (chunks.read(folder / "latents/chunks") for folder in (tones / "runs/killed-latents", whole))
    assert [cut.id for cut in cuts] == [cut.id for cut in expected]
    assert all(
        (chunks.load_array(mine) == chunks.load_array(other)).all() for mine, other in zip(cuts, expected, strict=True)
    )


def test_killed_evaluation_asks_each_question_once(stage, tones: Path, whole: Path, capsys):
    words = [
        "--experiment=killed-evaluate",
        *(f"--parents.{parent}=whole" for parent in ("latents", "tokenizer", "cache", "openaqa")),
    ]
    interrupt(tones, "evaluate", 2, *words)
    answered = tones / "runs/killed-evaluate/evaluate/predictions-0.jsonl"
    early = len(answered.read_text().splitlines())
    assert stage("status", "--experiment=killed-evaluate") == 0
    assert re.search(rf"evaluate +partial +{early} answers", capsys.readouterr().out)
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
