"""One stage, run: seed, Trainer, logger, callbacks, resume, fit or predict, artifact, receipt: the same lines for every stage."""

import importlib
import logging
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from callbacks.checkpoints import NewestCheckpoints, WholeCheckpointIO
from callbacks.finite import FiniteGradients
from callbacks.ranks import RankWatch
from callbacks.step_seed import StepSeed
from callbacks.stop import Stop, Stopped
from callbacks.stop_callbacks import StopPrediction, StopTraining, largest_over_ranks
from callbacks.throughput import ThroughputLog
from callbacks.training_progress import TrainingProgress
from conf import plain
from conf.errors import UsageError
from conf.sections.common import StageConf, TrainerConf, TrainingStageConf
from datamodules.atomic_files import whole_file
from datamodules.sampler import end_workers
from stages.base import Stage, TrainingStage
from stages.engine import devices, failures, loggers
from stages.engine.distributed import long_barrier
from stages.hub import weights
from stages.runs import failures as run_failures
from stages.runs import graph, lock, receipts, starts
from stages.runs.identity import code_commit
from stages.runs.moved_end import last_step_before_decay
from stages.runs.progress import damaged_checkpoints, newest_checkpoint
from stages.runs.receipts import Receipt
from stages.runs.starts import Start
from stages.runs.state import begin_run, check_finished, check_unfinished, run_folder, state_of
from stages.runs.warm_start import source_of

log = logging.getLogger(__name__)
SOCKET_PATH = 108  # sizeof(sockaddr_un.sun_path) on Linux, with a 0 at its end


def run(
    stage: str, conf: StageConf, stop: Stop, restart: bool = False, begun: Callable[[], None] = lambda: None
) -> Receipt | None:
    """Runs or resumes a stage to its end and returns its receipt; None on the ranks that do not write it.

    begun: called on rank 0 when nothing is refused any more and the run folder is there.

    Raises UsageError for a missing or foreign parent, or bad data; Stopped where `stop` has a reason, when everything is saved.
    """
    _quiet()
    _check_sockets(stage, conf)
    folder = run_folder(conf, stage)
    with ExitStack() as contexts:
        if _is_first():
            contexts.enter_context(lock.claimed(stage, conf))
            run_failures.clear(folder)
        contexts.enter_context(run_failures.kept(folder))
        try:
            return _run(stage, conf, stop, restart, begun)
        except Exception as error:
            end_workers()
            if explained := failures.explained(stage, conf, error):
                raise explained from error
            raise
        except BaseException:
            end_workers()
            raise


