"""The same numbers go to every logger, and a training that goes on is one run in each."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.stop import Stopped

TRAINING = ["--trainer.log_every_n_steps=2", "--trainer.val_check_interval=3", "--parents.latents=whole"]


def _board(folder: Path) -> dict[tuple[str, int], float]:
    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    tags = log.Tags()["scalars"]
    return {(tag, scalar.step): scalar.value for tag in tags for scalar in log.Scalars(tag)}


def _csv(path: Path) -> dict[tuple[str, int], float]:
    rows = list(csv.DictReader(path.open()))
    return {(tag, int(row["step"])): float(row[tag]) for row in rows for tag in row if tag != "step" and row[tag]}


def test_a_csv_file_has_tensorboards_numbers_and_the_configuration(tones: Path, whole: Path, stage: Callable[..., int]):
    words = ["--experiment=logged-csv", "--trainer.logger=[tensorboard,csv]", "--trainer.max_steps=4", *TRAINING]
    assert stage("run", "tokenizer", *words) == 0
    folder = tones / "runs/logged-csv/tokenizer"
    board, table = _board(folder), _csv(folder / "csv/version_0/metrics.csv")
    shared = {key: value for key, value in board.items() if key[0] not in ("hp_metric", "epoch")}
    assert {tag for tag, _ in shared} >= {"train/loss", "val/latent_nmse", "throughput/items_per_second"}
    assert {key: table[key] for key in shared} == pytest.approx(shared, rel=1e-6)
    assert "max_steps: 4" in (folder / "csv/version_0/hparams.yaml").read_text()


def test_no_logger_at_all_trains(tones: Path, whole: Path, stage: Callable[..., int]):
    words = ["--experiment=logged-none", "--trainer.logger=[]", "--trainer.max_steps=2", *TRAINING]
    assert stage("run", "tokenizer", *words) == 0
    folder = tones / "runs/logged-none/tokenizer"
    assert (folder / "receipt.json").is_file() and not (folder / "tensorboard").exists()


def test_another_logger_is_refused_with_those_that_there_are(
    whole: Path, stage: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert stage("run", "tokenizer", "--experiment=logged-x", "--trainer.logger=[comet]", *TRAINING) == 1
    message = capsys.readouterr().err
    assert "comet" in message and "tensorboard" in message and "wandb" in message


def test_wandb_has_one_run_of_a_training_that_goes_on_and_shows_its_sounds(
    tones: Path, whole: Path, stage: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["--experiment=logged-wandb", "--trainer.logger=[wandb]", "--trainer.max_steps=4", *TRAINING]
    with pytest.raises(Stopped):
        stage("run", "tokenizer", *words, "--limits.seconds=1")
    folder = tones / "runs/logged-wandb/tokenizer"
    first = json.loads((folder / "loggers.json").read_text())
    assert stage("run", "tokenizer", *words) == 0
    assert json.loads((folder / "loggers.json").read_text()) == first
    assert {path.name.rsplit("-", 1)[-1] for path in (folder / "wandb").glob("offline-run-*")} == {first["wandb"]}
    assert list((folder / "wandb").glob("offline-run-*/files/media/audio/**/*.wav"))
    assert list((folder / "wandb").glob("offline-run-*/files/media/images/**/*.png"))


def test_mlflow_has_tensorboards_numbers_in_one_run(
    tones: Path, whole: Path, stage: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["--experiment=logged-mlflow", "--trainer.logger=[tensorboard,mlflow]", "--trainer.max_steps=4", *TRAINING]
    assert stage("run", "tokenizer", *words) == 0
    folder = tones / "runs/logged-mlflow/tokenizer"
    client = mlflow.MlflowClient(f"sqlite:///{tones.resolve() / 'runs/mlflow.db'}")
    identifier = json.loads((folder / "loggers.json").read_text())["mlflow"]
    run = client.get_run(identifier)
    assert run.info.run_name == "logged-mlflow/tokenizer" and run.data.params["trainer/max_steps"] == "4"
    history = client.get_metric_history(identifier, "train/loss")
    board = {step: value for (tag, step), value in _board(folder).items() if tag == "train/loss"}
    assert {one.step: one.value for one in history} == pytest.approx(board, rel=1e-6)
    assert [one.path for one in client.list_artifacts(identifier)] == ["pictures", "sound"]
