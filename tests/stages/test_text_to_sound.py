"""Stage `text_to_sound`: a second adapter that writes sound, beside openaqa's, which hears; who reads it, and who does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import conf
from conf.errors import UsageError
from datamodules.generation import caption_of, label_of
from datamodules.store import chunks
from models.language.vocabulary import IGNORED, LabelKind, Turn
from stages import STAGES
from stages.cli.main import main
from stages.hub import find_model, text_to_sound, trained_model
from stages.launch import corpus_contents
from stages.runs import graph, receipts
from tests.conftest import SMOKE

PARENTS = [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "openaqa")]


@pytest.fixture(scope="session")
def spoken(tones: Path, copy_of_whole) -> Path:
    """An experiment whose stages are all done, and this one."""
    folder = copy_of_whole("spoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tones)
        assert main(["run", "text_to_sound", "--experiment=spoken", *SMOKE]) == 0
    return folder


def test_it_goes_on_from_openaqas_adapter_and_leaves_it(stage, tones: Path, whole: Path, spoken: Path):
    words = ["--experiment=unmoved", *PARENTS, "--optimizer.learning_rate=0", "--embedding_learning_rate=0"]
    assert stage("run", "text_to_sound", *words, "--trainer.max_steps=1", "--trainer.val_check_interval=1") == 0
    start, hears, unmoved, writes = (
        load_file(folder / "artifact/model.safetensors")
        for folder in (
            whole / "openaqa", spoken / "openaqa", tones / "runs/unmoved/text_to_sound", spoken / "text_to_sound",
        )
    )  # fmt: skip
    assert start.keys() == unmoved.keys() and all(torch.equal(start[name], unmoved[name]) for name in start)
    assert all(torch.equal(start[name], hears[name]) for name in start)
    assert all(not torch.equal(start[name], writes[name]) for name in start)
    receipt = receipts.read(spoken / "text_to_sound")
    assert receipt and set(receipt["parents"]) == {"tokenizer", "cache", "openaqa"}
    assert receipt["metrics"]["val/caption_gap"] is not None and receipt["metrics"]["val/text_loss"] is not None


def test_sound_is_written_by_it_and_questions_are_answered_by_openaqa(stage, whole: Path, spoken: Path):
    """The page's sounds and its caption gap are of the one, the answers of the other."""
    assert stage("run", "evaluate", "--experiment=spoken", "--examples.after=text_to_sound", "--restart") == 0
    made, plain = (json.loads((run / "evaluate/artifact/report.json").read_text()) for run in (spoken, whole))
    assert made["questions"] == plain["questions"] and made["captions"] == plain["captions"]
    writes = receipts.read(spoken / "text_to_sound")
    assert writes and made["caption_gap"]["nats"] == writes["metrics"]["val/caption_gap"]
    assert made["caption_gap"] != plain["caption_gap"]
    receipt = receipts.read(spoken / "evaluate")
    assert receipt and receipt["parents"]["text_to_sound"] == writes["artifact_hash"]
    page = (spoken / "evaluate/artifact/report.html").read_text()
    assert page.count("<figcaption>written, ") == 1
    runs = str(spoken.parent)
    assert find_model.find(runs, "main", "spoken", None).language == spoken / "openaqa"
    assert find_model.find(runs, "main", "spoken", None, writes=True).language == spoken / "text_to_sound"
    assert find_model.find(runs, "main", "whole", None, writes=True).language == whole / "openaqa"
    for writes in (False, True):
        assert find_model.find(runs, "main", None, str(spoken / "text_to_sound"), writes=writes).language == (
            spoken / "text_to_sound"
        )


def test_it_is_made_where_a_configuration_asks_for_it():
    def asked(*overrides: str) -> bool:
        confs = {name: conf.compose(name, [], [], overrides, True).conf for name in ("generation", "evaluate")}
        return "text_to_sound" not in graph.unused(confs)

    assert not asked() and asked("evaluate.examples.after=text_to_sound") and asked("generation.after=text_to_sound")
    demo = conf.compose("evaluate", ["demo"]).conf
    assert graph.required("evaluate", demo) == ("tokenizer", "cache", "openaqa", "text_to_sound")
    alone = conf.compose("evaluate", ["demo"], [], ["after=text_to_sound"]).conf
    assert graph.required("evaluate", alone) == ("tokenizer", "cache", "text_to_sound")
    generation = conf.compose("generation", ["demo"]).conf
    assert graph.required("generation", generation) == ("tokenizer", "cache", "text_to_sound")
    chosen = conf.compose("generation", ["demo"], [], ["best_of=16"]).conf
    assert graph.required("generation", chosen) == ("tokenizer", "cache", "text_to_sound", "openaqa")


