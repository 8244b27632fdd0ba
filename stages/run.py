"""One stage, run: seed, Trainer, logger, callbacks, resume, fit or predict, artifact, receipt: the same lines for every stage."""

import importlib
import logging
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from callbacks.checkpoints import NewestCheckpoints
from callbacks.preempted import StopPrediction, StopTraining, agreed
from callbacks.progress import ProgressLine
from callbacks.step_seed import StepSeed
from callbacks.stop import Stop, Stopped
from stages import STAGES, chain, slurm


class StageModule(Protocol):
    """What `run` asks of a stage, beside being a LightningModule."""

    trains: bool  # fit, or predict
    watch: tuple[str, ...]  # logged values that the progress line shows

    def __init__(self, stage: str, conf: dict[str, Any], parents: dict[str, chain.Parent], folder: Path) -> None: ...

    def datamodule(self) -> L.LightningDataModule: ...

    def callbacks(self) -> list[Callback]: ...

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Writes the artifact; returns (facts, metrics) for the receipt."""
        ...


def run(stage: str, conf: dict[str, Any], stop: Stop, restart: bool = False) -> dict[str, Any]:
    """Runs or resumes a stage to its end and returns its receipt.

    Raises ValueError for a missing or foreign parent, or bad data; Stopped where `stop` has a reason, when everything is saved and said.
    """
    _quiet()
    started = time.monotonic()
    parents = chain.parents(stage, conf)
    # Lightning, or srun, starts the other ranks with this same command.
    first = os.environ.get("LOCAL_RANK", "0") == "0" and slurm.task() == 0
    folder = chain.run_folder(conf, stage)
    if first and not restart:
        chain.check_unfinished(stage, conf)
    if conf["threads"]:
        torch.set_num_threads(conf["threads"])
    L.seed_everything(conf["seed"], workers=True, verbose=False)

    name, _, attribute = STAGES[stage].target.partition(":")
    module: Any = getattr(importlib.import_module(name), attribute)(stage, conf, parents, folder)
    trainer = _trainer(stage, conf, folder, module, stop)
    _check_world_size(trainer)
    if first:
        chain.begin(stage, conf, restart)  # bad data has been refused by now: nothing is moved or written for it
        if not module.trains:
            _prediction(trainer).clear()
    _meet(trainer)
    module.prepare_data_per_node = False  # the nodes share the run folder
    try:
        if module.trains:
            trainer.fit(
                module, datamodule=module.datamodule(), ckpt_path=chain.newest_checkpoint(folder), weights_only=True
            )
            if trainer.interrupted or trainer.global_step < conf["trainer"]["max_steps"]:
                raise KeyboardInterrupt
        else:
            trainer.predict(module, datamodule=module.datamodule(), return_predictions=False)
            if reason := agreed(trainer, _prediction(trainer).reason):
                raise Stopped(reason)
    except Stopped as stopped:
        _say_stopped(stage, conf, trainer, stop.words(stopped.reason))
        _end_together(trainer, stopped)
    trainer.strategy.barrier()  # what every rank writes is there
    receipt: dict[str, Any] = {}
    if trainer.is_global_zero:
        part, artifact = folder / ".artifact", folder / "artifact"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        facts, metrics = module.export(part)
        shutil.rmtree(artifact, ignore_errors=True)
        part.rename(artifact)
        receipt = chain.finish(
            stage, conf, folder, parents, facts, metrics, trainer.global_step, time.monotonic() - started
        )
    trainer.strategy.barrier()
    return receipt


def _trainer(stage: str, conf: dict[str, Any], folder: Path, module: Any, stop: Stop) -> L.Trainer:
    arguments = conf["trainer"] | {"precision": precision(conf["trainer"])}
    callbacks: list[Callback] = module.callbacks()
    logger: TensorBoardLogger | bool = False
    if module.trains:
        logger = TensorBoardLogger(folder, name="tensorboard", version="")
        checkpoints = NewestCheckpoints(folder / "checkpoints", **conf["checkpoints"])
        callbacks += [StepSeed(conf["seed"]), ProgressLine(stage, module.watch)]
        callbacks += [StopTraining(stop, checkpoints), checkpoints]
        arguments |= {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "max_epochs": -1}
    else:
        callbacks.append(StopPrediction(stop, folder))
    plugins = _slurm()
    trainer = L.Trainer(
        **arguments,
        default_root_dir=folder,
        logger=logger,
        callbacks=callbacks,
        plugins=plugins,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=module.trains,
        inference_mode=False,
    )
    # Lightning's handler of SIGTERM waits in a collective for ranks that may not have the signal, and its loop then ends without a checkpoint.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _prediction(trainer: L.Trainer) -> StopPrediction:
    return next(callback for callback in trainer.callbacks if isinstance(callback, StopPrediction))  # type: ignore[attr-defined]


def _say_stopped(stage: str, conf: dict[str, Any], trainer: L.Trainer, why: str) -> None:
    if not trainer.is_global_zero:
        return
    if "max_steps" in conf["trainer"]:
        where = f"step {trainer.global_step} of {conf['trainer']['max_steps']}"
    else:
        state = chain.state(stage, conf)
        where = state.detail if state.word == "partial" else "the beginning"
    print(f"{stage:<14} stopped at {where} by {why}; the same command goes on", flush=True)


def _end_together(trainer: L.Trainer, stopped: Stopped) -> NoReturn:
    """The ranks that Lightning started end with 0, for it kills all where one does not, and before the one that started them."""
    launcher: Any = trainer.strategy.launcher
    if launcher is None or launcher.cluster_environment.creates_processes_externally:
        raise stopped
    if trainer.local_rank:
        raise SystemExit(0)
    for process in launcher.procs:
        process.wait(timeout=60)
    raise stopped


def precision(trainer: dict[str, Any]) -> str:
    """`auto`: bf16-mixed where the processor multiplies bfloat16 itself, else 32-true. On a CPU without it bf16 is slower than float32."""
    if trainer["precision"] != "auto":
        return trainer["precision"]
    if trainer["accelerator"] != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _cpu_flag("avx512_bf16", "amx_bf16")
    return "bf16-mixed" if native else "32-true"


def _cpu_flag(*names: str) -> bool:
    """Whether the processor names one of these features; False where the system does not say (not Linux)."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and bool(set(names) & set(path.read_text().split()))


