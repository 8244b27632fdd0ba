"""The notebook: its cells run in their order, on the smoke preset's experiment, and make what they say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

import stages
from stages.runs import receipts
from tests.conftest import SMOKE

NOTEBOOK = Path(stages.__file__).parent / "quickstart.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_keeps_no_output():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert len(code_cells()) > 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_its_cells_run_in_order(whole: Path, tones: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tones)
    shutil.copy("recordings/03.wav", "clip.wav")
    first, *cells = code_cells()
    assert first.startswith('EXPERIMENT, OPTIONS = "demo", ["--preset", "demo"]')
    names: dict[str, Any] = {"EXPERIMENT": "whole", "OPTIONS": list(SMOKE), "CLIP": "clip.wav"}
    for cell in cells:
        exec(compile(cell, str(NOTEBOOK), "exec"), names)
    assert names["status"] == 0 and receipts.read(tones / "runs/quickstart/tokenizer")["steps"] == 10
    clip, back, made = (soundfile.info(name) for name in ("clip.wav", "back.wav", "made.wav"))
    assert back.duration == pytest.approx(clip.duration, abs=1e-3) and made.duration > 0
    assert f"are {len(names['codes'])} codes" in capsys.readouterr().out
