"""lmms-eval's own command line asks a trained model what `stage evaluate` asks it, and both score the same."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from datamodules.store import chunks
from tests.stages.hub.lmms_tasks import LABELS, ROOT, answers_of, local_tasks

pytest.importorskip("lmms_eval")
pytestmark = pytest.mark.slow


def entry_point(folder: Path) -> Path:
    """The plug-in as an installed package declares it."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    info = folder / "make_some_noise-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: make-some-noise\nVersion: 0.1.0\n")
    lines = ["[lmms_eval.models]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def rows_of(folder: Path, task: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(recording, question) -> the row, of what was asked with the sound."""
    lines = map(json.loads, (folder / "evaluate/artifact/predictions.jsonl").read_text().splitlines())
    rows = [row for row in lines if row["task"] == task and row["condition"] == "sound"]
    return {(row["source"], row["question"]): row for row in rows}


def lmms_eval(model: Path, tasks: Path, out: Path, cwd: Path, site: Path) -> dict[str, Any]:
    """Its results by task."""
    words = ["--model", "make_some_noise", "--model_args", f"pretrained={model}", "--include_path", str(tasks)]
    words += [
        "--tasks",
        "local_questions,local_labels",
        "--output_path",
        str(out),
        "--log_samples",
        "--batch_size",
        "3",
    ]
    path = os.pathsep.join([str(site), str(ROOT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "hub")}
    command = [sys.executable, "-m", "lmms_eval", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    written = list(out.rglob("*_results.json"))
    assert done.returncode == 0 and len(written) == 1, done.stderr[-3000:]  # it ends with 0 after an error too
    return json.loads(written[0].read_text())["results"]


def test_its_score_and_ours_agree(stage, copy_of_whole, tones: Path, tmp_path: Path):
    stages = ("latents", "tokenizer", "tokenizer_mse", "cache", "caption", "openaqa", "reconstruct")
    folder = copy_of_whole("lmms", *stages)
    asked = ["--tasks=[questions,labels-likelihood]", "--examples.clips=0", "--max_new_tokens=8"]
    assert stage("run", "evaluate", "--experiment=lmms", *asked) == 0
    report = json.loads((folder / "evaluate/artifact/report.json").read_text())["tasks"]
    paths = {
        cut.custom["source"]: str((tones / "recordings" / Path(cut.recording.sources[0].source).name).resolve())
        for cut in chunks.read(folder / "cache/chunks").of_split("test")
    }
    ours = {task: rows_of(folder, task) for task in ("questions", "labels-likelihood")}
    questions, labels = (
        [
            {"path": paths[source], "question": question, "source": source, "target": row["references"][0]}
            for (source, question), row in ours[task].items()
        ]
        for task in ours
    )
    chosen = [row["prediction"] for row in ours["labels-likelihood"].values()]
    for number, document in enumerate(labels):  # a random LLM may be right nowhere: half of what is expected is its own
        document["target"] = str(LABELS.index(chosen[number] if number % 2 else document["target"]))
    out, tasks = tmp_path / "out", local_tasks(tmp_path / "tasks", questions, labels)
    theirs = lmms_eval(folder / "openaqa", tasks, out, tones, entry_point(tmp_path / "site"))
    accuracy = report["questions"]["conditions"]["with_sound"]["accuracy"]
    assert accuracy["count"] == len(questions) > 3
    assert theirs["local_questions"]["accuracy,none"] == pytest.approx(accuracy["value"], abs=1e-6)
    right = [LABELS.index(label) == int(document["target"]) for label, document in zip(chosen, labels, strict=True)]
    assert theirs["local_labels"]["acc,none"] == pytest.approx(sum(right) / len(right), abs=1e-6) and any(right)
    answers, losses = (answers_of(out, name) for name in ("local_questions", "local_labels"))
    for document, answer in zip(questions, answers, strict=True):
        assert answer == ours["questions"][document["source"], document["question"]]["prediction"]
    for row, pairs in zip(ours["labels-likelihood"].values(), losses, strict=True):
        assert [-float(loss) for loss, _ in pairs] == pytest.approx(row["scores"], abs=1e-2)
