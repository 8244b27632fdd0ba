"""What TensorBoard, Weights & Biases and MLflow show beside numbers: sound, pictures, text. Lightning's loggers share no call for it."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor


def add_sound(loggers: Iterable[object], name: str, waveform: Tensor, sample_rate: int, step: int) -> None:
    """waveform (T) on the CPU at sample_rate Hz, 1 is full scale. A CSV file shows none."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_audio(name, waveform, step, sample_rate)
        elif isinstance(logger, WandbLogger):
            logger.log_audio(name, [waveform.numpy()], step=step, sample_rate=[sample_rate])
        elif isinstance(logger, MLFlowLogger):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"step_{step}.wav"
                soundfile.write(path, waveform.numpy(), sample_rate)
                logger.experiment.log_artifact(logger.run_id, str(path), f"sound/{name}")


def add_picture(loggers: Iterable[object], name: str, picture: Image.Image, step: int) -> None:
    picture = picture.convert("RGB")
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, artifact_file=f"pictures/{name}/step_{step}.png")


def add_text(loggers: Iterable[object], name: str, text: str, step: int) -> None:
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(name, columns=["step", "text"], data=[[str(step), text]], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}/step_{step}.txt")