def _run(stage: str, conf: StageConf, stop: Stop, restart: bool, begun: Callable[[], None]) -> Receipt | None:
    started = time.monotonic()
    parents = graph.parents(stage, conf)
    source = source_of(stage, conf)
    identity = receipts.identity_of(stage, conf, parents, source)
    first = _is_first()
    folder = run_folder(conf, stage)
    if first and not restart:
        check_finished(stage, conf)
        check_unfinished(stage, conf, identity)
    if conf.threads:
        torch.set_num_threads(conf.threads)
    L.seed_everything(conf.seed, workers=True, verbose=False)

    chosen = devices.precision(conf, folder, restart)
    if first and conf.trainer.precision == "auto":
        log.info("%-14s computes in %s: %s", stage, chosen.value, chosen.reason)
    name, _, attribute = graph.target(stage, conf).partition(":")
    module: Stage = getattr(importlib.import_module(name), attribute)(stage, conf, parents, folder)
    watch = RankWatch(stage)
    logs: list[Logger] = []
    if module.trains:
        assert isinstance(conf, TrainingStageConf)
        logs = loggers.make_loggers(stage, conf, folder, restart)
    trainer = _trainer(stage, conf, folder, module, stop, watch, chosen.value, logs)
    _check_world_size(trainer)
    if first:
        # bad data has been refused by now: nothing is moved or written for it
        begin_run(stage, conf, restart, identity)
        begun()
        starts.note(folder, _start(conf, trainer, chosen.value))
        if conf.trainer.precision == "auto":
            devices.keep(folder, chosen)
        loggers.begin_logs(logs, conf, folder)
        if not module.trains:
            _prediction(trainer).clear()
    _meet(trainer)
    # that of rank 0: another machine may see an older listing of the folder
    newest = trainer.strategy.broadcast(newest_checkpoint(folder))
    if first and source and newest is None:
        log.info("%-14s starts from the weights of %s, with a new optimizer", stage, source.folder)
    if first and (damaged := damaged_checkpoints(folder)):
        names, begin = ", ".join(path.name for path in damaged), newest.name if newest else "the beginning"
        log.warning("%-14s %s is cut short; going on from %s", stage, names, begin)
    try:
        if isinstance(module, TrainingStage):
            assert isinstance(conf, TrainingStageConf)
            data = module.datamodule()
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
            if module.receipt_metrics.validation_due(trainer):
                trainer.validate(module, datamodule=data, verbose=False)
            if trainer.interrupted or trainer.global_step < conf.trainer.max_steps:
                raise KeyboardInterrupt
        else:
            trainer.predict(module, datamodule=module.datamodule(), return_predictions=False)
            with long_barrier():  # ranks have different numbers of batches
                pass
            if reason := largest_over_ranks(trainer, _prediction(trainer).reason):
                raise Stopped(reason)
    except Stopped as stopped:
        _say_stopped(stage, conf, trainer, stop.words(stopped.reason))
        watch.finish()
        if watch.starter:
            raise SystemExit(0) from None
        raise
    except SystemExit:
        if trainer.interrupted:  # Lightning's own end of a KeyboardInterrupt, which says nothing
            raise KeyboardInterrupt from None
        raise
    except (RuntimeError, OSError) as error:
        # a lost connection is how the death of another rank is seen
        if not failures.explained(stage, conf, error) and (dead := watch.wait_for_dead_rank()):
            raise UsageError(f"{stage}: {dead}; {failures.GOES_ON}") from error
        raise
    receipt: Receipt | None = None
    with long_barrier():
        if trainer.is_global_zero:
            part, artifact = folder / ".artifact", folder / "artifact"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            exported = module.export(part)
            shutil.rmtree(artifact, ignore_errors=True)
            part.rename(artifact)
            seconds = time.monotonic() - started
            steps, revisions = trainer.global_step, weights.revisions(conf)
            receipt = receipts.finish(
                stage, conf, folder, parents, *exported, steps, seconds, chosen._asdict(), revisions
            )
    watch.finish()
    return receipt


def _check_sockets(stage: str, conf: StageConf) -> None:
    """Raises UsageError where workers could not hand over their data: they would be waited for, and never come."""
    folder = os.fsencode(tempfile.gettempdir())
    length = len(folder) + len("/pymp-01234567/listener-01234567")  # what multiprocessing appends
    if conf.data.num_workers and length >= SOCKET_PATH:
        raise UsageError(
            f"{stage}: TMPDIR is {len(folder)} bytes long, and workers need a socket in it, whose path ends at {SOCKET_PATH} "
            f"bytes: at most {len(folder) - (length - SOCKET_PATH) - 1} are allowed. Type TMPDIR=/tmp before the command, or "
            "--data.num_workers=0"
        )


def _is_first() -> bool:
    """Whether this is rank 0. Lightning starts the others of a machine with this same command; srun and torchrun start them all."""
    if SLURMEnvironment.detect():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def _start(conf: StageConf, trainer: L.Trainer, precision: str) -> Start:
    return Start(
        began=time.strftime("%FT%T%z"),
        command=shlex.join(["stage", *sys.argv[1:]]),
        host=socket.gethostname(),
        device=devices.device_name(trainer.strategy.root_device),
        ranks=trainer.world_size,
        nodes=trainer.num_nodes,
        precision=precision,
        global_batch=devices.global_batch(conf, trainer.world_size),
        commit=code_commit(),
    )


