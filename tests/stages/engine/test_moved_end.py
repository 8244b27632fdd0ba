"""A training that is made longer, finished or not, ends with the bytes of one that had all its steps from the beginning."""

import re
import signal
from pathlib import Path

import pytest

from stages import STAGES
from stages.runs import receipts
from stages.runs.progress import checkpoint_step, newest_checkpoint, whole_checkpoints
from tests.interrupt import interrupt
from tests.stages.engine.test_interruptions import content

WSD = ("--optimizer.schedule=wsd", "--optimizer.decay_steps=2")
AT_ONCE = 10  # steps; the decay begins at 8


def words(name: str, experiment: str, steps: int) -> list[str]:
    parents = [f"--parents.{parent}=whole" for parent in STAGES[name].parents]
    vae = [f"--discriminator_{key[2:]}" for key in WSD] if name == "vae" else []
    return [f"--experiment={experiment}", *parents, *WSD, *vae, f"--trainer.max_steps={steps}"]


def run(stage, tones: Path, name: str, experiment: str, steps: int) -> Path:
    assert stage("run", name, *words(name, experiment, steps)) == 0
    return tones / "runs" / experiment / name


@pytest.mark.parametrize(
    "name", ["tokenizer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("caption", "openaqa", "vae"))]
)
def test_a_finished_run_is_made_longer_from_before_its_decay(stage, tones: Path, whole: Path, capsys, name: str):
    at_once = run(stage, tones, name, f"at-once-{name}", AT_ONCE)
    folder = run(stage, tones, name, f"longer-{name}", 5)  # a checkpoint at 3, where its decay begins, and at 4
    short = receipts.read(folder)
    assert [checkpoint_step(path) for path in whole_checkpoints(folder)] == [3, 4]
    capsys.readouterr()
    run(stage, tones, name, f"longer-{name}", AT_ONCE)
    assert re.search(rf"{name} +partial: 5 steps are done; from step 3 it goes on to 10", capsys.readouterr().out)
    assert content(folder) == content(at_once)
    receipt, expected = receipts.read(folder), receipts.read(at_once)
    assert short and receipt and expected and receipt["artifact_hash"] != short["artifact_hash"]
    assert receipt["conf_hash"] == expected["conf_hash"] and receipt["metrics"] == expected["metrics"]
    assert receipts.read(folder.parent / f".old/{name}-1") == short
    assert stage("run", name, *words(name, f"longer-{name}", AT_ONCE)) == 0
    assert f"{name:<14} done (10 steps" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batches"), [("tokenizer", 5), ("tokenizer", 9), ("caption", 9)])
def test_a_killed_run_is_made_longer(stage, tones: Path, whole: Path, name: str, batches: int):
    """Before its decay, or in it: it had 10 steps to do, its decay began at 8, and it is to have 14."""
    at_once = run(stage, tones, name, f"at-once-killed-{name}-{batches}", 14)
    experiment = f"killed-longer-{name}-{batches}"
    ended = interrupt(tones, name, batches, *words(name, experiment, 10), sent=signal.SIGKILL)
    assert ended.status == -signal.SIGKILL and newest_checkpoint(tones / "runs" / experiment / name)
    assert content(run(stage, tones, name, experiment, 14)) == content(at_once)


def test_an_end_that_cannot_be_moved_says_why(stage, tones: Path, whole: Path, capsys):
    """A cosine has no step that its end did not decide."""
    given = ["--experiment=fixed-end", "--parents.latents=whole"]
    interrupt(tones, "tokenizer", 5, *given)
    capsys.readouterr()
    assert stage("run", "tokenizer", *given, "--trainer.max_steps=20") == 1
    error = capsys.readouterr().err
    assert "trainer.max_steps: 12 -> 20" in error and "the cosine falls" in error
    assert "--optimizer.schedule=wsd" in error and "--init_from=RUN" in error
