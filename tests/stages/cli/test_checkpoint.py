"""`--checkpoint`: a training is used before its end, with the very weights of that step."""

import json
import re
from pathlib import Path

import pytest

from datamodules.hashing import file_digest
from stages.cli.main import main
from stages.engine.checkpoint_run import run_at
from stages.runs import receipts
from tests.interrupt import interrupt

PARENTS = ("latents", "tokenizer", "cache")


def hash_of(folder: Path) -> str:
    receipt = receipts.read(folder)
    assert receipt
    return receipt["artifact_hash"]


@pytest.mark.parametrize("name", ["tokenizer", pytest.param("caption", marks=pytest.mark.slow)])
def test_the_last_checkpoint_of_a_finished_run_is_its_artifact(tones: Path, copy_of_whole, monkeypatch, name: str):
    monkeypatch.chdir(tones)
    folder = copy_of_whole(f"last-{name}", *PARENTS, "caption") / name
    last, earlier = run_at(folder, "last"), run_at(folder, "8")
    assert last.name == f"{name}.step-00000012"
    at_the_end, whole, before = (file_digest(one / "artifact/model.safetensors") for one in (last, folder, earlier))
    assert at_the_end == whole != before
    facts, expected = receipts.read(last), receipts.read(folder)
    assert facts and expected and all(facts[key] == expected[key] for key in ("facts", "parents", "steps"))
    (last / "artifact/model.safetensors").unlink()
    assert run_at(folder, "12") == last and not (last / "artifact/model.safetensors").exists(), "it is made once"
    checkpoint = folder / "checkpoints/step-00000012.ckpt"
    checkpoint.write_bytes((folder / "checkpoints/step-00000008.ckpt").read_bytes())  # as a run that was begun again
    assert hash_of(run_at(folder, "12")) == hash_of(earlier)


def test_a_tokenizer_is_used_before_its_end(stage, tones: Path, copy_of_whole, capsys):
    folder = copy_of_whole("half", "latents")
    interrupt(tones, "tokenizer", 9, "--experiment=half")
    encode = ["encode", str(tones / "recordings/07.flac"), "--experiment=half"]
    assert main(encode) == 1 and "no finished" in capsys.readouterr().err
    assert main([*encode, "--checkpoint=7"]) == 1
    assert re.search(r"half/tokenizer has none of that step\. There are: 4, 8; or last", capsys.readouterr().err)
    assert main([*encode, "--checkpoint=4"]) == 0
    codes = json.loads(capsys.readouterr().out)
    assert codes["tokenizer"] == hash_of(folder / "tokenizer.step-00000004")
    assert main([*encode[:2], "--checkpoint=last", "--experiment=nobody"]) == 1
    assert re.search(r"no tokenizer with a checkpoint in runs/nobody\. .*half", capsys.readouterr().err)
    assert stage("run", "latents", "--experiment=half", "--fit_recordings=2", "--restart") == 0
    assert main([*encode, "--checkpoint=8"]) == 1
    assert "its parent latents changed: its checkpoints belong to" in capsys.readouterr().err


@pytest.mark.slow
def test_stages_and_verbs_take_a_checkpoint(stage, tones: Path, copy_of_whole, tmp_path: Path, capsys):
    folder = copy_of_whole("early", "latents")
    interrupt(tones, "tokenizer", 9, "--experiment=early")
    assert stage("run", "reconstruct", "--experiment=early", "--checkpoint=last") == 0
    receipt = receipts.read(folder / "reconstruct")
    assert receipt and receipt["parents"]["tokenizer"] == hash_of(folder / "tokenizer.step-00000008")

    folder = copy_of_whole("early-caption", *PARENTS)
    interrupt(tones, "caption", 9, "--experiment=early-caption")
    words = ["--experiment=early-caption", "--checkpoint=last"]
    assert main(["ask", str(tones / "recordings/07.flac"), "What?", *words]) == 0
    assert main(["generate", "rain", "--out", str(tmp_path / "rain.wav"), "--seconds-max=1", *words]) == 0
    assert main(["export", "--to", str(tmp_path / "exported"), *words]) == 0
    manifest = json.loads((tmp_path / "exported/make_some_noise.json").read_text())
    assert manifest["tokenizer"] == hash_of(folder / "tokenizer") and (tmp_path / "rain.wav").stat().st_size > 44
    (made,) = folder.glob("caption.step-*")
    assert stage("run", "evaluate", "--after=caption", *words) == 0
    evaluated = receipts.read(folder / "evaluate")
    assert evaluated and evaluated["parents"]["caption"] == hash_of(made)
    assert stage("run", "latents", "--experiment=early", "--checkpoint=last") == 1
    assert "latents has no parent that trains" in capsys.readouterr().err
