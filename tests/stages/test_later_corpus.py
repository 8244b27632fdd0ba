"""A corpus that is prepared when the LLM is trained already: a cache of its own, and what the LLM was trained on is refused."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from datamodules.store import chunks
from stages.cli.main import main
from stages.runs import receipts
from tests.conftest import SMOKE

PARENTS = [f"--parents.{name}=whole" for name in ("tokenizer", "openaqa")]


def run(*words: str) -> int:
    return main(["run", *words, *(word for word in SMOKE if "corpora" not in word)])


def prepare_and_cache(name: str, recording: Path) -> list[str]:
    """A corpus of one test recording with a question, cached with the tokenizer of `whole`; the words that name both."""
    root = Path(name)
    root.mkdir()
    shutil.copy(recording, root / "one.wav")
    row = {
        "path": "one.wav",
        "split": "test",
        "question": "What is it?",
        "answer": "a tone",
        "kind": "what",
        "caption": "a tone",
    }
    (root / "m.jsonl").write_text(json.dumps(row) + "\n")
    words = ["prepare", "folder", name, "--metadata", f"{name}/m.jsonl", f"--name={name}", "--data.root=data"]
    assert main([*words, "--data.num_workers=0"]) == 0
    named = [f"--experiment={name}", f"--data.corpora=[{name}]"]
    assert run("cache", *named, "--parents.tokenizer=whole") == 0
    return [*named, *PARENTS]


def test_a_finished_llm_is_asked_about_a_corpus_that_came_later(
    apart: Path, whole: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    runs = apart / "runs"
    shutil.copytree(whole, runs / "whole")
    train = next(cut for cut in chunks.read(runs / "whole/cache/chunks").of_split("train"))
    heard = next((apart / "recordings").glob(f"{train.id.removeprefix('tones-')}.*"))
    sound, rate = soundfile.read(heard)
    soundfile.write("new.wav", sound[::-1], rate)
    later = prepare_and_cache("corpus-later", Path("new.wav"))
    for name in ("evaluate", "generation"):
        assert run(name, *later) == 0
        receipt = receipts.read(runs / "corpus-later" / name)
        cache = receipts.read(runs / "corpus-later/cache")
        assert receipt and cache and receipt["ancestors"]["cache"] == cache["artifact_hash"]
    assert main(["status", "--preset=smoke", "--data.root=data", *later]) == 0
    assert all(" stale" not in line for line in capsys.readouterr().out.splitlines() if "evaluate" in line)

    again = prepare_and_cache("corpus-heard", heard)
    assert run("evaluate", *again) == 1
    assert (
        "1 of 1 recordings of the split 'test' are among those that runs/whole/openaqa was trained on"
        in capsys.readouterr().err
    )
    shutil.move(runs / "whole/cache", apart / "cache")
    assert run("evaluate", *again) == 0 and "is gone: whether it has heard" in caplog.text
    shutil.move(apart / "cache", runs / "whole/cache")
    trained = [word for word in again if "openaqa" not in word]
    assert run("openaqa", *trained, "--parents.caption=whole") == 1
    assert "different runs of 'cache'" in capsys.readouterr().err, "what trains is of one cache"
    untrained = [word.replace("openaqa", "caption") for word in again]
    assert run("evaluate", *untrained, "--after=none", "--restart") == 0, "it has heard nothing"
