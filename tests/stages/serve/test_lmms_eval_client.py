"""lmms-eval's own command line asks the server over HTTP, and gives each answer and the score that the model itself has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.language.vocabulary import Turn
from stages.scoring.exact_match import is_right
from tests.stages.cli.trained_run import answer, codes_of
from tests.stages.hub.lmms_tasks import ROOT, answers_of, local_tasks
from tests.stages.serve.conftest import listening, server_of

for package in ("lmms_eval", "fastapi", "uvicorn", "openai", "dotenv"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow


def test_its_answers_and_score_are_the_model_s(served, model, run, tones: Path, tmp_path: Path):
    clips = sorted(path for path in (tones / "recordings").iterdir() if path.suffix in (".wav", ".flac", ".ogg"))[:6]
    questions = []
    for number, clip in enumerate(clips):
        own = answer(model, [Turn("user", [codes_of(run, clip), "\n", "Is it noise?"])], 8)
        target = own if number % 2 else "never so"  # a random LLM is right nowhere: half of what is expected is its own
        questions.append({"path": str(clip), "question": "Is it noise?", "target": target, "own": own})
    out, tasks = tmp_path / "out", local_tasks(tmp_path / "tasks", questions, [])
    with listening(server_of(served)) as address:
        words = ["--model", "openai", "--force_simple", "--include_path", str(tasks), "--tasks", "local_questions"]
        words += ["--model_args", f"model=used,base_url={address}/v1,timeout=600,max_retries=1"]
        words += ["--output_path", str(out), "--log_samples"]
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "hub"), "OPENAI_API_KEY": "any"}
        done = subprocess.run(
            [sys.executable, "-m", "lmms_eval", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | environment,
        )  # fmt: skip
    (written,) = out.rglob("*_results.json")
    score = json.loads(written.read_text())["results"]["local_questions"]["accuracy,none"]
    assert answers_of(out, "local_questions") == [one["own"] for one in questions], done.stderr[-3000:]
    assert score == pytest.approx(
        sum(is_right(one["own"], one["target"]) for one in questions) / len(questions), abs=1e-6
    )
