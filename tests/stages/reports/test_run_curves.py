"""Curves of a run: what its loggers wrote, without the sounds between the numbers, and through a kill."""

from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from stages.reports import run_curves


def test_numbers_are_read_between_sounds_and_behind_a_kill(tmp_path: Path):
    for value in (1.0, 2.0):
        logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
        for step in range(int(value), 4):
            logger.log_metrics({"train/loss": value * step, "val/text_loss": float("nan"), "lr": 1.0}, step)
            logger.experiment.add_audio("a sound", torch.zeros(8000), step, 8000)
        logger.experiment.close()
        last = max((tmp_path / "tensorboard").glob("events*"), key=lambda path: path.stat().st_mtime_ns)
        with last.open("ab") as file:
            file.write(b"\x10\0\0\0\0\0\0\0\0\0\0\0torn")
        last.rename(last.with_name(f"events.out.tfevents.{int(value)}"))
    assert run_curves.read(tmp_path) == {"train/loss": [(1, 1.0), (2, 4.0), (3, 6.0)]}, "what was trained again counts"


def test_a_csv_does_as_well_and_many_points_are_thinned(tmp_path: Path):
    logger = CSVLogger(tmp_path, name="csv")
    for step in range(3 * run_curves.MOST_POINTS):
        logger.log_metrics({"train/loss": 0.5}, step)
    logger.log_metrics({"val/latent_nmse": 0.25}, 7)
    logger.save()
    lines = run_curves.read(tmp_path)
    assert len(lines["train/loss"]) == run_curves.MOST_POINTS and lines["val/latent_nmse"] == [(7, 0.25)]
    assert run_curves.read(tmp_path / "none") == {}
