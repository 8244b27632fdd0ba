"""A process that the zygote forks does what a new process of Python does."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datamodules.store import chunks
from tests import other_luck, zygote
from tests.conftest import SMOKE
from tests.interrupt import TWO_RANKS


def describe(status: object) -> None:
    """Prints what a process sees of itself, and ends it."""
    print(
        os.getcwd(),
        os.environ.get("COLOUR"),
        os.environ.get("HOME"),
        os.getsid(0) == os.getpid(),
        torch.get_num_threads(),
    )
    print(random.random(), np.random.rand(), torch.initial_seed(), file=sys.stderr)
    if status == signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(status)


def leave_a_child(seconds: float) -> None:
    if not os.fork():
        time.sleep(seconds)
        os._exit(0)


def fail() -> None:
    raise RuntimeError("a bug")


def test_it_has_a_folder_an_environment_streams_and_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HOME")
    one, two = (
        zygote.run(None, tmp_path, partial(describe, None), COLOUR=colour, OMP_NUM_THREADS="1")
        for colour in ("red", "blue")
    )
    assert (one.stdout, two.stdout) == (f"{tmp_path} red None True 1\n", f"{tmp_path} blue None True 1\n")
    (*drawn_one, seed_one), (*drawn_two, seed_two) = one.stderr.split(), two.stderr.split()
    assert not set(drawn_one) & set(drawn_two) and seed_one == seed_two  # torch begins with one fixed seed


@pytest.mark.parametrize(
    ("ends", "status"), [(None, 0), (0, 0), (75, 75), ("a message", 1), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_its_exit_status_is_that_of_python(ends: object, status: int, tmp_path: Path):
    ended = zygote.run(None, tmp_path, partial(describe, ends))
    assert ended.status == status and ended.stderr.endswith("a message\n") == (ends == "a message")
    failed = zygote.run(None, tmp_path, fail)
    assert failed.status == 1 and failed.stderr.endswith("RuntimeError: a bug\n")


def test_its_end_is_waited_for_with_that_of_its_children(tmp_path: Path):
    began = time.monotonic()
    process = zygote.start(None, tmp_path, partial(leave_a_child, 1.0))
    assert not process.wait().survivors() and time.monotonic() - began >= 1


def real(where: Path, *words: str) -> None:
    """The command in a new process of Python, whose other ranks Lightning starts."""
    environment = os.environ | {"PYTHONPATH": str(zygote.ROOT)}
    start = ["-m", "stages.cli.main"]
    if other_luck.ALL:
        start = ["-c", f"{other_luck.IN_A_NEW_PROCESS}from stages.cli.main import main; raise SystemExit(main())"]
    command = [sys.executable, *start, *words, *SMOKE]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def same_weights(one: Path, other: Path) -> bool:
    before, after = (load_file(folder / "artifact/model.safetensors") for folder in (one, other))
    return before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def test_a_new_process_trains_to_the_weights_of_a_forked_one(tones: Path, whole: Path):
    real(tones, "run", "caption", "--experiment=real", "--parents.tokenizer=whole", "--parents.cache=whole")
    assert same_weights(whole / "caption", tones / "runs/real/caption")


@pytest.mark.slow
def test_two_ranks_that_lightning_starts_end_as_two_that_are_forked(tones: Path, whole: Path):
    for stage, parents in (("tokenizer", ["--parents.latents=whole"]), ("cache", []), ("caption", [])):
        words = ["run", stage, *parents, *TWO_RANKS]
        real(tones, *words, "--experiment=real-two")
        assert zygote.run([*words, "--experiment=forked-two", *SMOKE], tones).status == 0
    new, forked = (tones / f"runs/{name}" for name in ("real-two", "forked-two"))
    assert [cut.custom["codes"] for cut in chunks.read(new / "cache/chunks")] == [
        cut.custom["codes"] for cut in chunks.read(forked / "cache/chunks")
    ]
    assert all(same_weights(new / stage, forked / stage) for stage in ("tokenizer", "caption"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "cache"])
def test_a_new_process_that_is_killed_goes_on(tones: Path, whole: Path, stage: str):
    words = ["run", stage, f"--experiment=real-killed-{stage}", "--parents.latents=whole"]
    words += [] if stage == "tokenizer" else ["--parents.tokenizer=whole"]
    environment = os.environ | {"PYTHONPATH": str(zygote.ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "stages.cli.main", *words, *SMOKE], cwd=tones, env=environment)
    folder, limit = tones / f"runs/real-killed-{stage}/{stage}", time.monotonic() + 300
    while not [*folder.glob("checkpoints/step-*.ckpt"), *folder.glob("chunks/[!.]*/")]:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.001)
    process.kill()
    process.wait()
    real(tones, *words)
    if stage == "tokenizer":
        assert same_weights(whole / stage, folder)
    else:
        actual, expected = (chunks.read(run / "chunks") for run in (folder, whole / "cache"))
        assert [(cut.id, cut.custom["codes"]) for cut in actual] == [(cut.id, cut.custom["codes"]) for cut in expected]