def _trainer(
    stage: str,
    conf: StageConf,
    folder: Path,
    module: Any,
    stop: Stop,
    watch: RankWatch,
    precision: str,
    logs: Sequence[Logger] = (),
) -> L.Trainer:
    _check_devices(stage, conf.trainer)
    arguments: dict[str, Any] = plain(conf.trainer) | {"precision": precision, "logger": list(logs)}
    arguments["accelerator"] = devices.accelerator(conf.trainer)
    if arguments["strategy"] == "ddp" or (
        arguments["strategy"] == "auto" and (arguments["devices"], arguments["num_nodes"]) != (1, 1)
    ):
        arguments["strategy"] = getattr(module, "strategy", arguments["strategy"])
    callbacks: list[Callback] = [*module.callbacks(), watch]
    if isinstance(module, TrainingStage):
        assert isinstance(conf, TrainingStageConf)
        checkpoints = NewestCheckpoints(
            folder / "checkpoints", **plain(conf.checkpoints), kept=last_step_before_decay(conf)
        )
        callbacks += [
            module.receipt_metrics,
            StepSeed(conf.seed),
            ThroughputLog(),
            TrainingProgress(stage, module.watch),
        ]
        limits = conf.limits
        callbacks += [FiniteGradients(folder, limits.on_nan, limits.nan_in_a_row)]
        callbacks += [StopTraining(stop, checkpoints), checkpoints]
        arguments |= {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "max_epochs": -1}
    else:
        callbacks.append(StopPrediction(stop, folder))
    plugins: list[Any] = [WholeCheckpointIO(whole_file), *_slurm()]
    trainer = L.Trainer(
        **arguments,
        default_root_dir=folder,
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


def _check_devices(stage: str, trainer: TrainerConf) -> None:
    """Raises UsageError for GPUs that are not here, and for several devices of a machine that has none, unless `cpu` is given."""
    name, devices = trainer.accelerator, trainer.devices
    gpu_available = any(kind.is_available() for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator))
    if name in ("gpu", "cuda") and not gpu_available:
        raise UsageError(
            f"{stage}: trainer.accelerator={name}, and there is no GPU here; for the CPU type --trainer.accelerator=cpu"
        )
    if name == "auto" and not gpu_available and isinstance(devices, int) and devices > 1:
        raise UsageError(
            f"{stage}: trainer.devices={devices}, and there is no GPU here; for {devices} processes on the CPU type --trainer.accelerator=cpu"
        )


def _prediction(trainer: L.Trainer) -> StopPrediction:
    return next(callback for callback in trainer.callbacks if isinstance(callback, StopPrediction))  # type: ignore[attr-defined]


def _say_stopped(stage: str, conf: StageConf, trainer: L.Trainer, why: str) -> None:
    if not trainer.is_global_zero:
        return
    if isinstance(conf, TrainingStageConf):
        where = f"step {trainer.global_step} of {conf.trainer.max_steps}"
    else:
        state = state_of(stage, conf)
        where = state.detail if state.word == "partial" else "the beginning"
    log.info("%-14s stopped at %s by %s; the same command goes on", stage, where, why)


def _slurm() -> list[SLURMEnvironment]:
    """Raises UsageError for tasks that srun did not start, or started in a way that Lightning cannot count."""
    if not SLURMEnvironment.detect():
        return []
    if os.environ["SLURM_NTASKS"] != "1" and "SLURM_STEP_ID" not in os.environ:
        raise UsageError(
            f"this job has {os.environ['SLURM_NTASKS']} tasks and srun did not start this process, so it would wait for the others for "
            "ever. In the job type   srun stage run ...   or let `stage submit` write the job"
        )
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:  # --ntasks without --ntasks-per-node
        raise UsageError(str(error)) from None


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
        raise UsageError(
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
        ".*srun. command is available.*",  # one machine of a cluster, used by hand
        ".*predict returned None.*",
        ".*overridden `on_before_batch_transfer` in.*",  # the module plans its loss there, and the data has no hook
        ".*duration mismatch tolerance.*",
        ".*Total length of `.*` across ranks is zero.*",
        ".*eagerly read CutSet.*",
        ".*self.log.*sync_dist=True.*",  # torchmetrics' states and the language losses are summed over ranks before they are logged
        ".*in eval mode at the start.*",
        ".*is_gradient_checkpointing.*",
        ".*gradient_checkpointing_enable. is deprecated.*",  # its new name is younger than our oldest transformers
        ".*weight_norm. is deprecated.*",  # diffusers' Oobleck
    ):
        warnings.filterwarnings("ignore", message)
