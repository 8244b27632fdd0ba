"""One run at a time writes a folder, also where the file system has no locks; a kill lets go."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import conf
from stages.runs import lock
from stages.runs.lock import claimed

HOLD = """
import errno, fcntl, sys, time
import conf
from stages.runs.lock import claimed
def none(*_): raise OSError(errno.ENOSYS, "Function not implemented")
if sys.argv[2] == "soft": fcntl.lockf = none
with claimed("tokenizer", conf.compose("tokenizer", overrides=[f"runs={sys.argv[1]}"]).conf):
    print("has it", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, kind: str, **variables: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", HOLD, str(folder), kind]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables})
    assert process.stdout and process.stdout.readline() == "has it\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre without `flock` answers, which no test can mount."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.parametrize("kind", ["record", "soft"])
def test_a_second_run_is_refused_and_a_kill_lets_go(tmp_path: Path, kind: str, request: pytest.FixtureRequest):
    if kind == "soft":
        request.getfixturevalue("without_locks")
    tokenizer = conf.compose("tokenizer", overrides=[f"runs={tmp_path}"]).conf
    first = holder(tmp_path, kind)
    with (
        pytest.raises(ValueError, match=rf"main/tokenizer is being written .*process {first.pid} on \S+\)"),
        claimed("tokenizer", tokenizer),
    ):
        raise AssertionError
    kill(first)
    with claimed("tokenizer", tokenizer):
        assert (tmp_path / "main/.tokenizer.softlock").exists() is (kind == "soft")
    assert not list((tmp_path / "main").iterdir()), "nothing is left"


def test_without_locks_the_message_names_the_job_and_what_to_type(
    tmp_path: Path, without_locks: None, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = conf.compose("tokenizer", overrides=[f"runs={tmp_path}"]).conf
    first = holder(tmp_path, "soft", SLURM_JOB_ID="12", SLURM_RESTART_COUNT="1")
    with (
        pytest.raises(ValueError, match=rf"\(job 12 start 2, process {first.pid} on \S+\).*type   rm \S+\.softlock"),
        claimed("tokenizer", tokenizer),
    ):
        raise AssertionError
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")  # SLURM starts a job again when its earlier start is over
    with claimed("tokenizer", tokenizer):
        assert re.match("job 12 start 3,", (tmp_path / "main/.tokenizer.lock").read_text())
    kill(first)


def test_a_job_that_is_started_again_waits_for_what_its_dead_machine_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "POLL", 0.05)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    first = holder(tmp_path, "record")
    monkeypatch.setattr(lock.time, "sleep", lambda _: kill(first))
    with claimed("tokenizer", conf.compose("tokenizer", overrides=[f"runs={tmp_path}"]).conf):
        assert first.returncode == -signal.SIGKILL
