"""What waits for a card runs without one, at its smallest; a part that fails leaves the others' answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["device", "tokenizer_step", "language_step", "codes", "generate", "repeat"])
def test_part_runs_without_a_card(name: str):
    answer = gpu.PARTS[name](gpu.Bench(small=True))
    json.dumps(answer)
    if name == "device":
        assert all(kind["finite"] and kind["codes_as_on_cpu"] > 0.9 for kind in answer.values())
    if name == "repeat" and not torch.cuda.is_available():
        assert answer["equal"]


FAILING = """
from tests.benchmarks import gpu

def fails(bench):
    raise RuntimeError("no kernel image")

gpu.PARTS["device"] = fails
gpu.main()
"""


def test_failing_part_is_written_as_its_error(tmp_path: Path):
    """In a process that has not computed: a part is a fork, and a fork of one whose threads have started may wait forever."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-c", FAILING, "--small", "--only", "device,repeat", "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = json.loads(out.read_text())["parts"]
    assert "no kernel image" in parts["device"]["error"] and "equal" in parts["repeat"]


@pytest.mark.slow
def test_command_runs_all_parts(tmp_path: Path):
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--small", "--out", str(tmp_path / "gpu.json")]
    run = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == list(gpu.PARTS) and not any("error" in part for part in parts.values()), run.stdout
