"""The contrast of a language stage is with the run that it starts from; without one there is none."""

import csv
import math
from pathlib import Path

import pytest

PARENTS = [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "openaqa")]
LOGGED = (
    "--trainer.logger=[csv]",
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=2",
    "--lora.dropout=0",
)
STILL = ("--optimizer.learning_rate=0", "--embedding_learning_rate=0")


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "csv/version_0/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def run(stage, name: str, *words: str) -> Path:
    words = (f"--experiment={name}", *PARENTS, *LOGGED, "--loss.contrast.weight=10", *words)
    assert stage("run", "text_to_sound", "--trainer.max_steps=2", *words) == 0
    return Path("runs") / name / "text_to_sound"


def test_it_is_with_the_weights_that_the_stage_starts_from(stage, whole: Path):
    """A step that moves nothing leaves each term at log 2; one that does makes the next one another."""
    still = run(stage, "contrast-still", *STILL)
    pairs, losses = logged(still, "train/contrast_pairs"), logged(still, "train/contrast_loss")
    assert len(losses) == 2 and max(pairs) > 0
    assert losses == pytest.approx([math.log(2) * (1 + share) for share in pairs], rel=1e-4)
    moved = run(stage, "contrast-moved", "--loss.contrast.beta=3")
    assert logged(moved, "train/contrast_pairs") == pairs
    first, second = logged(moved, "train/contrast_loss")
    assert first == pytest.approx(losses[0]) and abs(second - losses[1]) > 1e-3
    again = run(stage, "contrast-again", "--init_from=contrast-moved", *STILL)
    assert logged(again, "train/contrast_loss") == pytest.approx(losses, rel=1e-4), "another run, another reference"


def test_an_llm_that_knows_no_sound_is_no_reference(stage, whole: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--experiment=contrast-none", "--parents.tokenizer=whole", "--parents.cache=whole"]
    assert stage("run", "caption", *words, "--loss.contrast.weight=1") == 1
    assert "--init_from=EXPERIMENT, or type --loss.contrast.weight=0" in capsys.readouterr().err
    assert stage("run", "openaqa", *words, "--parents.caption=whole", "--loss.contrast.weight=1") == 1
    assert "loss.contrast.weight: 1.0; 0 is allowed where no mixture" in capsys.readouterr().err
