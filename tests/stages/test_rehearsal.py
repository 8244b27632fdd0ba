"""The LLM's own texts: written once whatever was killed, by any number of processes, and mixed into the language stages."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

import conf
from stages.rehearsal import Rehearsal
from stages.runs import graph

PARENTS = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache", "caption")]


def module(folder: Path, *overrides: str) -> Rehearsal:
    made = conf.compose("rehearsal", ["smoke"], [], list(overrides)).conf
    return Rehearsal("rehearsal", made, {}, folder)


def test_texts_begin_with_their_openings_and_hang_on_no_company(tmp_path: Path):
    writer = module(tmp_path, "texts=6", "batch_size=6", "openings=[A dog,If,The]", "max_tokens=24")
    together = writer.write(range(6))
    assert [text.startswith(head) for text, head in zip(together, 2 * ["A dog", "If", "The"], strict=True)] == 6 * [
        True
    ]
    assert together == [text for number in range(6) for text in writer.write(range(number, number + 1))]
    assert len(set(together)) == 6
    other = module(tmp_path, "texts=6", "batch_size=6", "openings=[A dog,If,The]", "max_tokens=24", "seed=1")
    assert not set(together) & set(other.write(range(6)))


def test_what_was_written_before_a_kill_stays_and_the_rest_is_the_same(stage, tones: Path):
    assert stage("run", "rehearsal", "--experiment=rehearsed") == 0
    run = tones / "runs/rehearsed/rehearsal"
    whole_texts = (run / "artifact/texts.jsonl").read_bytes()
    assert len(whole_texts.splitlines()) == 12
    (run / "receipt.json").unlink()
    rows = (run / "predictions-0.jsonl").read_text().splitlines(keepends=True)
    assert len(rows) > 1
    (run / "predictions-0.jsonl").write_text("".join(rows[:-1]) + rows[-1][:20])
    assert stage("run", "rehearsal", "--experiment=rehearsed") == 0
    assert (run / "artifact/texts.jsonl").read_bytes() == whole_texts
    assert (run / "predictions-0.jsonl").read_text() == "".join(rows)


@pytest.mark.parametrize("loss", ["distillation", "cross_entropy"])
def test_a_language_stage_mixes_them_in(stage, tones: Path, whole: Path, loss: str, monkeypatch, capsys):
    logged: dict[str, list[float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            logged.setdefault(name, []).append(value)

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log_metrics)
    words = [f"--experiment=mixed-{loss}", "--mixture.text=3", f"--text.loss={loss}", *PARENTS]
    assert stage("run", "openaqa", *words) == 1
    assert "openaqa needs rehearsal" in capsys.readouterr().err
    assert stage("run", "rehearsal", f"--experiment=mixed-{loss}") == 0
    assert stage("run", "openaqa", *words) == 0
    receipt = json.loads((tones / f"runs/mixed-{loss}/openaqa/receipt.json").read_text())
    written = json.loads((tones / f"runs/mixed-{loss}/rehearsal/receipt.json").read_text())
    assert receipt["parents"]["rehearsal"] == written["artifact_hash"]
    kept = [value for value in logged["train/distillation_loss"] if value == value]
    assert bool(kept) == (loss == "distillation")


def test_nobody_reads_it_where_no_text_is_mixed_in(tones: Path):
    confs = {name: conf.compose(name, ["smoke"]).conf for name in ("latents", "caption", "openaqa")}
    assert "rehearsal" in graph.unused(confs)
    mixed = {name: conf.compose(name, ["smoke"], [], ["mixture.text=1"]).conf for name in ("caption", "openaqa")}
    assert "rehearsal" not in graph.unused(confs | mixed)
    files = conf.compose("caption", ["smoke"], [], ["mixture.text=1", "text.files=[mine.jsonl]"]).conf
    assert "rehearsal" not in graph.required("caption", files)
