"""kill -9 at random moments: `python -m tests.benchmarks.kills` with few of them. By hand it takes more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_what_was_killed_at_any_moment_ends_with_the_undisturbed_bytes():
    command = [sys.executable, "-m", "tests.benchmarks.kills", "--moments", "2", "--recordings", "24"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 of 4 caches differ" in done.stdout