def _slurm() -> list[SLURMEnvironment]:
    """Raises ValueError for tasks that srun did not start, or started in a way that Lightning cannot count."""
    if not SLURMEnvironment.detect():
        return []
    if os.environ["SLURM_NTASKS"] != "1" and "SLURM_STEP_ID" not in os.environ:
        raise ValueError(
            f"this job has {os.environ['SLURM_NTASKS']} tasks and srun did not start this process, so it would wait for the others for "
            "ever. In the job type   srun stage run ...   or let `stage submit` write the job"
        )
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:  # --ntasks without --ntasks-per-node
        raise ValueError(str(error)) from None


def _meet(trainer: L.Trainer) -> None:
    """Ranks that srun started side by side: none looks into the run folder before the first has begun it. Lightning's own begin after it."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and not isinstance(environment, LightningEnvironment):
        trainer.strategy.setup_environment()
        trainer.strategy.barrier()


def _check_world_size(trainer: L.Trainer) -> None:
    """A job started inside sbatch without srun would silently train on a part of the data."""
    wanted = trainer.num_nodes * trainer.num_devices
    if trainer.world_size != wanted:
        raise ValueError(
            f"{wanted} processes were asked for (num_nodes {trainer.num_nodes} x devices {trainer.num_devices}) and "
            f"{trainer.world_size} are there. Under SLURM start one task a device: srun stage run ..."
        )


def _quiet() -> None:
    """Lightning's hints that do not concern a user of `stage`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`srun` command is available.*",
        ".*exists and is not empty.*",
        ".*No positive class.*",
        ".*`isinstance.treespec.*",
        ".*predict returned None.*",
        ".*duration mismatch tolerance.*",
        ".*srun. command is available.*",
        ".*eagerly read CutSet.*",
        ".*in eval mode at the start.*",
        ".*is_gradient_checkpointing.*",
        ".*gradient_checkpointing_enable. is deprecated.*",  # its new name is younger than our oldest transformers
        ".*weight_norm. is deprecated.*",  # diffusers' Oobleck
    ):
        warnings.filterwarnings("ignore", message)
