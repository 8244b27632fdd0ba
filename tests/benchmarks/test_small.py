"""The benchmarks that a minute's work is enough for, at their smallest: that they run to the end, not what they find."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cache --recordings 4 --seconds 1 --turns 1 --threads 1", "loop / ours, own"),
        ("openaqa --records 2000 --clips 300", "peak memory"),
        ("reading", "whole_word"),
        ("running_average --steps 2 --width 16 --batch-size 2", "| 2 |"),
        ("windows --seconds 30 --rates 44100", "2 x 216 + 1 x 214"),
    ],
    ids=lambda value: value.split()[0],
)
def test_runs(command: str, said: str):
    run = subprocess.run(
        [sys.executable, "-m", *f"tests.benchmarks.{command}".split()],
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert said in run.stdout
