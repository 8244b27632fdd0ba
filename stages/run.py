"""One stage, run: seed, Trainer, logger, callbacks, resume, fit or predict, artifact, receipt: the same lines for every stage."""

import importlib
import logging
import os
import shutil
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from callbacks.checkpoints import NewestCheckpoints
from callbacks.progress import ProgressLine
from callbacks.step_seed import StepSeed
from callbacks.terminated import EndOnTerm
from stages import STAGES, chain, claim

RANKS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
)  # 0 or not there in the first process of a run


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


def run(stage: str, conf: dict[str, Any], restart: bool = False) -> dict[str, Any]:
    """Runs or resumes a stage to its end and returns its receipt. Raises ValueError for a missing or foreign parent, or bad data."""
    _quiet()
    with ExitStack() as held:
        if all(os.environ.get(name, "0") == "0" for name in RANKS):
            held.enter_context(claim.claimed(stage, conf))
        return _run(stage, conf, restart)


def _run(stage: str, conf: dict[str, Any], restart: bool) -> dict[str, Any]:
    started = time.monotonic()
    parents = chain.parents(stage, conf)
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # Lightning starts the other ranks with this same command
    folder = chain.run_folder(conf, stage)
    if first and not restart:
        chain.check_unfinished(stage, conf)
    if conf["threads"]:
        torch.set_num_threads(conf["threads"])
    L.seed_everything(conf["seed"], workers=True, verbose=False)

    name, _, attribute = STAGES[stage].target.partition(":")
    module: Any = getattr(importlib.import_module(name), attribute)(stage, conf, parents, folder)
    trainer = _trainer(stage, conf, folder, module)
    _check_world_size(trainer)
    if first:
        chain.begin(stage, conf, restart)  # bad data has been refused by now: nothing is moved or written for it
    if module.trains:
        trainer.fit(
            module, datamodule=module.datamodule(), ckpt_path=chain.newest_checkpoint(folder), weights_only=True
        )
        if trainer.interrupted or trainer.global_step < conf["trainer"]["max_steps"]:
            raise KeyboardInterrupt
    else:
        trainer.predict(module, datamodule=module.datamodule(), return_predictions=False)
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


def _trainer(stage: str, conf: dict[str, Any], folder: Path, module: Any) -> L.Trainer:
    arguments = conf["trainer"] | {"precision": precision(conf["trainer"])}
    callbacks: list[Callback] = [*module.callbacks(), EndOnTerm()]
    logger: TensorBoardLogger | bool = False
    if module.trains:
        logger = TensorBoardLogger(folder, name="tensorboard", version="")
        checkpoints = NewestCheckpoints(folder / "checkpoints", **conf["checkpoints"])
        callbacks += [StepSeed(conf["seed"]), ProgressLine(stage, module.watch), checkpoints]
        arguments |= {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "max_epochs": -1}
    plugins = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return L.Trainer(
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
        ".*exists and is not empty.*",
        ".*No positive class.*",
        ".*`isinstance.treespec.*",
        ".*predict returned None.*",
        ".*duration mismatch tolerance.*",
        ".*eagerly read CutSet.*",
        ".*in eval mode at the start.*",
        ".*is_gradient_checkpointing.*",
        ".*gradient_checkpointing_enable. is deprecated.*",  # its new name is younger than our oldest transformers
        ".*weight_norm. is deprecated.*",  # diffusers' Oobleck
    ):
        warnings.filterwarnings("ignore", message)
