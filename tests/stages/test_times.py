"""Times in answers, from the corpus to the table: a stage adds them to a parent that has none, and its answers are scored."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import zygote

WORDS = (
    "run", "all", "--preset", "smoke", "--without", "tokenizer_mse", "--threads=1", "--diagnostic.extras=[grounding]",
    "--openaqa.timestamps.max_seconds=5", "--openaqa.kinds=[grounding]", "--openaqa.loss.time_weight=4", "--openaqa.loss.time_width=0.2",
    "--openaqa.timestamps.every=1", "--openaqa.optimizer.learning_rate=0", "--openaqa.embedding_learning_rate=0",
    "--evaluate.questions_per_kind=8", "--evaluate.captions=0", "--evaluate.examples.clips=0",
)  # fmt: skip


@pytest.mark.slow
def test_a_stage_adds_times_to_a_parent_without_and_its_answers_are_scored(tmp_path: Path) -> None:
    ended = zygote.run([*WORDS], tmp_path)
    assert ended.status == 0, ended.output
    runs = tmp_path / "runs/smoke"
    before, after = (load_file(runs / stage / "artifact/model.safetensors") for stage in ("caption", "openaqa"))
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)], tensor), "at a rate of 0 what the parent learned is as it was"
        assert len(after[name]) - len(tensor) == (51 if "new_rows" in name else 0)
    assert after[next(name for name in after if "new_rows" in name)][-51:].unique(dim=0).shape[0] == 51
    metrics = json.loads((runs / "openaqa/receipt.json").read_text())["metrics"]
    assert metrics["val/time_loss"] > 0 and "val/time_loss" not in (runs / "caption/receipt.json").read_text()
    report = json.loads((runs / "evaluate/artifact/report.json").read_text())
    assert set(report["localisation"]) == {"sound", "text", "guess"}
    scores = report["localisation"]["sound"]
    assert scores["event_f1"]["count"] == 8 == scores["mean_iou"]["count"] + scores["denied"]["count"]
    assert "## From when to when" in (runs / "evaluate/artifact/report.md").read_text()
    fewer = ("run", "text_to_sound", "--preset", "smoke", "--threads=1", "--timestamps.max_seconds=4")
    ended = zygote.run([*fewer], tmp_path)
    assert ended.status == 1 and "was trained with timestamps {'max_seconds': 5.0" in ended.stderr
    ended = zygote.run(["export", "--experiment", "smoke", "--after=openaqa", "--to", "exported"], tmp_path)
    assert ended.status == 1 and "was trained with timestamps.every=1.0" in ended.stderr
    assert not (tmp_path / "exported").exists()
