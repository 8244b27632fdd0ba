"""What stops a stage, a signal or the clock, and how it ends. test_interruptions.py stops each stage, and lets it go on."""

import re
import signal
from pathlib import Path

import pytest

from callbacks.stop import JOB_END, LIMIT, STOPPED, Stop
from tests.interrupt import interrupt


def test_a_second_interrupt_from_the_keyboard_does_not_wait():
    with Stop(None, 60, began=0) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.reason() == signal.SIGINT and stop.words(signal.SIGINT) == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_clock_of_a_limit_and_of_slurm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    monkeypatch.setattr("time.time", lambda: 5000.0)
    assert Stop(None, 60, began=0).reason() == 0
    assert Stop(1001, 60, began=0).reason() == 0 and Stop(1001, 60, began=0).left() == 1
    assert Stop(1000, 60, began=0).reason() == LIMIT
    monkeypatch.setenv("SLURM_JOB_END_TIME", "5061")
    assert Stop(None, 60, began=0).reason() == 0
    monkeypatch.setenv("SLURM_JOB_END_TIME", "5060")
    assert Stop(None, 60, began=0).reason() == JOB_END
    assert "SLURM" in Stop(None, 60, began=0).words(JOB_END)
    assert Stop(None, 60, began=0).words(LIMIT) == "limits.seconds"  # of another rank


def test_a_limit_of_time_stops_a_prediction_and_the_chain_it_is_of(stage, tones: Path, whole: Path):
    """`run all` in one process: the stage's status is the command's, and the next stage does not begin."""
    words = ["--experiment=limited-all", "--limits.seconds=1.5"]
    ended = interrupt(tones, "all", 1, *words, "--data.num_workers=1", sent=0)
    assert ended.status == STOPPED, ended.output
    message = r"^latents +stopped at (the beginning|chunk [01] of \d+) by limits.seconds=1.5; the same command goes on$"
    assert re.search(message, ended.output, re.M), ended.output
    assert [path.name for path in (tones / "runs/limited-all").iterdir() if path.is_dir()] == ["latents"]
    assert stage("run", "latents", "--experiment=limited-all") == 0
