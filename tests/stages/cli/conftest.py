"""Folders to work in: an empty one, and one with an experiment that is trained."""

import os
import shutil
from pathlib import Path

import pytest

from stages.cli.main import main
from stages.hub import trained_model
from tests.conftest import SMOKE
from tests.stages.cli.trained_run import TAUGHT, load_model


@pytest.fixture(scope="session")
def run(tones: Path, whole: Path) -> Path:
    """An experiment alone in its folder of runs, openaqa at its end."""
    before = Path.cwd()
    os.chdir(tones)
    try:
        for name in ("latents", "tokenizer", "cache"):
            shutil.copytree(whole / name, tones / "runs_of_verbs/used" / name)
        for name in ("caption", "openaqa"):
            assert main(["run", name, "--experiment=used", "--runs=runs_of_verbs", *SMOKE, *TAUGHT]) == 0
    finally:
        os.chdir(before)
    return tones / "runs_of_verbs/used"


@pytest.fixture(scope="session")
def model(run: Path) -> trained_model.TrainedModel:
    return load_model(str(run.parent))


@pytest.fixture
def folder_with_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, whose runs/ holds the experiment and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/used").symlink_to(run)
    return tmp_path


@pytest.fixture(scope="session")
def clip(run: Path, tones: Path) -> Path:
    return tones / "recordings/07.flac"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no asset in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path
