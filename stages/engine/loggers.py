"""Where a training's numbers go: TensorBoard, a CSV file, Weights & Biases, MLflow, by Lightning's own loggers."""

import json
import os
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from conf import plain
from conf.errors import UsageError
from conf.sections.common import StageConf, TrainingStageConf
from datamodules.atomic_files import write_whole

PROJECT = "make-some-noise"
IDENTIFIERS = "loggers.json"  # in a run's folder: its names on servers, so that a run that goes on is one run there


def make_loggers(stage: str, conf: TrainingStageConf, folder: Path, restart: bool) -> list[Logger]:
    """The loggers that `trainer.logger` names. A run that goes on is the same run in each; with `restart` it is another.

    Raises UsageError for one whose package is not installed.
    """
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        "csv": lambda: CSVLogger(folder, name="csv"),  # a folder for each start: Lightning's file cannot be continued
        "wandb": lambda: _wandb(stage, conf, folder, known.get("wandb")),
        "mlflow": lambda: _mlflow(stage, conf, known.get("mlflow")),
    }
    for name in conf.trainer.logger:
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise UsageError(f"{stage}: trainer.logger has {name}, which is not installed. Type pip install {name}")
    path = folder / IDENTIFIERS
    known = json.loads(path.read_text()) if path.is_file() and not restart else {}
    return [makers[name]() for name in conf.trainer.logger]


def _wandb(stage: str, conf: TrainingStageConf, folder: Path, identifier: str | None) -> Logger:
    """Project and server by wandb's own variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline."""
    return WandbLogger(
        name=f"{conf.experiment}/{stage}",
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        save_dir=folder,
        id=identifier or uuid.uuid4().hex[:12],
        resume="allow",
        group=conf.experiment,
        job_type=stage,
    )


def _mlflow(stage: str, conf: TrainingStageConf, identifier: str | None) -> Logger:
    """Server by mlflow's own variable, MLFLOW_TRACKING_URI; without it a database beside the experiments."""
    runs = Path(conf.runs).resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=f"{conf.experiment}/{stage}",
        tracking_uri=uri or f"sqlite:///{runs / 'mlflow.db'}",
        artifact_location=None if uri else (runs / "mlflow").as_uri(),
        tags={"experiment": conf.experiment, "stage": stage},
        run_id=identifier,
    )


def begin_logs(loggers: list[Logger], conf: StageConf, folder: Path) -> None:
    """The values of the run, as what each calls its hyperparameters; its names on servers are kept. For rank 0."""
    for logger in loggers:
        logger.log_hyperparams(plain(conf))
    names = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}
    if known := {names[type(logger)]: str(logger.version) for logger in loggers if type(logger) in names}:
        write_whole(folder / IDENTIFIERS, json.dumps(known))