def test_a_corpus_without_captions_is_told_how_to_do_without_it():
    words = ["data.corpora=labels", "evaluate.examples.after=text_to_sound"]
    confs = {stage: conf.compose(stage, ["smoke"], [], words, True).conf for stage in STAGES if stage != "vae"}
    contents = {"train": {"recordings": 9, "captions": 0, "questions": {"class": 9}, "conversations": 0}}
    contents |= dict.fromkeys(("validation", "test"), contents["train"])
    with pytest.raises(
        UsageError, match=r"text_to_sound: .*column caption.* --evaluate\.examples\.after=null does without"
    ):
        corpus_contents.check({"labels": {"contents": contents}}, Path(), confs)  # type: ignore[typeddict-item]


def test_labels_before_sounds_are_learned_and_asked_for(stage, tones: Path, whole: Path):
    """They are targets beside the end of the turn; whoever loads the run, or its export, lets them be written first."""
    still = [
        "--optimizer.learning_rate=0",
        "--embedding_learning_rate=0",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=9",
        "--caption_dropout=0",
        '--prompts.text_to_sound=["Sound: {caption}"]',
    ]
    words = ["--experiment=named", *PARENTS, *still, "--trainer.val_check_interval=1", "--loss.contrast.weight=1"]
    assert stage("run", "text_to_sound", *words, "--prompts.labels_before_sound=true") == 0
    run, cuts = tones / "runs/named/text_to_sound", chunks.read(whole / "cache/chunks")
    heard, writes = (trained_model.load(folder, torch.device("cpu")) for folder in (whole / "openaqa", run))
    losses = []
    for cut in cuts.of_split("validation"):
        asked = Turn("user", [f"Sound: {caption_of(cut)}"])
        answer = Turn("assistant", [str(label_of(cut)), list(cut.custom["codes"])])
        ids, labels, kinds = heard.vocabulary.render([asked, answer])
        with torch.no_grad():
            log_p = heard.lm(torch.tensor([ids])).logits[0].log_softmax(-1)
        targets = [n for n, kind in enumerate(kinds) if kind == LabelKind.TEXT and labels[n] != IGNORED]
        losses += [-float(log_p[n - 1, ids[n]]) for n in targets]
    receipt = receipts.read(run)
    assert receipt and receipt["metrics"]["val/text_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert [model.prompts.labels_before_sound for model in (heard, writes)] == [False, True]
    assert main(["export", "--model", str(run), "--to=named-export"]) == 0
    exported = trained_model.load(tones / "named-export", torch.device("cpu"))
    assert exported.prompts == writes.prompts


def test_openaqa_chooses_among_what_it_wrote(stage, tones: Path, spoken: Path, monkeypatch):
    """The sounds are text_to_sound's, drawn from the candidates' seeds; the scores are of the LLM that hears."""
    asked: list[trained_model.TrainedModel] = []
    scores = text_to_sound.caption_scores

    def seen(model: trained_model.TrainedModel, *rest: Any) -> list[float]:
        asked.append(model)
        return scores(model, *rest)

    monkeypatch.setattr(text_to_sound, "caption_scores", seen)
    monkeypatch.chdir(tones)
    words = ["a low sound", "--experiment=spoken", "--out=low.wav", "--seconds_max=1", "--force"]
    assert main(["generate", *words]) == 0 and not asked
    assert main(["generate", *words, "--best_of=3"]) == 0 and len(asked) == 1
    stage_words = ["--after=text_to_sound", "--best_of=2", "--captions=2", "--one_label=false", "--seeds=1"]
    assert stage("run", "generation", "--experiment=spoken", *stage_words, "--embedder=null") == 0
    assert len(asked) == 3
    hears, writes = (load_file(spoken / name / "artifact/model.safetensors") for name in ("openaqa", "text_to_sound"))
    (name,) = [name for name in hears if "layers.0" in name and "q_proj.lora_B" in name]
    for model in asked:
        (actual,) = [
            values for key, values in model.lm.state_dict().items() if key.endswith(name.split("model.", 1)[1])
        ]
        assert torch.equal(actual, hears[name]) and not torch.equal(actual, writes[name])
    receipt = receipts.read(spoken / "generation")
    assert receipt and {"openaqa", "text_to_sound"} <= set(receipt["parents"])
