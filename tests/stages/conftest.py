"""An experiment that is trained, for all that uses a trained model."""

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


@pytest.fixture(scope="session")
def clip(run: Path, tones: Path) -> Path:
    return tones / "recordings/07.flac"
