"""`evaluate` with audio-aware decoding: an answer and a score are those by hand, and report and receipt say so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.store import chunks
from models.language.likelihood import answer_scores
from models.language.vocabulary import Turn
from stages.runs import receipts
from tests.stages.cli.trained_run import QUESTION, answer, load_model


def test_what_is_answered_and_scored_is_contrasted_and_said(stage: Callable[..., int], whole: Path):
    words = [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "openaqa")]
    words += ["--tasks=[questions,labels-likelihood]", "--audio_contrast=2.5"]
    assert stage("run", "evaluate", "--experiment=contrasted", *words) == 0
    folder = whole.with_name("contrasted") / "evaluate"
    assert json.loads((folder / "artifact/report.json").read_text())["audio_contrast"] == 2.5
    receipt = receipts.read(folder)
    assert receipt is not None and receipt["metrics"]["audio_contrast"] == 2.5
    sentence = "audio_contrast=2.5: 3.5 log p(answer | sound) - 2.5 log p(answer | no sound)"
    for name in ("report.md", "report.html"):
        assert sentence in (folder / "artifact" / name).read_text()
        assert "audio_contrast" not in (whole / "evaluate/artifact" / name).read_text()

    model = load_model("runs", "runs/whole/openaqa")
    codes = {cut.id: list(cut.custom["codes"]) for cut in chunks.read(whole / "cache/chunks")}
    rows = [json.loads(line) for line in (folder / "artifact/predictions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["condition"] == "sound"]
    written = next(row for row in rows if row["question"] == QUESTION)
    scored = next(row for row in rows if row["task"] == "labels-likelihood")
    heard = [next(one for name, one in codes.items() if f":{name}" in row["id"]) for row in (written, scored)]
    assert written["prediction"] == answer(model, [Turn("user", [heard[0], f"\n{QUESTION}"])], 8, None, 2.5)
    turns = [Turn("user", [heard[1], f"\n{scored['question']}"])]
    expected = answer_scores(model.lm, model.vocabulary, turns, ["high", "low", "noise"], 2.5)
    assert scored["scores"] == pytest.approx(expected, abs=1e-2)
