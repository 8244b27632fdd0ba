"""A receipt says on what its run was computed, each time that it was started, and from which weights and code."""

import subprocess
from datetime import datetime
from pathlib import Path

import pytest

import conf
from stages.engine.devices import global_batch
from stages.hub import weights
from stages.runs import identity, receipts, starts
from tests.interrupt import interrupt


def test_a_receipt_has_every_start(stage, tones: Path, copy_of_whole):
    folder = copy_of_whole("started", "latents") / "tokenizer"
    interrupt(tones, "tokenizer", 5, "--experiment=started")
    assert stage("run", "tokenizer", "--experiment=started") == 0
    receipt = receipts.read(folder)
    assert receipt and receipt["revisions"] == {}
    first, second = receipt["starts"]
    assert first["command"].startswith("stage run tokenizer --experiment=started --preset smoke")
    assert datetime.fromisoformat(first["began"]) <= datetime.fromisoformat(second["began"])
    for one in (first, second):
        assert one["host"] and one["device"] and (one["ranks"], one["nodes"]) == (1, 1)
        assert one["global_batch"] == {"items": receipt["conf"]["batch_size"]}
        assert one["precision"] == (receipt["precision"] or {})["value"] and one["commit"] == receipt["commit"]


def test_a_line_that_was_cut_short_is_no_start(tmp_path: Path):
    assert starts.read(tmp_path) == []
    (tmp_path / starts.FILE).write_text('{"ranks": 1}\n{"ran')
    assert starts.read(tmp_path) == [{"ranks": 1}]


def test_the_global_batch_is_of_all_ranks_and_of_all_that_is_accumulated():
    def of(stage: str, *overrides: str) -> dict[str, int]:
        return global_batch(conf.compose(stage, overrides=overrides).conf, 8)

    assert of("tokenizer", "batch_size=4", "trainer.accumulate_grad_batches=3") == {"items": 96}
    assert of("vae", "batch_size=2") == {"items": 16}
    words = ("batching.tokens_per_batch=16384", "trainer.accumulate_grad_batches=2")
    assert of("caption", *words) == {"tokens": 262144}
    assert of("cache") == {}, "what does not train has no step"


def test_the_commit_is_of_this_project_and_of_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As where this project is installed in an environment inside another repository."""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    for inside in ("stages/runs", "env/lib/stages/runs"):
        (tmp_path / inside).mkdir(parents=True)
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "env/lib/stages/runs/identity.py"))
    assert identity.code_commit() is None
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "stages/runs/identity.py"))
    assert identity.code_commit()


def test_the_commit_of_a_hub_id_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, commit, file in (("owner--llm", "a" * 40, "config.json"), ("owner--vae", "b" * 40, "vae/config.json")):
        folder = tmp_path / f"models--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text(commit)
        (folder / "snapshots" / commit / file).parent.mkdir(parents=True)
        (folder / "snapshots" / commit / file).touch()

    def of(stage: str, *overrides: str) -> dict[str, str]:
        return weights.revisions(conf.compose(stage, overrides=overrides).conf)

    assert of("caption", "model.source=owner/llm") == {"owner/llm": "a" * 40}
    assert of("latents", "codec.source=owner/vae", "codec.subfolder=vae") == {"owner/vae": "b" * 40}
    assert of("caption", "model.source=owner/other") == {} == of("caption", "model.source=random:tiny")
    assert of("tokenizer") == {}
